"""Whatever fails, at least half of the real servers of each virtual server get new connections."""

from collections import Counter

from hypothesis import given

from kubeproxy_py.model.events import ObjectEvent
from kubeproxy_py.model.rows import RealServer, RealServerSpec
from tests.laws.compilers import compiler
from tests.laws.histories import batches


@given(history=batches)
def test_half_of_the_real_servers_get_new_connections(history: list[list[ObjectEvent]]) -> None:
    incremental = compiler()
    for batch in history:
        for event in batch:
            incremental.handle_event(event)
        incremental.compile()
        rows = incremental.desired.rows.items()
        specs = [(key, spec) for key, spec in rows if isinstance(key, RealServer) and isinstance(spec, RealServerSpec)]
        present = Counter(key.virtual_server for key, _ in specs)
        serving = Counter(key.virtual_server for key, spec in specs if spec.weight)
        assert all(2 * serving[server] >= count for server, count in present.items())
