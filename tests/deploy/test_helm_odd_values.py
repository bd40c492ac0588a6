"""Odd values of the chart are refused by helm, or render objects that an API server accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.deploy.api_server_rules import problems
from tests.deploy.manifests import Object, objects_of
from tests.deploy.rendering import CHART, VALUES_FOLDER, chart_objects, documents, template
from tests.kubernetes_schemas import validate

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
_VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
[VALUES] = objects_of(CHART / "values.yaml")

# The setting, and the place or text that helm's message must have.
REFUSED: dict[str, tuple[str, str]] = {
    "label value with a space": ("commonLabels.team=the proxies", "/commonLabels/team"),
    "label key with two slashes": ("podLabels.a/b/c=x", "invalid propertyName 'a/b/c'"),
    "label that selects the pods": (
        "podLabels.app\\.kubernetes\\.io/name=other",
        "invalid propertyName 'app.kubernetes.io/name'",
    ),
    "node selector of 64 characters": ("nodeSelector.zone=" + "x" * 64, "/nodeSelector/zone"),
    "memory in megabytes": ("resources.limits.memory=512MB", "/resources/limits/memory"),
    "negative CPU": ("resources.requests.cpu=-1", "/resources/requests/cpu"),
    "resource without a prefix": ("resources.limits.gpu=1", "invalid propertyName 'gpu'"),
    "limit below the default request": ("resources.limits.memory=32Mi", "the request of memory, 64Mi, is above"),
    "request above the default limit": ("resources.requests.memory=1Gi", "the request of memory, 1Gi, is above"),
    "request above the limit of init": (
        "init.resources.requests.cpu=1,init.resources.limits.cpu=900m",
        "init.resources: the request of cpu",
    ),
    "port above 65535": ("config.metricsBindAddress=0.0.0.0:99999", "config.metricsBindAddress: 99999"),
    "port 0": ("config.healthzBindAddress=0.0.0.0:0", "config.healthzBindAddress: 0"),
    "one port for both": ("config.metricsBindAddress=0.0.0.0:10256", "both have port 10256"),
    "duration without a unit": ("agent.drainDeadline=10", "/agent/drainDeadline"),
    "duration with two points": ("agent.drainDeadline=1.2.3s", "/agent/drainDeadline"),
    "interval of two words": ("podMonitor.interval=30 s", "/podMonitor/interval"),
    "name in capitals": ("fullnameOverride=Proxy", "/fullnameOverride"),
    "name of a number": ("fullnameOverride=123", "/fullnameOverride"),
    "name that leaves no room for a Service": ("fullnameOverride=" + "x" * 60, "/fullnameOverride"),
    "service account with an underscore": ("serviceAccount.name=kube_proxy", "/serviceAccount/name"),
    "priority class with a space": ("priorityClassName=very important", "/priorityClassName"),
    "namespace with a dot": ("prometheusRule.namespace=a.b", "/prometheusRule/namespace"),
    "toleration without a key": ("tolerations[0].operator=Equal", "/tolerations/0"),
    "toleration of any value": ("tolerations[0].operator=Exists,tolerations[0].value=x", "/tolerations/0"),
    "toleration with an unknown effect": (
        "tolerations[0].operator=Exists,tolerations[0].effect=Never",
        "/tolerations/0/effect",
    ),
    "seconds without NoExecute": (
        "tolerations[0].operator=Exists,tolerations[0].tolerationSeconds=5",
        "/tolerations/0",
    ),
    "misspelt affinity": ("affinity.nodeAfinity.x=y", "/affinity"),
    "affinity without a topology": (
        "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespaces[0]=a",
        "topologyKey",
    ),
    "surge, for which the ports are not free": (
        "updateStrategy.rollingUpdate.maxSurge=1",
        "/updateStrategy/rollingUpdate/maxSurge",
    ),
    "no node at a time": (
        "updateStrategy.rollingUpdate.maxUnavailable=0",
        "/updateStrategy/rollingUpdate/maxUnavailable",
    ),
    "unknown strategy": ("updateStrategy.type=Recreate", "/updateStrategy/type"),
    "two successes of a liveness probe": ("livenessProbe.successThreshold=2", "/livenessProbe/successThreshold"),
    "grace of a readiness probe": ("readinessProbe.terminationGracePeriodSeconds=5", "/readinessProbe"),
    "step back in a path": ("agent.stateDir=/var/lib/../x", "/agent/stateDir"),
    "path with a comma": ("agent.stateDir=/var/lib/a\\,b", "/agent/stateDir"),
    "state where the modules are": ("agent.stateDir=/lib/modules", "two volumes are mounted at /lib/modules"),
    "volume of the chart's name": (
        "extraVolumes[0].name=state,extraVolumes[0].emptyDir.medium=Memory",
        "state already",
    ),
    "volume of an unknown kind": ("extraVolumes[0].name=x,extraVolumes[0].hostpath.path=/x", "/extraVolumes/0"),
    "mount of no volume": ("extraVolumeMounts[0].name=x,extraVolumeMounts[0].mountPath=/x", "the pod has no volume x"),
    "container without an image": ("extraContainers[0].name=sidecar", "/extraContainers/0"),
    "container of the chart's name": (
        "extraContainers[0].name=kubeproxy-py,extraContainers[0].image=x",
        "/extraContainers/0/name",
    ),
    "variable that the chart sets": ("extraEnv[0].name=NODE_NAME,extraEnv[0].value=x", "/extraEnv/0"),
    "variable without a name": ("extraEnv[0].value=x", "/extraEnv/0"),
    "pull secret as a text": ("imagePullSecrets[0]=registry", "/imagePullSecrets/0"),
    "repository with a tag's space": ("image.repository=a b", "/image/repository"),
    "tag with a slash": ("image.tag=1/2", "/image/tag"),
    "API server with a space": ("apiServer=https://10.0.0.1 :6443", "/apiServer"),
    "misspelt action of a relabelling": (
        "podMonitor.relabelings[0].action=repalce",
        "/podMonitor/relabelings/0/action",
    ),
}


@pytest.mark.parametrize(("setting", "message"), REFUSED.values(), ids=REFUSED)
def test_values_that_an_api_server_refuses_are_refused_by_helm(setting: str, message: str) -> None:
    done = template(f"--values={VALUES_FOLDER}/defaults.yaml", f"--set={setting}")
    assert done.returncode != 0, "helm renders it"
    assert message in done.stderr


# Odd values for every value that is a text or a number.  Those that the schema accepts are rendered together.

_ODD: tuple[Any, ...] = (
    *(
        "",
        " ",
        "x",
        "true",
        "null",
        "~",
        "123",
        "1e3",
        "0x10",
        "1.10",
        "a,b: {c}",
        "- x",
        "# x",
        "a b",
        "A",
        "-a",
        "a-",
    ),
    *("a_b", "a.b", "x" * 64, "x" * 254, "é", "a\nb", "a: b", '"', "'", "*", "@x", "0", "1"),
    *(0, 1, -1, 65536, 2**31, 2**40, 1.5, True, None),
)
_LEFT_OUT = {
    ("apiServer",): "required with its scheme",
    ("existingConfigMap",): "renders no configuration",
    ("image", "digest"): "its pattern is in test_helm.py",
}
_SWITCHES = ("prometheusRule", "dashboard")


def leaves(values: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each value that is no object and no list."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, name))
        elif not isinstance(value, list) and (*above, name) not in _LEFT_OUT and above[:1] != ("config",):
            yield (*above, name)


# Values that are empty by default, with an entry of each that takes the odd value.
_MAPS = ("commonLabels", "commonAnnotations", "podLabels", "podAnnotations", "nodeSelector")
ENTRIES = tuple((name, key) for name in _MAPS for key in ("odd", "o/d"))
PLACES = (*leaves(VALUES), *ENTRIES, ("podMonitor", "labels", "odd"), ("serviceAccount", "annotations", "odd"))


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return dict(value)


def merged(base: Any, over: Any) -> Any:
    """Return *base* with the values of *over*, as helm merges two files."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {name: merged(base.get(name), value) for name, value in over.items()}


def is_accepted(path: tuple[str, ...], value: Any) -> bool:
    """Return whether the schema accepts *value* at *path*; null is helm's word for deleting a default."""
    if value is None:
        return False
    return bool(_VALIDATOR.is_valid(merged(VALUES, nested(path, value))))


@pytest.mark.parametrize("monitor", ["podMonitor", "serviceMonitor"])
@pytest.mark.parametrize("odd", _ODD, ids=repr)
def test_odd_values_that_the_schema_accepts_render_objects_that_an_api_server_accepts(
    odd: Any, monitor: str, tmp_path: Path
) -> None:
    values: Any = {name: {"enabled": True} for name in (monitor, *_SWITCHES)}
    values["config"] = {"metricsBindAddress": "0.0.0.0:10249"}
    for path in PLACES:
        if is_accepted(path, odd) and path[-1] not in ("enabled", "create"):
            values = merged(values, nested(path, odd))
    if values.get("resources"):  # an odd request is above the default limit, which has a test of its own
        values["resources"] = {"requests": values["resources"].get("requests", {}), "limits": None}
    written = tmp_path / "values.json"  # YAML as helm reads it: PyYAML writes "1e3" without quotes
    written.write_text(json.dumps(values))
    objects = chart_objects(f"--values={written}")
    expected = {"PodMonitor"} if monitor == "podMonitor" else {"ServiceMonitor", "Service"}
    assert {"DaemonSet", "PrometheusRule", *expected} <= {document["kind"] for document in objects}
    for document in objects:
        check(document)


# null deletes a default, as in `resources: null`.

NULLS = [(name,) for name in VALUES if name != "apiServer"] + [path for path in leaves(VALUES) if len(path) > 1]


@pytest.mark.parametrize("path", NULLS, ids=".".join)
def test_value_whose_default_is_deleted_is_refused_by_the_schema_or_valid(
    path: tuple[str, ...], tmp_path: Path
) -> None:
    switched_on = {"config": {"metricsBindAddress": "0.0.0.0:10249"}, "podMonitor": {"enabled": True},
                   "prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}  # fmt: skip
    written = tmp_path / "values.json"
    written.write_text(json.dumps(merged(switched_on if path[0] != "config" else {}, nested(path, None))))
    done = template(f"--values={VALUES_FOLDER}/defaults.yaml", f"--values={written}")
    if done.returncode:
        assert "missing property" in done.stderr
    assert [problem for document in documents(done.stdout) for problem in problems(document)] == []


def test_deleted_defaults_of_the_agent_are_its_own_defaults() -> None:
    nulls = ",".join(f"agent.{name}=null" for name in VALUES["agent"])
    [container] = chart_objects(f"--set={nulls}")[-1]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["--config=/var/lib/kube-proxy/config.conf", "--hostname-override=$(NODE_NAME)"]


def check(document: Object) -> None:
    assert not problems(document), document["kind"]
    if not document["apiVersion"].startswith("monitoring.coreos.com/"):
        validate(document, "1.36")


def test_some_odd_value_is_accepted_at_most_places() -> None:
    """The test above would be empty otherwise."""
    accepted = {path for path in PLACES if any(is_accepted(path, odd) for odd in _ODD)}
    assert len(accepted) > 0.9 * len(PLACES), set(PLACES) - accepted


def test_rules_find_what_is_wrong_in_an_object() -> None:
    """Each rule in one object, so that none is empty."""
    document = next(document for document in chart_objects() if document["kind"] == "DaemonSet")
    pod = document["spec"]["template"]["spec"]
    document["metadata"] |= {"name": "a_b", "namespace": "a.b", "labels": {"a/b/c": "x"}, "annotations": {"x": 1}}
    document["spec"]["selector"]["matchLabels"] = {"other": "x"}
    document["spec"]["updateStrategy"] = {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}
    pod |= {"priorityClassName": "A", "nodeSelector": {"x": "a b"}, "tolerations": [{"value": "x"}]}
    pod["volumes"] += [{"name": "config"}, {"name": "B", "hostPath": {"path": "/a/../b"}}]
    [container] = pod["containers"]
    container |= {"image": " x", "resources": {"requests": {"cpu": "1x"}, "limits": {"memory": "-1"}}}
    container["ports"][0] |= {"containerPort": 0, "hostPort": container["ports"][1]["hostPort"]}
    container["volumeMounts"] += [{"name": "none", "mountPath": "/lib/modules"}]
    container["livenessProbe"]["successThreshold"] = 2
    container["readinessProbe"]["terminationGracePeriodSeconds"] = 2
    container["env"] += [{"name": "a=b"}]
    container["resources"]["requests"]["memory"], container["resources"]["limits"]["ephemeral-storage"] = "2", "1Gb"
    assert len(problems(document)) == 24
