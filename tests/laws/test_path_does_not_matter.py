"""Law 1: desired rows depend only on the objects now known, not on the order of their events."""

import random

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.model.events import ObjectEvent, ServiceUpserted
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.rows import Rows
from tests.builders import node_context, service
from tests.laws.histories import batches, known


def compiler() -> Compiler:
    """A compiler whose NodeContext follows the Node, as the agent's does."""

    def make_context(node: Node | None, _addresses: tuple[HostAddress, ...]) -> object:
        if node is None:
            return node_context()
        ips = {("IPv6" if ":" in a else "IPv4"): a for a in node.addresses}
        return node_context(zone=node.zone, node_ips=ips)

    return Compiler(make_context)  # type: ignore[arg-type]


@given(history=batches, seed=st.integers())
def test_desired_rows_do_not_depend_on_the_order_of_events(history: list[list[ObjectEvent]], seed: int) -> None:
    incremental = compiler()
    for batch in history:
        for event in batch:
            incremental.handle_event(event)
        incremental.compile()

    fresh = compiler()
    objects = known(event for batch in history for event in batch)
    random.Random(seed).shuffle(objects)
    for event in objects:
        fresh.handle_event(event)
    fresh.compile()

    assert incremental.desired.rows == fresh.desired.rows
    assert {key: incremental.desired.owners(key) for key in incremental.desired.rows} == {
        key: fresh.desired.owners(key) for key in fresh.desired.rows
    }


@given(history=batches)
def test_changed_keys_include_every_change(history: list[list[ObjectEvent]]) -> None:
    incremental = compiler()
    before: Rows = {}
    for batch in history:
        for event in batch:
            incremental.handle_event(event)
        changed = set(incremental.compile())
        now = dict(incremental.desired.rows)
        differing = {key for key in (*before, *now) if (key in before, before.get(key)) != (key in now, now.get(key))}
        assert differing <= changed
        before = now


def test_repeated_event_changes_nothing() -> None:
    incremental = compiler()
    incremental.handle_event(ServiceUpserted(service()))
    incremental.compile()
    incremental.handle_event(ServiceUpserted(service()))
    assert incremental.compile() == []
