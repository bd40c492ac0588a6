"""Counted instructions become rows: the difference of two processes, for each change."""

from __future__ import annotations

from pathlib import Path

from bench import instructions


def test_a_figure_is_the_difference_of_two_processes_for_each_change(tmp_path: Path) -> None:
    counts = {11: "1,000,000", 12: "3,000,000", 21: "1,000,000", 22: "3,200,000"}
    for pid, count in counts.items():
        (tmp_path / str(pid)).write_text(f"==1== \n==1== I   refs:      {count}\n")
    modes = ("kube-proxy", "kube-proxy", "exact", "exact")
    lines = [f"{pid} {mode} 10 endpoint replaced" for pid, mode in zip(counts, modes, strict=True)]
    rows = list(instructions.rows_of(lines, tmp_path))
    assert [(row.measure, row.value) for row in rows] == [
        ("endpoint replaced, kube-proxy", 200.0),
        ("endpoint replaced, exact", 220.0),
        ("  ratio", 1.1),
    ]
