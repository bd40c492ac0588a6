"""Agent: weights of new endpoints grow, also across restarts and together with draining and failures."""

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.model.conditions import EndpointFailures, Failure
from kubeproxy_py.model.events import Event, ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import Connections, RealServer, RealServerSpec, Rows, VirtualServerSpec
from kubeproxy_py.model.services import Service
from kubeproxy_py.model.settings import ServiceSettings, Written
from kubeproxy_py.model.time import NEVER
from tests.builders import THERE, endpoint, endpoint_slice, name, node_context, service
from tests.reconcile.harness import SERVER, AgentHarness

OLD, NEW, THIRD = "10.244.1.5", "10.244.1.6", "10.244.1.7"
DURATION_S = 27.0  # a step each 3 s
CHECKED = (Written("health-check", "kubeproxy-py.io/health-check", "tcp"),)


def slow(**settings: object) -> Service:
    values = {"scheduler": "wrr", "slow_start_s": DURATION_S, **settings}
    return service(settings=ServiceSettings(**values))  # type: ignore[arg-type]


def exact() -> Compiler:
    return Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=MarkRange()))


def started(*addresses: str, rows: Rows | None = None, one: Service | None = None, **options: object) -> AgentHarness:
    """Return an agent that serves *one* with *addresses*, on a kernel with *rows*."""
    harness = AgentHarness(rows, **options)  # type: ignore[arg-type]
    harness.handle(ServiceUpserted(one or slow()), SliceUpserted(endpoint_slice(endpoints=addresses)))
    return harness


def settled(*addresses: str) -> AgentHarness:
    """Return an agent whose endpoints have started."""
    harness = started(*addresses)
    while harness.agent._slow_starts.due_s < NEVER:
        harness.advance(3)
    harness.applied_steps()
    return harness


def weight(harness: AgentHarness, address: str) -> int | None:
    spec = harness.kernel.rows.get(RealServer(SERVER, address, 8080))
    return spec.weight if isinstance(spec, RealServerSpec) else None


def change(harness: AgentHarness, *addresses: str) -> None:
    harness.handle(SliceUpserted(endpoint_slice(endpoints=addresses)))


def test_a_new_endpoint_starts_with_a_tenth_and_grows() -> None:
    harness = settled(OLD)
    change(harness, OLD, NEW)
    weights = [weight(harness, NEW)]
    for _ in range(12):
        harness.advance(3.0)
        weights.append(weight(harness, NEW))
    assert weights == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]
    assert weight(harness, OLD) == 10
    assert harness.agent._slow_starts.due_s == NEVER


def test_a_new_endpoint_never_has_its_whole_weight_before() -> None:
    harness = settled(OLD)
    change(harness, OLD, NEW)
    added = [step.spec for step in harness.kernel.applied if step.key == RealServer(SERVER, NEW, 8080)]
    assert added == [RealServerSpec(1)]


def test_each_step_changes_one_row_only() -> None:
    harness = settled(OLD, THIRD)
    change(harness, OLD, THIRD, NEW)
    harness.applied_steps()
    harness.advance(3.0)
    assert harness.applied_steps() == [("update", RealServer(SERVER, NEW, 8080))]


@pytest.mark.parametrize(
    "event",
    [
        ServiceUpserted(slow(scheduler="rr")),  # the setting is ignored then
        ServiceUpserted(slow(slow_start_s=0.0)),
        ServiceDeleted(name("web")),
    ],
)
def test_no_endpoint_counts_as_starting_where_slow_start_ended(event: Event) -> None:
    harness = settled(OLD)
    change(harness, OLD, NEW)
    assert harness.agent.snapshot(harness.now_s, 0.0).conditions
    harness.handle(event)
    assert not harness.agent.snapshot(harness.now_s, 0.0).conditions
    assert harness.agent._slow_starts.due_s == NEVER


def test_a_service_whose_endpoints_are_all_new_is_not_slowed() -> None:
    harness = started(OLD, NEW)
    assert (weight(harness, OLD), weight(harness, NEW)) == (10, 10)
    harness.applied_steps()
    for _ in range(12):
        harness.advance(3.0)
    assert harness.applied_steps() == []


def test_endpoints_that_replace_all_others_are_not_slowed() -> None:
    harness = settled(OLD)
    change(harness, NEW, THIRD)
    assert (weight(harness, OLD), weight(harness, NEW), weight(harness, THIRD)) == (0, 10, 10)


def test_a_restart_goes_on_where_the_kernel_is() -> None:
    harness = settled(OLD)
    change(harness, OLD, NEW)
    harness.advance(6.0)
    assert weight(harness, NEW) == 3
    restarted = started(OLD, NEW, rows=dict(harness.kernel.rows))
    assert restarted.applied_steps() == []
    restarted.advance(3.1)
    assert weight(restarted, NEW) == 4


def test_an_endpoint_that_came_while_no_agent_ran_starts_slowly() -> None:
    restarted = started(OLD, NEW, rows=dict(settled(OLD).kernel.rows))
    assert (weight(restarted, OLD), weight(restarted, NEW)) == (10, 1)


def test_what_kube_proxy_left_has_its_whole_weight_at_once() -> None:
    rows = dict(settled(OLD, NEW).kernel.rows)
    rows |= {key: RealServerSpec(1) for key in rows if isinstance(key, RealServer)}
    rows[SERVER] = VirtualServerSpec("rr")
    adopted = started(OLD, NEW, rows=rows)
    assert (weight(adopted, OLD), weight(adopted, NEW)) == (10, 10)


def test_an_endpoint_that_returns_while_it_drains_starts_slowly() -> None:
    harness = settled(OLD, NEW)
    harness.kernel.open_connections[RealServer(SERVER, NEW, 8080)] = Connections(1, 0)
    change(harness, OLD)
    assert weight(harness, NEW) == 0
    change(harness, OLD, NEW)
    assert weight(harness, NEW) == 1


def test_an_endpoint_that_leaves_while_it_starts_drains() -> None:
    harness = settled(OLD)
    change(harness, OLD, NEW)
    change(harness, OLD)
    assert weight(harness, NEW) == 0
    harness.advance(3)
    assert weight(harness, NEW) is None


def test_an_endpoint_that_failed_returns_slowly() -> None:
    harness = settled(OLD, NEW)
    harness.handle(EndpointFailures(name("web"), {(NEW, 8080): Failure(1.0, "")}))
    assert (weight(harness, OLD), weight(harness, NEW)) == (10, 0)
    harness.advance(60)
    harness.handle(EndpointFailures(name("web"), {}))
    assert (weight(harness, OLD), weight(harness, NEW)) == (10, 1)
    harness.advance(3)
    assert weight(harness, NEW) == 2


def test_without_weights_an_endpoint_starts_at_once() -> None:
    harness = started(OLD, one=slow(scheduler="rr"))
    change(harness, OLD, NEW)
    assert (weight(harness, NEW), harness.agent._slow_starts.due_s) == (1, NEVER)


def test_steps_end_with_the_setting_and_with_the_service() -> None:
    harness = settled(OLD)
    change(harness, OLD, NEW)
    harness.handle(ServiceUpserted(service(settings=ServiceSettings(scheduler="wrr"))))
    assert (weight(harness, OLD), weight(harness, NEW)) == (1, 1)
    harness.advance(3)
    assert harness.agent._slow_starts.due_s == NEVER
    harness.handle(ServiceUpserted(slow()))
    change(harness, OLD, THIRD)
    harness.handle(ServiceDeleted(name("web")))
    harness.advance(3)
    assert harness.agent._slow_starts.due_s == NEVER


def test_wakes_are_bounded_however_many_steps_there_are() -> None:
    harness = settled(OLD)
    for number in range(20):
        harness.now_s += 0.05
        change(harness, OLD, *(f"10.244.2.{each}" for each in range(number)))
    wakes = 0
    end_s = harness.now_s + DURATION_S + 1
    while harness.agent._slow_starts.due_s < end_s:
        harness.now_s = harness.agent._slow_starts.due_s
        harness.agent.run_due(harness.now_s)
        wakes += 1
    assert wakes <= 2 * DURATION_S + 2


# Failures that an earlier process left


def test_an_endpoint_that_was_set_aside_stays_so_after_a_restart() -> None:
    one = service(settings=ServiceSettings(health_check="tcp", written=CHECKED))
    harness = started(OLD, NEW, one=one)
    harness.handle(EndpointFailures(name("web"), {(NEW, 8080): Failure(1.0, "")}))
    rows = dict(harness.kernel.rows)
    restarted = started(OLD, NEW, rows=rows, one=one)
    assert (restarted.applied_steps(), weight(restarted, NEW)) == ([], 0)
    restarted.handle(EndpointFailures(name("web"), {}))
    assert weight(restarted, NEW) == 1


def test_an_endpoint_that_was_set_aside_for_clients_inside_only_stays_so_after_a_restart() -> None:
    one = service(
        external_ips=("198.51.100.7",),
        external_local=True,
        internal_local=True,  # so those of other nodes are behind the virtual server by mark only
        settings=ServiceSettings(health_check="tcp", written=CHECKED),
    )
    pods = SliceUpserted(endpoint_slice(endpoints=[endpoint(OLD), endpoint(NEW, THERE), endpoint(THIRD, THERE)]))
    harness = AgentHarness(compiler=exact())
    harness.handle(ServiceUpserted(one), pods)
    harness.handle(EndpointFailures(name("web"), {(NEW, 8080): Failure(1.0, "")}))
    restarted = AgentHarness(dict(harness.kernel.rows), compiler=exact())
    restarted.handle(ServiceUpserted(one), pods)
    aside = [
        key
        for key, spec in restarted.kernel.rows.items()
        if isinstance(key, RealServer) and isinstance(spec, RealServerSpec) and not spec.weight
    ]
    assert [(bool(key.virtual_server.mark), key.address) for key in aside] == [(True, NEW)]
    assert restarted.applied_steps() == []


def test_a_resync_from_scratch_keeps_what_is_known_of_failures() -> None:
    one = service(settings=ServiceSettings(health_check="tcp", written=CHECKED))
    harness = started(OLD, NEW, THIRD, one=one)
    failures = {(address, 8080): Failure(1.0, "silent") for address in (OLD, NEW)}
    harness.handle(EndpointFailures(name("web"), failures))
    harness.agent.invalidate()
    harness.run_all_due()
    assert harness.agent.compiler.cluster.conditions_of(name("web")).failures == failures


def test_a_weight_of_0_is_repaired_where_nothing_is_checked() -> None:
    harness = started(OLD, NEW, one=service())
    rows = dict(harness.kernel.rows) | {RealServer(SERVER, NEW, 8080): RealServerSpec(0)}
    assert weight(started(OLD, NEW, rows=rows, one=service()), NEW) == 1
    assert weight(started(OLD, NEW, rows=rows, one=service(), watch_nodes=True), NEW) == 0


def test_an_endpoint_that_is_set_aside_and_leaves_is_deleted() -> None:
    harness = started(OLD, NEW, one=service())
    harness.handle(EndpointFailures(name("web"), {(NEW, 8080): Failure(1.0, "")}))
    change(harness, OLD)
    assert weight(harness, NEW) == 0
    harness.advance(3)
    assert weight(harness, NEW) is None


def test_a_weight_that_another_program_changed_is_drift_and_those_of_the_agent_are_none() -> None:
    harness = settled(OLD, NEW)
    harness.handle(EndpointFailures(name("web"), {(NEW, 8080): Failure(1.0, "")}))
    harness.advance(60)
    assert harness.agent.state.drift.found == {}
    assert harness.agent.state.rows == harness.kernel.rows
    harness.kernel.rows[RealServer(SERVER, NEW, 8080)] = RealServerSpec(10)
    harness.advance(60)
    harness.run_all_due()
    assert (weight(harness, NEW), harness.agent.state.drift.found) == (0, {"RealServer": 1})
