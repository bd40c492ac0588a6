"""Law 1: desired rows depend only on the objects now known, not on the order of their events."""

import random
from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.service import compile_service
from kubeproxy_py.model.events import NodeUpserted, ObjectEvent, ServiceDeleted, ServiceUpserted
from kubeproxy_py.model.refusal import REASONS, Refusal
from kubeproxy_py.model.rows import Rows, VirtualServer
from kubeproxy_py.model.services import ServiceName
from tests.builders import service
from tests.laws.compilers import compiler
from tests.laws.histories import batches, known


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
    assert holders(incremental) == holders(fresh)
    assert list(incremental.refusals) == list(fresh.refusals)
    assert incremental.refusals.counts() == fresh.refusals.counts() == counted(fresh.refusals)


def counted(refusals: Iterable[Refusal]) -> dict[str, int]:
    counts = Counter(refusal.reason for refusal in refusals)
    return {reason: counts[reason] for reason in REASONS}


def holders(of: Compiler) -> dict[VirtualServer, ServiceName | None]:
    return {key: of.claims.holder(key) for key in of.desired.rows if isinstance(key, VirtualServer)}


@given(history=batches)
def test_every_virtual_server_is_that_of_its_holder_alone(history: list[list[ObjectEvent]]) -> None:
    incremental = compiler()
    for batch in history:
        for event in batch:
            incremental.handle_event(event)
        incremental.compile()
    for name, given_service in incremental.cluster.services.items():
        alone = compile_service(
            given_service,
            incremental.cluster.slices_of(name),
            incremental.context,
            taken=incremental.cluster.taken,
            lost=incremental.claims.lost_by(name),
            conditions=incremental.cluster.conditions_of(name),
            labels=incremental.cluster.labels,
        )
        assert {key for key in alone if isinstance(key, VirtualServer)} == set(incremental.claims.held_by(name))
        assert alone.items() <= incremental.desired.rows.items()


@given(history=batches)
def test_no_row_of_a_service_is_left_after_all_are_deleted(history: list[list[ObjectEvent]]) -> None:
    incremental, nothing = compiler(), compiler()
    nothing.compile()
    for event in (event for batch in history for event in batch if not isinstance(event, NodeUpserted)):
        incremental.handle_event(event)
        incremental.compile()
    for name in list(incremental.cluster.services):
        incremental.handle_event(ServiceDeleted(name))
    incremental.compile()
    assert incremental.desired.rows == nothing.desired.rows
    assert list(incremental.refusals) == []
    assert set(incremental.refusals.counts().values()) == {0}


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
