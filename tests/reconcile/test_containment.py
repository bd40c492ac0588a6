"""One object, or one report, that triggers a bug does not stop the sync of the others."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from kubeproxy_py.compile import compiler as compiler_module
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.health import service_state
from kubeproxy_py.compile.service import compile_parts
from kubeproxy_py.model.events import NodeUpserted, ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import Address, RealServer, VirtualServer
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.reconcile import loop as loop_module
from kubeproxy_py.reconcile.loop import Loop
from tests.builders import endpoint_slice, name, node_context, port, service
from tests.reconcile.harness import POD, SERVER, AgentHarness, serving

OTHER = service("other", cluster_ips=("10.96.0.20",))
OTHER_SERVER = VirtualServer("10.96.0.20", 80, "TCP")


@contextmanager
def bug_in(function: str, broken: ServiceName, error: Exception) -> Iterator[None]:
    """Have *function* of the compiler raise *error* for the Service *broken*."""
    original = getattr(compiler_module, function)

    def fail_for_one(first: object, *arguments: object, **options: object) -> object:
        if broken in (first, getattr(first, "name", None)):
            raise error
        return original(first, *arguments, **options)

    with mock.patch.object(compiler_module, function, fail_for_one):
        yield


class Failures:
    """Records what the compiler reports."""

    def __init__(self, harness: AgentHarness) -> None:
        self.reported: list[tuple[ServiceName | None, Exception]] = []
        harness.agent.compiler._on_failure = lambda name, error: self.reported.append((name, error))


def pods(harness: AgentHarness) -> set[str]:
    return {key.address for key in harness.kernel.rows if isinstance(key, RealServer)}


@pytest.mark.parametrize("function", [compile_parts.__name__, service_state.__name__])
def test_a_service_that_cannot_be_compiled_keeps_its_rows_and_all_others_follow(function: str) -> None:
    harness = serving()
    failures = Failures(harness)
    error = RuntimeError("a bug")
    with bug_in(function, name("web"), error):
        harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.9"])), ServiceUpserted(OTHER))
        assert pods(harness) == {"10.244.1.5"}
        assert OTHER_SERVER in harness.kernel.rows
        assert harness.agent.state.is_adopted  # nothing is read again
        assert harness.agent.status().uncompiled == 1
        harness.handle(ServiceDeleted(OTHER.name))
        assert OTHER_SERVER not in harness.kernel.rows
        assert failures.reported == [(name("web"), error)]
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.7"])))
    assert pods(harness) == {"10.244.1.5", "10.244.1.7"}  # the first one drains
    assert harness.agent.status().uncompiled == 0


def test_the_same_failure_is_reported_once_until_the_service_is_compiled() -> None:
    harness = serving()
    failures = Failures(harness)
    for _ in range(2):
        with bug_in("compile_parts", name("web"), RuntimeError("a bug")):
            for address in ("10.244.1.9", "10.244.1.8"):
                harness.handle(SliceUpserted(endpoint_slice(endpoints=[address])))
        harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.7"])))
    assert len(failures.reported) == 2


def test_a_service_that_is_deleted_is_no_failure_any_more() -> None:
    harness = serving()
    with bug_in("compile_parts", name("web"), RuntimeError("a bug")):
        harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.9"])))
        harness.handle(ServiceDeleted(name("web")))
    assert pods(harness) == set()
    assert harness.agent.status().uncompiled == 0


def test_a_node_that_brings_out_a_bug_does_not_stop_services() -> None:
    harness = serving()
    failures = Failures(harness)
    make_context = harness.agent.compiler._make_context
    harness.agent.compiler._make_context = lambda _node, _addresses: 1 / 0  # type: ignore[assignment,return-value]
    harness.handle(NodeUpserted(Node("node-a")), ServiceUpserted(OTHER))
    assert OTHER_SERVER in harness.kernel.rows
    assert [reported for reported, _ in failures.reported] == [None]
    harness.agent.compiler._make_context = make_context
    harness.handle(NodeUpserted(Node("node-a", zone="z")))
    assert harness.agent.status().uncompiled == 0


def test_a_restart_keeps_what_the_predecessor_programmed_for_a_service_that_cannot_be_compiled() -> None:
    objects = [
        ServiceUpserted(service(ports=[port(node_port=30080)], type="NodePort")),
        SliceUpserted(endpoint_slice()),
        ServiceUpserted(OTHER),
    ]
    before = AgentHarness()
    before.handle(*objects)
    after = AgentHarness(dict(before.kernel.rows))
    with bug_in("compile_parts", name("web"), RuntimeError("a bug")):
        after.handle(*objects)
        after.advance(31)
        assert after.kernel.rows == before.kernel.rows
        assert after.applied_steps() == []
        after.handle(ServiceDeleted(OTHER.name))
        assert OTHER_SERVER not in after.kernel.rows
    after.handle(ServiceDeleted(name("web")))
    assert not [key for key in after.kernel.rows if isinstance(key, VirtualServer | RealServer | Address)]


def test_an_error_outside_of_the_guard_is_not_met_again() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",)))
    compiler.handle_event(ServiceUpserted(service()))
    compiler.handle_event(ServiceUpserted(OTHER))
    with mock.patch.object(compiler.desired, "replace", side_effect=RuntimeError("a bug")), pytest.raises(RuntimeError):
        compiler.compile()
    compiler.compile()
    assert OTHER_SERVER in compiler.desired.rows


def fail(*_arguments: object) -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("callback", ["problem", "compiled", "disputed"])
def test_a_report_that_fails_does_not_stop_the_sync(callback: str, caplog: pytest.LogCaptureFixture) -> None:
    harness = serving()
    setattr(harness.agent, f"_on_{callback}", fail)
    for _ in range(3):
        del harness.kernel.rows[SERVER], harness.kernel.rows[POD]
        harness.advance(31)
    harness.handle(Problem("x"), ServiceUpserted(OTHER))
    assert {SERVER, POD, OTHER_SERVER} <= harness.kernel.rows.keys()
    assert harness.agent.state.is_adopted
    assert "Internal error in a callback" in caplog.text


class FailingObserver:
    on_event = on_report = on_cycle_end = staticmethod(fail)

    def on_pending_since(self, since_s: float | None) -> None: ...


def test_observers_that_fail_do_not_stop_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    harness = AgentHarness()
    loop = Loop(harness.agent, on_report=fail, observer=FailingObserver())
    loop.enqueue(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    with mock.patch.object(loop_module, "monotonic", lambda: harness.now_s):
        loop.run_cycle()
    assert pods(harness) == {"10.244.1.5"}
    assert harness.agent.state.is_adopted
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) >= 4


def test_stale_flows_that_bring_out_a_bug_do_not_stop_the_sync() -> None:
    harness = serving()
    harness.handle(ServiceUpserted(service("dns", ("10.96.0.53",), [port(53, "UDP")])))
    harness.kernel.udp_flows = fail  # type: ignore[method-assign,assignment]
    harness.handle(SliceUpserted(endpoint_slice("dns", protocol="UDP")))
    harness.run_all_due()
    assert harness.agent.state.is_adopted
    harness.handle(ServiceUpserted(OTHER))
    assert OTHER_SERVER in harness.kernel.rows
