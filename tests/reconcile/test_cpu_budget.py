"""CpuBudget: work takes its share of a core on average, and a burst at once; EvenCpuTime: ticks delay none of it."""

import pytest

from kubeproxy_py.reconcile.cpu_budget import CpuBudget, EvenCpuTime

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


def test_what_is_counted_exactly_is_what_a_piece_costs() -> None:
    cpu_time = EvenCpuTime()
    for took_s in (0.005, 0.002, 0.3, 0.00001, 5.0, 0.005):
        assert cpu_time.of(took_s, took_s) == pytest.approx(took_s)


TICK_S, PIECE_S = 0.01, 0.005


def test_pieces_cost_the_same_where_cpu_time_is_counted_in_ticks() -> None:
    cpu_time = EvenCpuTime()
    costs_s = [cpu_time.of(TICK_S if number % 8 in (1, 2, 3, 6) else 0.0, PIECE_S) for number in range(800)]
    assert all(0.8 * PIECE_S < cost_s < 1.2 * PIECE_S for cost_s in costs_s[80:])
    assert sum(costs_s) == pytest.approx(800 * PIECE_S, rel=0.02)


def test_pieces_that_take_longer_because_the_machine_is_busy_cost_no_more_after_a_while() -> None:
    cpu_time = EvenCpuTime()
    for _ in range(400):
        cpu_time.of(PIECE_S, PIECE_S)
    costs_s = [cpu_time.of(PIECE_S, 4 * PIECE_S) for _ in range(400)]
    assert sum(costs_s) < 400 * PIECE_S + 0.11
