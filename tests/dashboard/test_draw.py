"""The picture of the dashboard: how single values, legends and colours are drawn, and what is asked of Prometheus."""

from __future__ import annotations

import json
import math

import pytest

from tests.dashboard import draw, record

DASHBOARD = json.loads(record.DASHBOARD.read_text())


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0583, "percentunit", "5.83 %"),
        (1.0, "percentunit", "100 %"),
        (0.0095, "s", "9.5 ms"),
        (28.8, "s", "28.8 s"),
        (44e6, "bytes", "44 MB"),
        (12345, "short", "12,345"),
        (2, "short", "2"),
        (math.nan, "short", "-"),
    ],
)
def test_value_is_written_in_its_unit(value: float, unit: str, text: str) -> None:
    assert draw.formatted(value, unit) == text


def test_legend_has_the_labels_of_the_series() -> None:
    assert draw.legend("{{kind}} {{ state }}", {"kind": "Chain", "state": "failed"}) == "Chain failed"
    assert draw.legend("{{instance}} missing", {}) == "missing"


@pytest.mark.parametrize(("value", "colour"), [(0, "green"), (59.9, "green"), (60, "orange"), (200, "red")])
def test_colour_is_that_of_the_highest_threshold_that_is_reached(value: float, colour: str) -> None:
    [panel] = [panel for panel in DASHBOARD["panels"] if panel["title"] == "Longest silence of a watch"]
    assert draw.threshold_colour(panel, value) == colour


def test_every_variable_of_the_queries_has_a_value() -> None:
    for expression in record.expressions(DASHBOARD):
        assert "$" not in record.substituted(expression)
