"""The forms of an EndpointSlice on servers before 1.21, which tests with such a server rely on."""

from kubeproxy_py.model.services import EndpointSlice
from kubeproxy_py.sources.decode.objects import decode
from tests.apiserver.objects import Json
from tests.apiserver.old_servers import both_forms

PART: Json = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "endpoints": [
        {"addresses": ["10.244.1.5"], "nodeName": "node-a", "zone": "zone-1", "hints": {"forZones": [{"name": "z"}]}},
        {"addresses": ["10.244.2.5"], "nodeName": "node-b", "conditions": {"ready": False}},
    ],
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
}


def test_endpoints_decode_as_the_slice_does() -> None:
    _, endpoints = both_forms(PART)
    (one,), (other,) = (decode(str(body["kind"]), body).values for body in (PART, endpoints))  # type: ignore[arg-type]
    assert isinstance(one, EndpointSlice)
    assert isinstance(other, EndpointSlice)
    assert other.service == one.service
    assert other.ports == one.ports
    assert [(each.address, each.node, each.ready) for each in other.endpoints] == [
        (each.address, each.node, each.ready) for each in one.endpoints
    ]


def test_v1beta1_has_the_node_as_a_label_and_no_field_of_v1() -> None:
    slices, _ = both_forms(PART)
    assert slices["apiVersion"] == "discovery.k8s.io/v1beta1"
    assert [endpoint["topology"] for endpoint in slices["endpoints"]] == [
        {"kubernetes.io/hostname": "node-a", "topology.kubernetes.io/zone": "zone-1"},
        {"kubernetes.io/hostname": "node-b"},
    ]
    assert not {"nodeName", "zone", "hints"} & {name for endpoint in slices["endpoints"] for name in endpoint}
