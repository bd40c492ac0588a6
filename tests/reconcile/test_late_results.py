"""Chains and jumps that are under way: everything else goes on, what depends on them waits, and nothing is lost."""

from collections import deque
from errno import ENOMEM

from kubeproxy_py.kernel import LateRows, LateSteps, Scope, scope_of
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import Address, Chain, ChainSpec, Jump, RealServer, Rows
from kubeproxy_py.model.steps import UNDER_WAY, Outcome, Plan, Step, StepFailure
from kubeproxy_py.reconcile.report import Trigger
from kubeproxy_py.reconcile.report_text import report_text
from kubeproxy_py.reconcile.retry_queue import TIMEOUT_RETRY
from tests.builders import endpoint_slice, service
from tests.reconcile.harness import SERVER, AgentHarness, serving

VIP = Address("10.96.0.10")


class LateKernel(MemoryKernel):
    """Does what concerns chains and jumps only when the test says so, as long as *is_late*."""

    def __init__(self, rows: Rows | None = None) -> None:
        super().__init__(rows, idempotent=True)
        self.is_late = True
        self.jobs: deque[Plan | Scope] = deque()

    def apply(self, plan: Plan) -> Outcome:
        if not self.is_late or not any(isinstance(step.key, Chain | Jump) for step in plan):
            return super().apply(plan)
        self.jobs.append(plan)
        return Outcome(tuple(StepFailure(step, UNDER_WAY, "under way") for step in plan))

    def read(self, scope: Scope) -> Rows:
        if self.is_late and scope.kind == "table":
            self.jobs.append(scope)
            raise KernelError("under way", errno=UNDER_WAY)
        return super().read(scope)

    def finish(self, harness: AgentHarness) -> None:
        """Do the oldest job, and give the agent its result."""
        job = self.jobs.popleft()
        if isinstance(job, Plan):
            late = LateSteps(job.steps, super().apply(job).failures, lambda: None)
            harness.agent.handle_late_result(late, harness.now_s)
        else:
            harness.agent.handle_late_result(LateRows(job, super().read(job), None, lambda: None), harness.now_s)

    def finish_all(self, harness: AgentHarness) -> None:
        """Do all jobs, and what follows from them, until nothing is left."""
        while self.jobs:
            self.finish(harness)
            harness.run_all_due()


def late_harness(rows: Rows | None = None, *, is_late: bool = True) -> tuple[LateKernel, AgentHarness]:
    kernel = LateKernel(rows)
    kernel.is_late = is_late
    harness = AgentHarness(kernel=kernel)
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    return kernel, harness


def test_new_addresses_wait_for_rules_that_are_under_way_and_endpoints_do_not() -> None:
    kernel, harness = late_harness()
    assert SERVER in kernel.rows
    assert not [key for key in kernel.rows if isinstance(key, Address | Chain | Jump)]
    harness.now_s += 5
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    assert RealServer(SERVER, "10.244.1.6", 8080) in kernel.rows
    assert len(kernel.jobs) == 1, "what is under way is not begun again"
    kernel.finish_all(harness)
    assert VIP in kernel.rows
    assert not harness.agent.state.pending.keys


def test_nothing_is_due_while_rules_are_under_way() -> None:
    _, harness = late_harness()
    harness.run_all_due()
    assert harness.agent.due_s() > harness.now_s + 20
    assert not harness.agent.status().has_work


def test_a_family_is_stuck_and_unprotected_while_its_rules_are_under_way() -> None:
    kernel, harness = late_harness()
    status = harness.agent.status()
    assert (status.stuck, status.unprotected) == (frozenset({"IPv4"}), frozenset({"IPv4"}))
    kernel.finish_all(harness)
    status = harness.agent.status()
    assert (status.stuck, status.unprotected) == (frozenset(), frozenset())


def test_rules_that_fail_late_are_reported_and_retried() -> None:
    kernel, harness = late_harness()
    kernel.fault = lambda step: ENOMEM if isinstance(step.key, Chain | Jump) else 0
    kernel.finish(harness)
    (report,) = harness.run_all_due()
    assert {failure.errno for failure in report.failures if failure.blocker is None} == {ENOMEM}  # type: ignore[union-attr]
    kernel.fault = lambda _step: 0
    for _ in range(3):
        harness.advance(TIMEOUT_RETRY.longest_s)
        kernel.finish_all(harness)
    assert VIP in kernel.rows
    assert not harness.agent.state.pending.keys


def test_a_sync_counts_what_is_under_way_as_waiting_and_a_later_one_as_added() -> None:
    kernel = LateKernel()
    harness = AgentHarness(kernel=kernel)
    (first,) = harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    assert " failed" not in report_text(first)
    kernel.finish(harness)
    (second,) = harness.run_all_due()
    assert " waiting" not in report_text(second)
    assert {step.key for step in second.steps} >= {key for key in kernel.rows if isinstance(key, Chain | Jump)}  # type: ignore[union-attr]


def test_a_rule_that_may_be_gone_is_not_relied_on() -> None:
    """A Service goes, its rule is being deleted, and it comes back: its address waits until the rule exists again."""
    kernel, harness = late_harness(is_late=False)
    kernel.is_late = True
    harness.now_s += 1
    harness.handle(ServiceDeleted(service().name))
    harness.run_all_due()
    assert kernel.jobs
    assert VIP not in kernel.rows
    harness.now_s += 1
    harness.handle(ServiceUpserted(service()))
    harness.run_all_due()
    assert VIP not in kernel.rows
    kernel.finish_all(harness)
    assert VIP in kernel.rows
    assert kernel.rows == harness.agent.state.rows


def test_a_restart_that_cannot_read_the_tables_in_time_writes_them_and_ends_right() -> None:
    before = serving()
    surplus = next(iter(kube_names.chains("IPv6")))
    kernel, harness = late_harness({**before.kernel.rows, surplus: ChainSpec(())})
    assert VIP in kernel.rows
    kernel.finish_all(harness)
    assert kernel.rows == before.kernel.rows
    assert harness.agent.state.rows == kernel.rows


def test_a_table_that_is_read_late_shows_drift() -> None:
    kernel, harness = late_harness(is_late=False)
    chain = next(key for key in kernel.rows if isinstance(key, Chain))
    tampered = kernel.rows[chain] = ChainSpec(("-j ACCEPT",))
    harness.agent.handle_late_result(
        LateRows(scope_of(chain), kernel.read(scope_of(chain)), None, lambda: None), harness.now_s
    )
    (report,) = harness.run_all_due()
    assert (report.trigger, report.drift_rows) == (Trigger.DRIFT, 1)  # type: ignore[union-attr]
    assert kernel.rows[chain] != tampered


def test_a_row_under_way_is_no_drift() -> None:
    kernel, harness = late_harness()
    chain = next(step.key for step in kernel.jobs[0] if isinstance(step, Step))  # type: ignore[union-attr]
    harness.agent.handle_late_result(
        LateRows(scope_of(chain), {chain: ChainSpec(())}, None, lambda: None), harness.now_s
    )
    assert not harness.agent.status().drift_found


def test_both_steps_on_a_chain_that_are_under_way_together_count() -> None:
    """A chain whose rules change loses some in a second step, which is sent with the first if nothing is between."""
    kernel, harness = late_harness(is_late=False)
    kernel.is_late = True
    chain = next(key for key, spec in kernel.rows.items() if isinstance(spec, ChainSpec) and len(spec.rules) > 1)
    wanted = kernel.rows[chain]
    assert isinstance(wanted, ChainSpec)
    tampered = kernel.rows[chain] = ChainSpec(("-j ACCEPT", *wanted.rules[1:]))
    for fault in (ENOMEM, 0):
        kernel.fault = lambda _step, fault=fault: fault  # type: ignore[misc]
        harness.agent.handle_late_result(
            LateRows(scope_of(chain), MemoryKernel.read(kernel, scope_of(chain)), None, lambda: None), harness.now_s
        )
        harness.run_all_due()
        (job,) = (job for job in kernel.jobs if isinstance(job, Plan))
        assert [step.key for step in job] == [chain, chain]
        assert harness.agent.state.rows[chain] == ChainSpec(wanted.rules[1:])
        while kernel.jobs:
            kernel.finish(harness)
        assert harness.agent.state.rows[chain] == (tampered if fault else wanted)
        harness.now_s += TIMEOUT_RETRY.longest_s
    assert kernel.rows[chain] == wanted


def test_late_steps_of_before_a_resync_change_nothing() -> None:
    kernel, harness = late_harness()
    job = kernel.jobs.popleft()
    assert isinstance(job, Plan)
    harness.agent.invalidate()
    kernel.is_late = False
    harness.run_all_due()
    rows = dict(harness.agent.state.rows)
    harness.agent.handle_late_result(
        LateSteps(job.steps, tuple(StepFailure(step, ENOMEM, "no") for step in job), lambda: None), harness.now_s
    )
    assert harness.agent.state.rows == rows
    assert not harness.agent.state.pending.keys
