"""Known fields: the strict twin of a wire form accepts what Kubernetes has, and decodes to the same values."""

import json
from typing import Any

import msgspec
import pytest

from kubeproxy_py.sources.decode.known_fields import strict, unknown_fields
from kubeproxy_py.sources.decode.schema import EndpointsWire, NodeWire, ServiceWire, SliceWire, Wire
from tests.sources.manifest_objects import Json, endpoint_slice, node, service

_META = {"name": "web", "uid": "u", "managedFields": [{}], "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}
_ADDRESS = {"ip": "10.1.0.5", "nodeName": "node-a", "targetRef": {"kind": "Pod"}, "hostname": "web-0"}


@pytest.mark.parametrize(
    ("wire", "plain"),
    [
        (ServiceWire, {**service(ports=[{"port": 80, "targetPort": 8080}], selector={"a": "b"}), "metadata": _META}),
        (SliceWire, {**endpoint_slice(), "endpoints": [{"addresses": ["10.1.0.5"], "zone": "a", "targetRef": {}}]}),
        (EndpointsWire, {"apiVersion": "v1", "subsets": [{"addresses": [_ADDRESS], "notReadyAddresses": None}]}),
        (NodeWire, {**node("node-a"), "status": {"addresses": [], "nodeInfo": {}, "images": []}, "spec": None}),
    ],
)
def test_strict_twin_reads_what_the_wire_form_reads(wire: type[Any], plain: Json) -> None:
    body = json.dumps(plain).encode()
    twin = msgspec.json.decode(body, type=strict(wire))
    assert list(unknown_fields(wire, plain)) == []
    lenient = msgspec.json.decode(body, type=wire)
    assert _read_values(twin, wire) == _read_values(lenient, wire)


def _read_values(value: Any, wire: Any) -> Any:
    """Return the fields of *value* that *wire*, its class without unread fields, has."""
    if isinstance(value, list):
        return [_read_values(item, _lenient(type(item))) for item in value]
    if not isinstance(value, Wire):
        return value
    names = wire.__struct_fields__
    return {name: _read_values(part := getattr(value, name), _lenient(type(part))) for name in names}


def _lenient(twin: type[Any]) -> type[Any]:
    return twin.__base__ if twin.__name__.startswith("Strict") and twin.__base__ else twin


@pytest.mark.parametrize("path", [("spec",), ("spec", "ports", 0), ("metadata",), ()])
def test_strict_twin_rejects_an_unknown_field_wherever_unknown_fields_finds_it(path: tuple[Any, ...]) -> None:
    plain = service()
    part: Any = plain
    for key in path:
        part = part[key]
    part["nowhere"] = 1
    (unknown,) = unknown_fields(ServiceWire, plain)
    assert unknown.path.endswith("nowhere") and unknown.key == "nowhere"
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(plain).encode(), type=strict(ServiceWire))
