"""manifests: the files of deploy/, as the objects that a cluster would be given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lab.job import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
BASE = DEPLOY / "daemonset/base/daemonset.yaml"

Object = dict[str, Any]


def objects_of(path: Path) -> list[Object]:
    """Every document of a file of YAML."""
    return [document for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader) if document]


def find(objects: list[Object], kind: str) -> Object:
    """The one object of this kind."""
    [found] = [each for each in objects if each["kind"] == kind]
    return found


def pod_of(daemon_set: Object) -> Object:
    """The spec of its pods."""
    spec: Object = daemon_set["spec"]["template"]["spec"]
    return spec
