"""written: a case written from the specification, one YAML file -> a Case.

Law: a file that says something unknown is Malformed.  What a step does not say is as it was in the stage before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.conformance.canon import FILES
from tests.conformance.case import START, Case, Malformed, Stage
from tests.conformance.expect import expected_lines
from tests.conformance.objects import Object, endpoint_slice, node, service

CONFIG: Mapping[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "ipvs",
    "hostnameOverride": "node-a",
    "clusterCIDR": "10.244.0.0/16",
}
"""The configuration of every case, but for what it says itself."""

_OBJECTS = ("node", "services", "slices", "raw")
_HEAD = {"says", "spec", "config", "before", "steps", "times"}
_STAGE = {*_OBJECTS, "expect"}


def read_written(path: Path) -> Case:
    """The case in the file *path*.  Raises Malformed."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        return _case(path, document)
    except (OSError, yaml.YAMLError, Malformed, LookupError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(f"{path}: {error or type(error).__name__}") from error


def _case(path: Path, document: Mapping[str, Any]) -> Case:
    if unknown := set(document) - _HEAD - _STAGE:
        raise Malformed(f"unknown {', '.join(sorted(unknown))}")
    if missing := {"says", "spec", "expect"} - set(document):
        raise Malformed(f"no {', '.join(sorted(missing))}")
    before = document.get("before")
    return Case(
        name=path.stem,
        folder=path.parent,
        config=yaml.safe_dump({**CONFIG, **document.get("config", {})}),
        prepare=("/bin/bash", "-ec", before) if before else (),
        stages=tuple(_stages(document)),
        times=document.get("times", 1),
    )


def _stages(document: Mapping[str, Any]) -> Iterator[Stage]:
    objects: dict[str, Any] = {key: document.get(key) or {} for key in _OBJECTS}
    expect: dict[str, Any] = dict(document["expect"] or {})
    yield _stage(START, objects, expect)
    for number, step in enumerate(document.get("steps", ()), start=1):
        (name, changes), *more = step.items()
        if more or set(changes) - _STAGE:
            raise Malformed(f"step {number}: {sorted(set(changes) - _STAGE) or 'has two names'}")
        objects = {key: _changed(objects[key], changes.get(key)) for key in _OBJECTS}
        expect = {**expect, **(changes.get("expect") or {})}
        yield _stage(f"step-{number}-{name}", objects, expect)


def _changed(value: Any, change: Any) -> Any:
    """*value* with the keys of *change* instead of its own; None takes one away."""
    return {key: part for key, part in {**value, **(change or {})}.items() if part is not None}


def _stage(name: str, objects: Mapping[str, Any], expect: Mapping[str, Any]) -> Stage:
    made: list[Object] = [node(**objects["node"]), node("node-b")]
    made += [service(key, short) for key, short in objects["services"].items()]
    made += [endpoint_slice(key, short) for key, short in objects["slices"].items()]
    made += objects["raw"].values()
    text = yaml.dump_all(made, Dumper=yaml.CSafeDumper, sort_keys=False)
    lines = expected_lines(expect, settings=name == START)
    assert set(lines) >= set(FILES[:-1])
    return Stage(name, text, lines)
