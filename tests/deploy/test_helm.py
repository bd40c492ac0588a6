"""The Helm chart renders the same objects as deploy/daemonset.yaml.

Without helm (apt and PyPI have none) the tests that render the chart are skipped.  The others always run: the chart's
files are consistent, and security contexts and roles in the templates are those of the manifest.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.manifests import BASE, DEPLOY, Object, objects_of

CHART = DEPLOY / "helm/kubeproxy-py"
TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}
[VALUES] = objects_of(CHART / "values.yaml")
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
SERVER = "https://control-plane.example:6443"


def rendered(*settings: str) -> list[Object]:
    """Return the objects that helm renders from the chart; skip if helm is not installed."""
    if not shutil.which("helm"):
        pytest.skip("helm is not installed: the chart is not rendered")
    words = ["helm", "template", "kubeproxy-py", str(CHART), "--namespace=kube-system", f"--set=apiServer={SERVER}"]
    done = subprocess.run([*words, *settings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def canonical(document: Object) -> Object:
    """Return *document* with the files of a ConfigMap parsed, and without fields that have no effect."""
    if document["kind"] == "ConfigMap":
        return {**document, "data": {name: yaml.safe_load(text) for name, text in document["data"].items()}}
    if document["kind"] == "DaemonSet":
        spec = document["spec"]["template"]["spec"]
        for container in (*spec["containers"], *spec["initContainers"]):
            container.pop("imagePullPolicy", None)
    return document


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    return {(document["kind"], document["metadata"]["name"]): canonical(document) for document in objects}


def test_helm_renders_the_manifest() -> None:
    assert by_name(rendered()) == by_name(objects_of(BASE))


@pytest.mark.parametrize("settings", [[], ["--set=init.enabled=false"], ["--set=existingConfigMap=kube-proxy"]])
def test_objects_rendered_by_helm_are_valid(settings: list[str]) -> None:
    for document in rendered(*settings):
        kubernetes_validate.validate(document, "1.36", strict=True)


def values_named() -> set[tuple[str, ...]]:
    return {tuple(path.split(".")) for text in TEMPLATES.values() for path in re.findall(r"\.Values\.([\w.]+)", text)}


def test_each_value_of_a_template_has_a_default() -> None:
    for path in values_named():
        value: Any = VALUES
        for word in path:
            assert word in value, ".".join(path)
            value = value[word]


def test_each_value_is_used_by_a_template() -> None:
    assert {path[0] for path in values_named()} == set(VALUES)


def test_schema_accepts_the_defaults_and_rejects_a_misspelt_value() -> None:
    jsonschema.validate(VALUES, SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match="inti"):
        jsonschema.validate({**VALUES, "inti": {"enabled": False}}, SCHEMA)


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_actions_and_blocks_are_closed(name: str) -> None:
    text = TEMPLATES[name]
    assert "{{" not in re.sub(r"{{.*?}}", "", text)
    opened = re.findall(r"{{-? *(?:if|with|range|define)\b", text)
    assert len(opened) == len(re.findall(r"{{-? *end\b", text))


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith(".yaml")])
def test_templates_without_their_actions_are_yaml(name: str) -> None:
    lines = (line for line in TEMPLATES[name].splitlines() if not re.fullmatch(r" *{{.*}}", line))
    documents = list(yaml.safe_load_all(re.sub(r"{{.*?}}", "", "\n".join(lines))))
    assert all(document["kind"] and document["metadata"]["name"] == "kubeproxy-py" for document in documents)


def test_role_of_the_chart_is_that_of_the_manifest() -> None:
    text = re.sub(r"{{.*?}}", "kube-system", TEMPLATES["access.yaml"])  # its only action is the namespace
    kinds = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
    shipped = [document for document in objects_of(BASE) if document["kind"] in kinds]
    assert by_name(list(yaml.safe_load_all(text))) == by_name(shipped)


def test_security_contexts_of_the_chart_are_those_of_the_manifest() -> None:
    text = TEMPLATES["daemonset.yaml"]
    contexts = re.findall(r"^          securityContext:\n((?:            .*\n)+)", text, re.MULTILINE)
    daemon_set = next(document for document in objects_of(BASE) if document["kind"] == "DaemonSet")
    spec = daemon_set["spec"]["template"]["spec"]
    expected = [container["securityContext"] for container in (*spec["initContainers"], *spec["containers"])]
    assert [yaml.safe_load(context) for context in contexts] == expected
