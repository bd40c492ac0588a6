"""`python -m tests.dashboard.draw ANSWERS.json PICTURE.png`: draw the panels of the dashboard with recorded answers.

It needs only matplotlib (bench/requirements.lock).  The panels are where the dashboard has them, with its titles,
units and legends, and the colours that thresholds give to single figures; the rest is not Grafana's look.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy/monitoring/dashboard.json"
WIDTH = 24  # columns of a dashboard
_COLOURS = {"green": "#3f9c4f", "orange": "#e08a1e", "red": "#c9302c", "transparent": "none"}
_BACKGROUND, _PANEL, _TEXT, _GRID = "#111217", "#181b1f", "#d5d7dc", "#2c3036"
_LEGENDS_MAX = 8  # those with the highest values
_LINES = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#8ab8ff", "#ffa6b0", "#a352cc")

Panel = Mapping[str, Any]
Answers = Mapping[str, Sequence[Mapping[str, Any]]]


def legend(template: str, labels: Mapping[str, str]) -> str:
    """Return *template*, as `{{kind}} {{state}}`, with *labels*."""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: labels.get(match[1], ""), template).strip()


def formatted(value: float, unit: str) -> str:
    """Return *value* as a single figure in *unit* of Grafana."""
    if math.isnan(value):
        return "-"
    if unit == "percentunit":
        return f"{value:.3g}".rstrip(".") if 0 < value < 0.001 else f"{value * 100:.3g} %"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    if unit.lower().startswith(("bytes", "decbytes")):
        return f"{value / 1e6:.3g} MB"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def threshold_colour(panel: Panel, value: float) -> str:
    """Return the colour that the thresholds of *panel* give *value*."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return str([step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1])


def last_value(answer: Sequence[Mapping[str, Any]]) -> float:
    """Return the last value of the only series of *answer*."""
    return float(answer[0]["values"][-1][1]) if answer else math.nan


def draw(dashboard: Mapping[str, Any], recorded: Mapping[str, Any], path: Path) -> None:
    """Write the picture to *path*."""
    library = import_module("matplotlib")  # by name: not installed where types are checked
    library.use("Agg")
    pyplot = import_module("matplotlib.pyplot")
    pyplot.rcParams.update({"font.size": 7, "text.color": _TEXT, "axes.labelcolor": _TEXT, "axes.titlecolor": _TEXT})
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) + 1
    figure = pyplot.figure(figsize=(15, height * 0.26), facecolor=_BACKGROUND)
    title = f"{dashboard['title']}: {recorded['seconds']} s on Linux {recorded['kernel']}, two nodes"
    figure.text(0.01, 1 - 0.5 / height, title, size=10, va="center")
    for panel in dashboard["panels"]:
        _draw_panel(figure, panel, recorded["answers"], height)
    figure.savefig(path, dpi=80, facecolor=_BACKGROUND)


def _draw_panel(figure: Any, panel: Panel, answers: Answers, height: int) -> None:
    at = panel["gridPos"]
    left, right = at["x"] / WIDTH, (at["x"] + at["w"]) / WIDTH
    top, bottom = 1 - (at["y"] + 1) / height, 1 - (at["y"] + at["h"] + 1) / height
    if panel["type"] == "row":
        figure.text(left + 0.01, (top + bottom) / 2, panel["title"], size=9, weight="bold", va="center")
        return
    if panel["type"] == "stat":
        axes = figure.add_axes((left + 0.003, bottom + 0.004, right - left - 0.006, top - bottom - 0.008))
        _draw_figure(axes, panel, answers)
        return
    axes = figure.add_axes((left + 0.035, bottom + 0.018, right - left - 0.05, top - bottom - 0.034))
    _draw_lines(axes, panel, answers)


def _draw_figure(axes: Any, panel: Panel, answers: Answers) -> None:
    value = last_value(answers[panel["targets"][0]["expr"]])
    axes.set(xticks=[], yticks=[], facecolor=_PANEL if math.isnan(value) else _COLOURS[threshold_colour(panel, value)])
    axes.text(0.5, 0.82, panel["title"], ha="center", va="center", size=7, color="white", wrap=True)
    text = formatted(value, panel["fieldConfig"]["defaults"]["unit"])
    axes.text(0.5, 0.4, text, ha="center", va="center", size=18, color="white")


def _draw_lines(axes: Any, panel: Panel, answers: Answers) -> None:
    axes.set_title(panel["title"], size=8, loc="left")
    axes.set_facecolor(_PANEL)
    axes.tick_params(colors=_TEXT, length=2)
    axes.grid(color=_GRID, linewidth=0.5)
    defaults = panel["fieldConfig"]["defaults"]
    series = [
        (legend(target.get("legendFormat", ""), item["metric"]), item["values"])
        for target in panel["targets"]
        for item in answers[target["expr"]]
    ]
    begin = min((values[0][0] for _, values in series), default=0)
    for number, (label, values) in enumerate(series):
        times = [moment - begin for moment, _ in values]
        axes.plot(times, [float(value) for _, value in values], label=label, linewidth=1.1,
                  color=_LINES[number % len(_LINES)])  # fmt: skip
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the legend
    unit = defaults.get("unit", "short")
    axes.yaxis.set_major_formatter(lambda value, _position: formatted(value, unit))
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:.0f} s")
    if series:
        handles, labels = axes.get_legend_handles_labels()
        highest = [max(float(value) for _, value in values) for _, values in series]
        shown = sorted(sorted(range(len(series)), key=lambda number: -highest[number])[:_LEGENDS_MAX])
        axes.legend([handles[number] for number in shown], [labels[number] for number in shown], fontsize=5.5,
                    loc="upper left", ncols=2, framealpha=0.4, facecolor=_PANEL, edgecolor=_GRID)  # fmt: skip
    else:
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", va="center", color="#8e9198")
    for spine in axes.spines.values():
        spine.set_color(_GRID)


def main() -> None:
    """Draw what the command line names."""
    answers, picture = map(Path, sys.argv[1:])
    draw(json.loads(DASHBOARD.read_text()), json.loads(answers.read_text()), picture)
    print(picture)


if __name__ == "__main__":
    main()
