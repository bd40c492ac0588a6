"""What kube-proxy 1.36.2 exposed, from metric-names.txt: each metric's name, type, labels and buckets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).with_name("metric-names.txt")


class Shape(NamedTuple):
    """What a dashboard relies on."""

    type: str
    labels: tuple[str, ...]
    bounds: tuple[str, ...] = ()


def recorded() -> dict[str, Shape]:
    """By name; +Inf left out of the bounds."""
    lines = (line for line in _FILE.read_text().splitlines() if not line.startswith("#"))
    rows = ([cell.strip() for cell in line.split("|")] for line in lines)
    return {name: Shape(kind, _labels(labels), tuple(bounds.split()[:-1])) for name, kind, labels, bounds in rows}


def _labels(text: str) -> tuple[str, ...]:
    return tuple(sorted(part.partition("=")[0] for part in text.split("; ") if part))


def exposed(text: str) -> dict[str, Shape]:
    """The shapes in a scrape, read as a Prometheus server would; a metric without any sample has no labels."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        _name(family.name, family.type): Shape(family.type, *_seen(family.samples))
        for family in text_string_to_metric_families(text)
    }


def samples(text: str, name: str) -> dict[Mapping[str, str] | frozenset[tuple[str, str]], float]:
    """The values of one metric by its labels."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        frozenset(sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def _name(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" and not name.endswith("_total") else name


def _seen(found: list[object]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    labels = {label for sample in found for label in sample.labels} - {"le"}  # type: ignore[attr-defined]
    bounds = dict.fromkeys(sample.labels["le"] for sample in found if "le" in sample.labels)  # type: ignore[attr-defined]
    return tuple(sorted(labels)), tuple(bound for bound in bounds if bound != "+Inf")
