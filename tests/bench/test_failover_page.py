"""The table of docs/failover.md, from what the bench measured."""

import pytest

from bench.failover_page import BEGIN, END, PAGE, with_figures

WITHOUT = {"rate": 99.6, "failed": 1200.0, "connections": 2500.0, "last failed after s": 24.9}
TCP = {"rate": 98.0, "failed": 130.0, "connections": 2480.0, "last failed after s": 2.9}
RAW = {
    "100": {
        "without": [{**WITHOUT, "agent CPU of a core": 0.01, "set aside": 0.0}],
        "health-check: tcp": [
            {**TCP, "agent CPU of a core": 0.02, "set aside": 2.0},
            {**TCP, "last failed after s": 4.5, "agent CPU of a core": 0.04, "set aside": 2.0},
        ],
    }
}
ROWS = [
    "| without | 100 | 1200 of 2500 | the node is withdrawn (40 s and more) | 1% |",
    "| `health-check: tcp` | 98 | 260 of 4960 | 3.7 s (worst 4.5 s) | 3% |",
]


def test_table_has_a_row_for_each_way() -> None:
    page = with_figures(f"before\n{BEGIN}old\n{END}after\n", RAW)
    assert page.splitlines()[4:6] == ROWS
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page


def test_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks"):
        with_figures("no table", RAW)


def test_page_of_the_project_has_the_table() -> None:
    rows = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| without", "| `health-check: tcp`", "| `--watch-nodes`"]
