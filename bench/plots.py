"""``python -m bench.plots FIGURES.json DIRECTORY``: change latency and cold start against N, as PNG and SVG.

Law: it draws what ``python -m bench`` wrote, and measures nothing.  It needs matplotlib (bench/requirements.lock) and
nothing else, so that it can have an environment of its own: what draws is not what is measured.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

CHANGE_LATENCY = {
    "endpoint replaced, median": "endpoint replaced",
    "Service added, median": "Service added",
    "Service deleted, median": "Service deleted",
}
COLD_START = {
    "cold start, exec to all programmed": "cold, from a manifest folder",
    "cold start from an API server": "cold, from an API server on the same CPU",
    "warm start, exec to nothing to do": "warm",
}
PLOTS = {
    "change-latency": (CHANGE_LATENCY, "ms, median", "One change, watch line to acknowledgement"),
    "cold-start": (COLD_START, "s, median", "Start, exec to all programmed"),
}
"""File name -> which rows under which label, what the value is, title."""

Rows = Sequence[Mapping[str, Any]]
Series = dict[str, list[tuple[int, float]]]


def series(rows: Rows, labels: Mapping[str, str]) -> Series:
    """The (N, value) points of each label, by N; labels without a point are left out."""
    found: Series = {label: [] for label in labels.values()}
    for row in rows:
        if row["measure"] in labels:
            found[labels[row["measure"]]].append((row["n"], row["value"]))
    return {label: sorted(points) for label, points in found.items() if points}


def draw(rows: Rows, directory: Path) -> list[Path]:
    """Write each plot; the files."""
    library = import_module("matplotlib")  # by name: it is not there where types are checked
    library.use("Agg")
    library.rcParams["svg.hashsalt"] = "kubeproxy-py"  # the same figures give the same file
    pyplot = import_module("matplotlib.pyplot")
    written = []
    for name, (labels, unit, title) in PLOTS.items():
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for label, points in series(rows, labels).items():
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
        axes.set(xscale="log", xlabel="Services of 10 endpoints", ylabel=unit, title=title, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
        for kind in ("png", "svg"):
            written.append(directory / f"{name}.{kind}")
            figure.savefig(written[-1], dpi=120, metadata={"Date": None} if kind == "svg" else None)
        pyplot.close(figure)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description="Draw what make bench measured.")
    parser.add_argument("figures", type=Path, help="build/bench.json")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    for path in draw(json.loads(options.figures.read_text()), options.directory):
        print(path)


if __name__ == "__main__":
    main()
