"""FailureReports: log, Events and metrics about endpoints that are set aside."""

import logging

import pytest

from kubeproxy_py.commands.failure_reports import FailureReports
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.events.kube_events import KubeEvent
from kubeproxy_py.model.conditions import EndpointFailures, Failure
from kubeproxy_py.model.events import PeerUpserted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import RealServer, RealServerSpec
from kubeproxy_py.model.settings import ServiceSettings
from tests.builders import HERE, THERE, endpoint, endpoint_slice, name, node_context, service

REASON = "3 TCP connects got no answer"
PODS = tuple(f"10.244.1.{number}" for number in range(1, 17))


class Reports:
    """The reports about shop/web and shop/api, each with sixteen endpoints."""

    def __init__(self) -> None:
        self.compiler = Compiler(lambda _node, _addresses: node_context())
        self.events: list[KubeEvent] = []
        self.counts: list[tuple[int, int]] = []
        self._reports = FailureReports(
            self.compiler, self.events.append, lambda now, new: self.counts.append((now, new))
        )
        checked = ServiceSettings(health_check="tcp")
        for text, address, settings in (("web", "10.96.0.10", checked), ("api", "10.96.0.11", ServiceSettings())):
            self.compiler.handle_event(ServiceUpserted(service(text, (address,), settings=settings)))
            self.compiler.handle_event(SliceUpserted(endpoint_slice(text, PODS)))
        self.fail()

    def fail(self, **failing: int) -> None:
        """Have the first endpoints of each Service fail, as many as *failing* says, and report it."""
        for text, count in failing.items():
            failures = {(pod, 8080): Failure(1.0, REASON) for pod in PODS[:count]}
            self.compiler.handle_event(EndpointFailures(name(text), failures))
        self.compiler.compile()
        self._reports.check([state.name for state in self.compiler.pop_states()])


def test_nothing_is_reported_without_failures() -> None:
    reports = Reports()
    assert (reports.events, reports.counts) == ([], [])


def test_a_service_that_asked_for_checks_gets_an_event() -> None:
    reports = Reports()
    reports.fail(web=2)
    (event,) = reports.events
    assert (str(event.regarding), event.reason) == ("Service shop/web", "EndpointsSetAside")
    assert event.note == (
        f"node {HERE} gives no new connections to 10.244.1.1:8080 ({REASON}); 10.244.1.2:8080 ({REASON}). "
        "They get some again when they answer"
    )
    assert reports.counts == [(2, 2)]


def test_other_services_have_one_event_of_the_node() -> None:
    reports = Reports()
    reports.fail(api=1)
    (event,) = reports.events
    assert (str(event.regarding), event.reason) == (f"Node {HERE}", "EndpointsSetAside")
    assert f"shop/api 10.244.1.1:8080 ({REASON})" in event.note


def test_each_endpoint_is_reported_once() -> None:
    reports = Reports()
    reports.fail(web=2)
    reports.fail(web=3)
    assert [event.note.count(REASON) for event in reports.events] == [2, 1]
    assert reports.counts == [(2, 2), (3, 1)]


def test_what_fails_and_is_not_set_aside_is_not_reported() -> None:
    reports = Reports()
    reports.fail(web=16)
    assert (reports.events, reports.counts) == ([], [(0, 0)])


def test_many_endpoints_are_named_in_part() -> None:
    reports = Reports()
    reports.fail(web=8)
    assert "; 3 more. They" in reports.events[0].note


def test_a_return_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    reports = Reports()
    reports.fail(web=1)
    with caplog.at_level(logging.INFO):
        reports.fail(web=0)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.INFO] == [
        "Endpoints get new connections again"
    ]
    assert reports.counts == [(1, 1), (0, 0)]
    reports.fail(web=0)
    assert len(reports.counts) == 2


def test_node_to_which_direct_server_return_hands_on_is_no_endpoint_that_is_set_aside() -> None:
    context = node_context(policy_marks=MarkRange())
    compiler, events = Compiler(lambda _node, _addresses: context), list[KubeEvent]()
    counts: list[tuple[int, int]] = []
    reports = FailureReports(compiler, events.append, lambda now, new: counts.append((now, new)))
    settings = ServiceSettings(health_check="tcp", direct_return="tunnel")
    pods = endpoint("10.244.1.5"), endpoint("10.244.2.5", THERE), endpoint("10.244.3.5", "node-c")
    for event in (
        ServiceUpserted(service(external_ips=("203.0.113.7",), external_local=True, settings=settings)),
        SliceUpserted(endpoint_slice(endpoints=pods)),
        PeerUpserted(THERE, ("192.168.3.11",)),
        PeerUpserted("node-c", ("192.168.3.12",)),
        EndpointFailures(name("web"), {("10.244.2.5", 8080): Failure(1.0, REASON)}),
    ):
        compiler.handle_event(event)
    compiler.compile()
    specs = {key.address: spec for key, spec in compiler.desired.rows.items() if isinstance(key, RealServer)}
    assert specs["192.168.3.11"] == RealServerSpec(0, forwarding="tunnel")
    reports.check([state.name for state in compiler.pop_states()])
    assert counts == [(1, 1)]
    assert [event.note.partition(". ")[0] for event in events] == [
        f"node {HERE} gives no new connections to 10.244.2.5:8080 ({REASON})"
    ]
