"""Law 5, in the compiler: a Service that brings out a bug keeps its last rows, and all others follow.

Where another Service is served by now, it keeps none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.compile import compiler as module
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.last_rows import without_frontends
from kubeproxy_py.compile.service import compile_parts
from kubeproxy_py.model.events import ObjectEvent, ServiceUpserted
from kubeproxy_py.model.rows import RealServer, Rows, VirtualServer
from kubeproxy_py.model.services import Service, ServiceName
from tests.builders import port, service
from tests.laws.compilers import compiler
from tests.laws.histories import batches, known

NAMES = st.sampled_from([ServiceName("shop", text) for text in ("api", "cart", "db", "web")])


@contextmanager
def bug_in(broken: ServiceName) -> Iterator[None]:
    """Have compiling the Service *broken* raise."""

    def compile_or_fail(given_service: Service, *arguments: Any, **options: Any) -> list[Rows]:
        if given_service.name == broken:
            raise RuntimeError("a bug")
        return compile_parts(given_service, *arguments, **options)

    with mock.patch.object(module, "compile_parts", compile_or_fail):
        yield


def compiled(events: list[ObjectEvent]) -> Compiler:
    fresh = compiler()
    for event in events:
        fresh.handle_event(event)
    fresh.compile()
    return fresh


def held_by_others(of: Compiler, broken: ServiceName, rows: Rows) -> list[VirtualServer]:
    """Return the virtual servers of *rows* whose frontends others than *broken* hold."""
    servers = [key for key in rows if isinstance(key, VirtualServer)]
    return [server for server in servers if of.claims.holder(server) not in (None, broken)]


def rows_at(server: VirtualServer, rows: Rows) -> Rows:
    """Return *server* and its real servers."""
    return {
        key: spec
        for key, spec in rows.items()
        if key == server or (isinstance(key, RealServer) and key.virtual_server == server)
    }


@given(history=batches, broken=NAMES, good_batches=st.integers(0, 3))
def test_all_others_follow_while_one_cannot_be_compiled(
    history: list[list[ObjectEvent]], broken: ServiceName, good_batches: int
) -> None:
    incremental = compiler()
    for batch in history[:good_batches]:
        for event in batch:
            incremental.handle_event(event)
        incremental.compile()
    last_rows = incremental.desired.rows_of(broken)
    with bug_in(broken):
        for batch in history[good_batches:]:
            for event in batch:
                incremental.handle_event(event)
            incremental.compile()
            if broken not in incremental.cluster.services:
                last_rows = {}
            last_rows = without_frontends(last_rows, held_by_others(incremental, broken, last_rows))
            assert incremental.desired.rows_of(broken) == last_rows
    fresh = compiled(known(event for batch in history for event in batch))
    for name in fresh.cluster.services.keys() - {broken}:
        assert incremental.desired.rows_of(name) == fresh.desired.rows_of(name)
        for server in fresh.claims.held_by(name):
            assert rows_at(server, incremental.desired.rows) == rows_at(server, fresh.desired.rows_of(name))
    assert not incremental.has_work()


@given(history=batches, broken=NAMES, data=st.data())
def test_frontend_that_another_service_asks_for_with_a_better_claim_is_left_to_it(
    history: list[list[ObjectEvent]], broken: ServiceName, data: st.DataObject
) -> None:
    incremental = compiled([event for batch in history for event in batch])
    last_rows = incremental.desired.rows_of(broken)
    servers = [key for key in last_rows if isinstance(key, VirtualServer)]
    if not servers:
        return
    wanted = data.draw(st.sampled_from(servers))
    taker = service("taker", (wanted.address,), (port(wanted.port, wanted.protocol),), created_s=0.0)
    with bug_in(broken):
        incremental.handle_event(ServiceUpserted(taker))
        changed = incremental.compile()
    left = incremental.desired.rows_of(broken)
    assert [server for server in servers if server not in left] == [wanted]
    assert rows_at(wanted, incremental.desired.rows) == rows_at(wanted, incremental.desired.rows_of(taker.name))
    assert {key for key in last_rows if key not in incremental.desired.rows} <= set(changed)


@given(history=batches, broken=NAMES)
def test_it_is_compiled_again_when_it_changes(history: list[list[ObjectEvent]], broken: ServiceName) -> None:
    incremental = compiler()
    with bug_in(broken):
        for event in (event for batch in history for event in batch):
            incremental.handle_event(event)
            incremental.compile()
    incremental.cluster.mark_all_dirty()
    incremental.compile()
    fresh = compiled(known(event for batch in history for event in batch))
    assert incremental.desired.rows == fresh.desired.rows
    assert incremental.failed == {}
