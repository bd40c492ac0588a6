"""A real kube-apiserver of any release in api_objects.yaml, where KUBEBUILDER_ASSETS names one, serves such objects.

It gets each object without what it sets itself, and must return the fields that api_objects.yaml has.  Controllers do
not run: the test writes what they and kubelet would.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kubeproxy_py.sources.decode.objects import decode
from tests.apiserver.client import Client, path_of
from tests.apiserver.objects import Json
from tests.apiserver.real import binaries, real_server
from tests.sources.api_fields import MINORS, OPAQUE, errors, leaves
from tests.sources.api_versions import objects_of

_OF_SERVER = {"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"}
_DEFAULTS: Json = {"type": "ClusterIP", "sessionAffinity": "None", "externalTrafficPolicy": "Cluster"}
_SET_OR_DEFAULT = {
    *("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort", "sessionAffinityConfig"),
    *("allocateLoadBalancerNodePorts", "internalTrafficPolicy"),
}
# Dropped from what is written as v1, and kept where it was written as v1beta1, which only 1.20 to 1.24 serve.
_NOT_WRITABLE = "endpoints[].deprecatedTopology."


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = binaries()
    if folder is None:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd")
    with real_server(folder, tmp_path_factory.mktemp("objects")) as client:
        yield client


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


def test_real_server_serves_the_fields_of_the_objects(real: Client) -> None:
    minor = int(real.request_json("GET", "/version")[1]["minor"].rstrip("+"))
    if minor not in MINORS:
        pytest.skip(f"there are no objects of 1.{minor}")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    assert real.request_json("POST", "/api/v1/namespaces", namespace)[0] == 201
    for item in objects_of(minor):
        found = served(real, item)
        assert (fields_of(found), errors(found, minor)) == (fields_of(item), []), item["metadata"]["name"]
        result = decode(item["kind"], found, origin="API")
        assert result.problems == ()
        if item["kind"] != "Service":  # of which the server chooses addresses and ports
            assert result.values == decode(item["kind"], item, origin="API").values
