"""A real kube-apiserver of any release in api_objects.yaml, where KUBEBUILDER_ASSETS names one, serves such objects.

It gets each object without what it sets itself, and must return the fields that api_objects.yaml has.  Controllers do
not run: the test writes what they and kubelet would.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kubeproxy_py import cli
from kubeproxy_py.commands import plan as plan_module
from kubeproxy_py.sources.decode.objects import decode
from tests.apiserver.client import Client, path_of
from tests.apiserver.objects import Json, kubeconfig
from tests.apiserver.real import binaries, real_server
from tests.sources.api_expected import real_servers
from tests.sources.api_fields import MINORS, OPAQUE, errors, leaves
from tests.sources.api_versions import FIRST_WITH_SLICES, objects_of
from tests.sources.conftest import PATIENCE_S

_OF_SERVER = {"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"}
_DEFAULTS: Json = {"type": "ClusterIP", "sessionAffinity": "None", "externalTrafficPolicy": "Cluster"}
_SET_OR_DEFAULT = {
    *("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort", "sessionAffinityConfig"),
    *("allocateLoadBalancerNodePorts", "internalTrafficPolicy"),
}
# Dropped from what is written as v1, and kept where it was written as v1beta1, which only 1.20 to 1.24 serve.
_NOT_WRITABLE = "endpoints[].deprecatedTopology."


def as_sent(item: Json) -> Json:
    """Return *item* without what the server sets, and without defaults that it fills in."""
    meta = {key: value for key, value in item["metadata"].items() if key not in _OF_SERVER}
    sent = {**item, "metadata": meta}
    if item["kind"] == "Service":
        spec = {key: value for key, value in item["spec"].items() if _DEFAULTS.get(key) != value}
        kept = {key: value for key, value in spec.items() if key not in _SET_OR_DEFAULT or value == "None"}
        sent["spec"] = {**kept, "ports": [_port_as_sent(port) for port in spec.get("ports", [])]}
    return sent


def _port_as_sent(port: Json) -> Json:
    defaults = {"protocol": "TCP", "targetPort": port["port"], "nodePort": port.get("nodePort")}
    return {key: value for key, value in port.items() if defaults.get(key) != value}


def served(client: Client, item: Json) -> Json:
    """Write *item* and its status, and return it as it is served; the server has its own Service already."""
    path = path_of(item)
    if client.request_json("GET", path)[0] == 404:
        sent = as_sent(item)
        status, answer = client.request_json("POST", path.rpartition("/")[0], sent)
        assert status == 201, answer
        if "status" in item:
            status, answer = client.request_json("PUT", f"{path}/status", {**answer, "status": item["status"]})
            assert status == 200, answer
    return client.request_json("GET", path)[1]


def fields_of(item: Json) -> set[str]:
    """Return the fields of *item* with the keys of maps, but not who wrote them."""
    left_out = (OPAQUE, "metadata.managedFields[].subresource", _NOT_WRITABLE)
    return {path for path, _ in leaves(item, with_keys=True) if not path.startswith(left_out)}


class Written(NamedTuple):
    """A server, and its objects."""

    admin: Client
    minor: int
    pairs: list[tuple[Json, Json]]  # ours, and what the server serves


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    folder = binaries()
    if folder is None:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd")
    with real_server(folder, tmp_path_factory.mktemp("objects")) as admin:
        minor = int(admin.request_json("GET", "/version")[1]["minor"].rstrip("+"))
        if minor not in MINORS:
            pytest.skip(f"there are no objects of 1.{minor}")
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
        assert admin.request_json("POST", "/api/v1/namespaces", namespace)[0] == 201
        yield Written(admin, minor, [(item, served(admin, item)) for item in objects_of(minor)])


def test_real_server_serves_the_fields_of_the_objects(written: Written) -> None:
    for ours, found in written.pairs:
        assert (fields_of(found), errors(found, written.minor)) == (fields_of(ours), []), ours["metadata"]["name"]


def test_objects_of_a_real_server_are_decoded_to_the_same_values(written: Written) -> None:
    """Except for Services, of which the server chooses addresses and ports."""
    for ours, found in written.pairs:
        result = decode(ours["kind"], found, origin="API")
        assert result.problems == ()
        assert ours["kind"] == "Service" or result.values == decode(ours["kind"], ours, origin="API").values


def test_objects_of_a_real_server_give_the_same_endpoints(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real server has Services of one family."""
    monkeypatch.setattr(plan_module, "LIST_TIMEOUT_S", PATIENCE_S)
    config = kubeconfig(tmp_path, written.admin)
    argv = ["plan", "--assume-empty", "--output=json", "--hostname-override=node-a", f"--kubeconfig={config}"]
    assert cli.main([*argv, "--cluster-cidr=198.51.100.0/24"]) == 2
    printed = capsys.readouterr()
    steps = json.loads(printed.out)
    found = {str(step["key"]).partition(" -> ")[2] for step in steps if step["kind"] == "RealServer"}
    expected = real_servers(written.minor, from_slices=written.minor >= FIRST_WITH_SLICES)
    pods = {key.partition(" -> ")[2] for key in expected}
    assert (found, printed.err) == ({pod for pod in pods if not pod.startswith("[")}, "")
