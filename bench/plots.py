"""`python -m bench.plots FIGURES.json DIRECTORY`: plot change latency and cold start over N, as PNG and SVG.

It draws the output of `python -m bench` and measures nothing.  It needs only matplotlib (bench/requirements.lock), in
an environment of its own, so that the measured environment does not contain it.
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
    "warm start, exec to first sync": "warm",
}
PLOTS = {
    "change-latency": (CHANGE_LATENCY, "ms, median", "One change, watch line to acknowledgement"),
    "cold-start": (COLD_START, "s, median", "Start, exec to all programmed"),
}
"""File name -> labels of rows in the plot, label of the value axis, title."""

Rows = Sequence[Mapping[str, Any]]
Series = dict[str, list[tuple[int, float]]]


def series(rows: Rows, labels: Mapping[str, str]) -> Series:
    """Return the (N, value) points of each label, by N; labels without a point are left out."""
    points_by_label: Series = {label: [] for label in labels.values()}
    for row in rows:
        if row["measure"] in labels:
            points_by_label[labels[row["measure"]]].append((row["n"], row["value"]))
    return {label: sorted(points) for label, points in points_by_label.items() if points}


def draw(rows: Rows, directory: Path) -> list[Path]:
    """Write each plot and return the files."""
    library = import_module("matplotlib")  # by name: not installed where types are checked
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
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description="Plot the figures of make bench.")
    parser.add_argument("figures", type=Path, help="build/bench.json")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    for path in draw(json.loads(options.figures.read_text()), options.directory):
        print(path)


if __name__ == "__main__":
    main()
