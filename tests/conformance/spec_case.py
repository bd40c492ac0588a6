"""Read a spec case: a YAML file whose expected kernel state is written by hand.

An unknown key makes it malformed.  What a step does not mention is as in the stage before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.conformance.canonical import FILES
from tests.conformance.case import START, Case, MalformedCaseError, Stage
from tests.conformance.expectation import expected_lines
from tests.conformance.objects import Object, endpoint_slice, node, service

CONFIG: Mapping[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "ipvs",
    "hostnameOverride": "node-a",
    "clusterCIDR": "10.244.0.0/16",
}
"""The configuration of every case, before its own fields."""

_OBJECTS = ("node", "services", "slices", "raw")
_HEAD = {"rule", "upstream", "config", "before", "steps", "times"}
_STAGE = {*_OBJECTS, "expect"}


def read_spec_case(path: Path) -> Case:
    """The case in the file *path*.  Raises Malformed."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        return _case(path, document)
    except (OSError, yaml.YAMLError, MalformedCaseError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise MalformedCaseError(f"{path}: {error or type(error).__name__}") from error


def _case(path: Path, document: Mapping[str, Any]) -> Case:
    if unknown := set(document) - _HEAD - _STAGE:
        raise MalformedCaseError(f"unknown {', '.join(sorted(unknown))}")
    if missing := {"rule", "upstream", "expect"} - set(document):
        raise MalformedCaseError(f"no {', '.join(sorted(missing))}")
    before = document.get("before")
    return Case(
        name=path.stem,
        folder=path.parent,
        config=yaml.safe_dump({**CONFIG, **document.get("config", {})}),
        prepare=("/bin/bash", "-ec", before) if before else (),
        stages=tuple(_stages(document)),
        repetitions=document.get("times", 1),
    )


def _stages(document: Mapping[str, Any]) -> Iterator[Stage]:
    objects: dict[str, Any] = {key: document.get(key) or {} for key in _OBJECTS}
    expect: dict[str, Any] = dict(document["expect"] or {})
    yield _stage(START, objects, expect)
    for number, step in enumerate(document.get("steps", ()), start=1):
        (name, changes), *others = step.items()
        if others or set(changes) - _STAGE:
            raise MalformedCaseError(f"step {number}: {sorted(set(changes) - _STAGE) or 'has two names'}")
        objects = {key: _changed(objects[key], changes.get(key)) for key in _OBJECTS}
        expect = {**expect, **(changes.get("expect") or {})}
        yield _stage(f"step-{number}-{name}", objects, expect)


def _changed(value: Any, change: Any) -> Any:
    """*value* with the keys of *change* replaced; None removes a key."""
    return {key: entry for key, entry in {**value, **(change or {})}.items() if entry is not None}


def _stage(name: str, objects: Mapping[str, Any], expect: Mapping[str, Any]) -> Stage:
    built: list[Object] = [node(**objects["node"]), node("node-b")]
    built += [service(key, short) for key, short in objects["services"].items()]
    built += [endpoint_slice(key, short) for key, short in objects["slices"].items()]
    built += objects["raw"].values()
    text = yaml.dump_all(built, Dumper=yaml.CSafeDumper, sort_keys=False)
    lines = expected_lines(expect, sysctls=name == START)
    assert set(lines) >= set(FILES[:-1])
    return Stage(name, text, lines)
