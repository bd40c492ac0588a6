"""Law 5, in the compiler: a Service that brings out a bug keeps its last rows, and all others follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.compile import compiler as module
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.service import compile_parts
from kubeproxy_py.model.events import ObjectEvent
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.model.services import Service, ServiceName
from tests.laws.histories import batches, known
from tests.laws.test_path_does_not_matter import compiler

NAMES = st.sampled_from([ServiceName("shop", text) for text in ("api", "cart", "db", "web")])


@contextmanager
def bug_in(broken: ServiceName) -> Iterator[None]:
    """Have compiling the Service *broken* raise."""

    def compile_or_fail(service: Service, *arguments: Any, **options: Any) -> list[Rows]:
        if service.name == broken:
            raise RuntimeError("a bug")
        return compile_parts(service, *arguments, **options)

    with mock.patch.object(module, "compile_parts", compile_or_fail):
        yield


def compiled(events: list[ObjectEvent]) -> Compiler:
    fresh = compiler()
    for event in events:
        fresh.handle_event(event)
    fresh.compile()
    return fresh


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
            assert incremental.desired.rows_of(broken) == last_rows
    fresh = compiled(known(event for batch in history for event in batch))
    for name in fresh.cluster.services.keys() - {broken}:
        assert incremental.desired.rows_of(name) == fresh.desired.rows_of(name)
    assert not incremental.has_work()


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
