"""The rows that the plots show."""

from __future__ import annotations

from bench.figures import change_rows
from bench.plots import CHANGE_LATENCY, series

RAW = {
    name: [1.0]
    for name in ("endpoint", "cpu", "row", "added", "deleted", "service_cpu", "service_row", "service_sends", "echo")
}


def rows_of(*sizes: int) -> list[dict[str, object]]:
    return [{"measure": row.measure, "n": row.n, "value": row.value} for n in sizes for row in change_rows(n, RAW, RAW)]


def test_each_line_of_the_change_plot_has_a_point_for_each_n() -> None:
    drawn = series(rows_of(1000, 100), CHANGE_LATENCY)
    assert drawn == {label: [(100, 1.0), (1000, 1.0)] for label in CHANGE_LATENCY.values()}


def test_labels_without_rows_are_left_out() -> None:
    assert series([], CHANGE_LATENCY) == {}
