"""Read the files of deploy/ as the objects that a cluster is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lab.job import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
BASE = DEPLOY / "daemonset/base/daemonset.yaml"

Object = dict[str, Any]


def objects_of(path: Path) -> list[Object]:
    """Return the documents of a YAML file."""
    return [document for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader) if document]


def find(objects: list[Object], kind: str) -> Object:
    """Return the only object of this kind."""
    [document] = [document for document in objects if document["kind"] == kind]
    return document


def pod_of(daemon_set: Object) -> Object:
    """Return the spec of its pods."""
    spec: Object = daemon_set["spec"]["template"]["spec"]
    return spec
