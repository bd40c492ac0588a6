"""The bench's arithmetic: raw figures become rows with their limits."""

from __future__ import annotations

from collections.abc import Iterable

from bench import figures, figures_load, figures_policies
from bench.rows import Row, rows_json, table_text

START = {
    "seconds": 5.0,
    "begins_s": 1.0,
    "lists_s": 1.0,
    "compile_ms": 1.0,
    "plan_ms": 1.0,
    "apply_ms": 1.0,
    "rss_bytes": 150e6,
    "peak_bytes": 160e6,
    "faults": 1000,
}


def row(rows: Iterable[Row], measure: str) -> Row:
    return next(row for row in rows if row.measure == measure)


def test_limit_of_a_cold_start_is_four_floors_and_a_second() -> None:
    raw = {"cold": [START], "warm": [START]}
    cold = row(figures.start_rows(10_000, raw, 1.0, 50.0), "cold start, exec to all programmed")
    assert (cold.bar, cold.holds) == (5.0, True)


def test_cold_start_without_a_floor_has_no_limit() -> None:
    raw = {"cold": [START], "warm": [START]}
    assert row(figures.start_rows(10_000, raw, None, 50.0), "cold start, exec to all programmed").bar is None


def test_limit_of_a_cold_start_of_ten_services_is_a_second_and_a_half() -> None:
    raw = {"cold": [START], "warm": [START]}
    assert row(figures.start_rows(10, raw, None, 50.0), "cold start, exec to all programmed").holds is False


def test_start_time_is_the_median_of_its_repeats() -> None:
    raw = {"cold": [{**START, "seconds": seconds} for seconds in (9.0, 2.0, 3.0)], "warm": [START]}
    assert row(figures.start_rows(100, raw, None, 50.0), "cold start, exec to all programmed").value == 3.0


def test_memory_is_the_maximum_of_its_repeats() -> None:
    raw = {"cold": [START, {**START, "rss_bytes": 201e6}], "warm": [START]}
    memory = row(figures.start_rows(10_000, raw, None, 50.0), "  memory after the first sync, cold")
    assert (memory.value, memory.bar, memory.holds) == (201.0, 200.0, False)


def test_growth_is_the_ratio_of_the_largest_to_the_smallest_n() -> None:
    grown = figures.growth_row({"endpoint": [1.0, 1.0, 9.0]}, {"endpoint": [1.4]}, 30_000)
    assert (grown.value, grown.holds) == (1.4, False)


def test_rollout_ratio_is_relative_to_fewer_pods() -> None:
    grown = list(figures_load.rollout_rows({"250": [1.0], "1000": [4.0]}))[-1]
    assert (grown.n, grown.value, grown.holds) == (1000, 4.0, False)


def test_idle_share_includes_started_programs() -> None:
    raw = {"own_share": 0.004, "children_share": 0.002, "rss_bytes": 1}
    idle = row(figures_load.idle_rows(100, raw), "idle")
    assert (round(idle.value, 3), idle.holds) == (0.6, False)


def test_json_has_the_result_of_each_row() -> None:
    assert b'"holds": false' in rows_json([Row("a", 1, 2.0, "s", 1.0)])


def test_table_marks_a_row_over_its_limit_with_no() -> None:
    assert table_text([Row("a", 1, 2.0, "s", 1.0)]).splitlines()[1].endswith("NO")


def test_contested_ratio_is_relative_to_an_address_for_each_service() -> None:
    ratio = list(figures_load.contested_rows(2500, {"apart": [100.0], "contested": [160.0]}))[-1]
    assert (ratio.n, ratio.value, ratio.holds) == (2500, 1.6, False)


def test_rows_of_commands_have_the_longest_pause_of_the_loop() -> None:
    times = {"status": [0.4], "status of one": [0.2], "explain": [0.6], "trace": [0.2]}
    raw = {**times, "pause": [0.004, 0.03], "rss_before": [1e8], "rss_after": [1.2e8]}
    rows = list(figures_load.asked_rows(10_000, raw))
    assert [each.holds for each in rows] == [True, True, False, True, False, None]
    assert (row(rows, "  longest pause of the loop").value, rows[-1].value) == (30.0, 20.0)


TAKEOVER = {"connections": 4352, "failed": 0, "long_broken": 0, "objects": 5720, "changed": 23, "followed_s": 5.0}


def test_a_take_over_by_the_agent_may_change_nothing() -> None:
    rows = list(figures_load.takeover_rows(1000, {"kube-proxy to kubeproxy-py": TAKEOVER}))
    assert row(rows, "  of them failed").holds is True
    assert row(rows, "    of them changed").holds is False


def test_a_take_over_by_kube_proxy_may_change_objects_but_break_nothing() -> None:
    broken = {**TAKEOVER, "long_broken": 1}
    rows = list(figures_load.takeover_rows(1000, {"kubeproxy-py to kube-proxy": broken}))
    assert row(rows, "    of them changed").holds is None
    assert row(rows, "  long connections broken").holds is False


def test_figures_beside_kube_proxy_are_those_that_the_readme_has() -> None:
    raw = {"kube-proxy": {"started": [76.4], "changed": [1.48], "added": [4.75], "rss_bytes": [75.5e6]}}
    values = {each.measure.rpartition(", ")[2]: each.value for each in figures_load.beside_rows(1000, raw)}
    assert values == {
        "exec to all programmed": 76.4,
        "endpoint written to replaced": 1.48,
        "new Service written to programmed": 4.75,
        "memory at the end": 75.5,
    }


CHANGES = {"endpoint": [1.0, 1.0, 9.0], "local endpoint": [2.0], "added": [3.0], "local added": [5.0], "rows": [100.0]}
DELETIONS = {"deleted": [3.0], "local deleted": [5.0]}


def test_a_change_of_any_service_is_weighed_by_the_share_of_its_kind() -> None:
    exact = {"local endpoint": [4.0], "rows": [115.0]}
    raw = {"kube-proxy": {**CHANGES, **DELETIONS}, "exact": {**CHANGES, **DELETIONS, **exact}}
    rows = list(figures_policies.policies_change_rows(10_000, raw))
    assert round(row(rows, "policies: endpoint replaced, any Service, kube-proxy").value, 3) == 1.2
    ratio = row(rows, "  ratio")
    assert (round(ratio.value, 3), ratio.holds) == (1.333, False)
    assert row(rows, "  ratio, Services with the same rows").value == 1.0
    assert row(rows, "  ratio, Services with externalTrafficPolicy Local").value == 2.0
    assert rows[-1].value == 1.15


def test_a_cold_start_with_exact_policies_may_take_a_tenth_longer() -> None:
    raw = {"kube-proxy": [START], "exact": [{**START, "seconds": 5.4, "rss_bytes": 165e6}]}
    rows = list(figures_policies.policies_start_rows(10_000, raw))
    assert (row(rows, "  ratio").holds, rows[-1].value) == (True, 1.1)


def test_connections_have_a_ratio_for_each_frontend() -> None:
    raw = {"kube-proxy": {"load balancer": [1000.0], "ClusterIP": [800.0]}}
    raw["exact"] = {"load balancer": [900.0], "ClusterIP": [800.0]}
    values = [each.value for each in figures_policies.policies_connection_rows(200, raw)]
    assert values == [1000.0, 900.0, 0.9, 800.0, 800.0, 1.0]
