"""Law 1: desired rows depend only on the objects now known, not on the order or the way they came."""

import random

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.model.events import ObjectEvent, ServiceUpserted
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.rows import Rows
from tests.builders import service, site
from tests.laws.histories import batches, known


def compiler() -> Compiler:
    """A compiler whose Site follows the Node, as the agent's does."""

    def make_site(node: Node | None, _addresses: tuple[HostAddress, ...]) -> object:
        if node is None:
            return site()
        ips = {("IPv6" if ":" in a else "IPv4"): a for a in node.addresses}
        return site(zone=node.zone, node_ips=ips)

    return Compiler(make_site)  # type: ignore[arg-type]


@given(history=batches, seed=st.integers())
def test_desired_rows_are_the_same_by_every_path(history: list[list[ObjectEvent]], seed: int) -> None:
    lived = compiler()
    for batch in history:
        for event in batch:
            lived.handle_event(event)
        lived.compile()

    newborn = compiler()
    objects = known(event for batch in history for event in batch)
    random.Random(seed).shuffle(objects)
    for event in objects:
        newborn.handle_event(event)
    newborn.compile()

    assert lived.desired.rows == newborn.desired.rows
    assert {key: lived.desired.owners(key) for key in lived.desired.rows} == {
        key: newborn.desired.owners(key) for key in newborn.desired.rows
    }


@given(history=batches)
def test_changed_keys_name_every_change(history: list[list[ObjectEvent]]) -> None:
    made = compiler()
    before: Rows = {}
    for batch in history:
        for event in batch:
            made.handle_event(event)
        changed = set(made.compile())
        now = dict(made.desired.rows)
        differing = {key for key in (*before, *now) if (key in before, before.get(key)) != (key in now, now.get(key))}
        assert differing <= changed
        before = now


def test_hearing_everything_again_changes_nothing() -> None:
    made = compiler()
    made.handle_event(ServiceUpserted(service()))
    made.compile()
    made.handle_event(ServiceUpserted(service()))
    assert made.compile() == []
