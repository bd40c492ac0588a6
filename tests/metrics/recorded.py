"""The name, type, labels and buckets of each metric that kube-proxy 1.36.2 exposed (metric-names.txt)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).with_name("metric-names.txt")


class Shape(NamedTuple):
    """The properties of a metric that dashboards depend on."""

    type: str
    labels: tuple[str, ...]
    bounds: tuple[str, ...] = ()


def recorded() -> dict[str, Shape]:
    """Return the recorded shapes by name; +Inf is omitted from the bounds."""
    lines = (line for line in _FILE.read_text().splitlines() if not line.startswith("#"))
    rows = ([cell.strip() for cell in line.split("|")] for line in lines)
    return {name: Shape(type_, _labels(labels), tuple(bounds.split()[:-1])) for name, type_, labels, bounds in rows}


def _labels(text: str) -> tuple[str, ...]:
    return tuple(sorted(part.partition("=")[0] for part in text.split("; ") if part))


def exposed(text: str) -> dict[str, Shape]:
    """Return the shapes in a scrape, parsed as Prometheus does; a metric without samples has no labels."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        _name(family.name, family.type): Shape(family.type, *_labels_and_bounds(family.samples))
        for family in text_string_to_metric_families(text)
    }


def samples(text: str, name: str) -> dict[Mapping[str, str] | frozenset[tuple[str, str]], float]:
    """Return the values of one metric by its labels."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        frozenset(sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def _name(name: str, type_: str) -> str:
    return f"{name}_total" if type_ == "counter" and not name.endswith("_total") else name


def _labels_and_bounds(samples: list[object]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    labels = {label for sample in samples for label in sample.labels} - {"le"}  # type: ignore[attr-defined]
    bounds = dict.fromkeys(sample.labels["le"] for sample in samples if "le" in sample.labels)  # type: ignore[attr-defined]
    return tuple(sorted(labels)), tuple(bound for bound in bounds if bound != "+Inf")
