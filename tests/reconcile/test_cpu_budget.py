"""CpuBudget: work takes its share of a core on average, and a burst at once."""

import pytest

from kubeproxy_py.reconcile.cpu_budget import CpuBudget

SHARE, BURST_S = 0.05, 0.5


def spent_s(cost_s: float, duration_s: float, step_s: float = 0.01) -> float:
    """Return the CPU time of pieces that cost *cost_s* each and begin whenever they may, within *duration_s*."""
    budget, total_s, now_s = CpuBudget(SHARE, BURST_S), 0.0, 1000.0
    while now_s < 1000.0 + duration_s:
        if now_s >= budget.due_s:
            budget.spend(cost_s, now_s)
            total_s += cost_s
        now_s += step_s
    return total_s


@pytest.mark.parametrize("cost_s", [0.001, 0.01, 0.3, 2.0])
def test_work_that_is_always_due_takes_its_share_after_the_first_burst(cost_s: float) -> None:
    total_s = spent_s(cost_s, 400.0)
    assert 400.0 * SHARE <= total_s <= 400.0 * SHARE + BURST_S + 2 * cost_s


def test_work_after_a_time_without_any_may_go_on_until_the_burst_is_used_up() -> None:
    budget = CpuBudget(SHARE, BURST_S)
    for _ in range(4):
        budget.spend(BURST_S / 4, 1000.0)
        assert budget.due_s <= 1000.0
    budget.spend(BURST_S / 4, 1000.0)
    assert budget.due_s == pytest.approx(1000.0 + BURST_S / 4 / SHARE)


def test_work_that_takes_no_cpu_time_is_never_delayed() -> None:
    budget = CpuBudget(SHARE, BURST_S)
    for now_s in range(10):
        budget.spend(0.0, float(now_s))
        assert budget.due_s <= now_s
