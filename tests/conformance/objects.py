"""Objects in the short form of spec cases, expanded to what the API would serve.

Every word of the short form has one meaning (tests/spec_cases/README.md), and any other word makes the case malformed,
so a typing error cannot become another case.  What is not abbreviated becomes a field of `spec`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.conformance.case import MalformedCaseError

Object = dict[str, Any]

_RANGE = re.compile(r"\[(\d+)-(\d+)\]")
_PORT = re.compile(
    r"(?:(?P<name>[a-z][a-z0-9-]*) )?(?P<port>\d+)(?:/(?P<protocol>TCP|UDP|SCTP))?(?: node (?P<node>\d+))?"
)
_CONDITIONS = {
    "ready": ("ready", True),
    "not-ready": ("ready", False),
    "serving": ("serving", True),
    "not-serving": ("serving", False),
    "terminating": ("terminating", True),
    "not-terminating": ("terminating", False),
}
_HINTS = {"zones": "forZones", "nodes": "forNodes"}
_SLICE_WORDS = {"of", "ports", "endpoints", "family", "labels"}


def expand(text: str) -> list[str]:
    """*text* for each number of a range in it: `10.0.0.[1-3]` is three addresses."""
    match = _RANGE.search(text)
    if not match:
        return [text]
    numbers = range(int(match[1]), int(match[2]) + 1)
    return [
        expanded for number in numbers for expanded in expand(f"{text[: match.start()]}{number}{text[match.end() :]}")
    ]


def words(text: str | int | Iterable[str | int] | None) -> list[str]:
    """The words of a text, or of each text of a list, ranges expanded."""
    parts = [text] if isinstance(text, str | int) else list(text or ())
    return [word for part in parts for short in str(part).split() for word in expand(short)]


def node(name: str = "node-a", **fields: Any) -> Object:
    """A Node as in the recordings, except for *fields*: zone, addresses ("TYPE ADDRESS"), podCIDRs."""
    if unknown := set(fields) - {"zone", "addresses", "podCIDRs"}:
        raise MalformedCaseError(f"node: unknown {', '.join(sorted(unknown))}")
    last = {"node-a": 10, "node-b": 11}[name]
    pods = {"node-a": 1, "node-b": 2}[name]
    zone = fields.get("zone", f"zone-{name[-1]}")
    addresses = fields.get("addresses", [f"InternalIP 192.168.3.{last}", f"InternalIP fd00:3::{last}"])
    pod_cidrs = fields.get("podCIDRs", [f"10.244.{pods}.0/24", f"fd00:10:244:{pods}::/64"])
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone} if zone else {}},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs} if pod_cidrs else {},
        "status": {"addresses": [dict(zip(("type", "address"), text.split(), strict=True)) for text in addresses]},
    }


def service(name: str, short: Mapping[str, Any]) -> Object:
    """A Service: `ip`, `ports`, `ingress`, `labels`, `annotations` are short forms, all else belongs to its spec."""
    spec_fields = {
        key: value for key, value in short.items() if key not in ("ip", "ports", "ingress", "labels", "annotations")
    }
    ips = words(short.get("ip"))
    spec = {
        "type": "ClusterIP",
        **({"clusterIP": ips[0], "clusterIPs": ips} if ips else {}),
        **({"ipFamilies": ["IPv6" if ":" in ip else "IPv4" for ip in ips]} if ips and ips != ["None"] else {}),
        "ports": [_service_port(text) for text in short.get("ports", ())],
        **spec_fields,
    }
    ingress = [{"ip": ip, "ipMode": "VIP"} if isinstance(ip, str) else ip for ip in short.get("ingress", ())]
    metadata = _metadata(name, short.get("labels"), short.get("annotations"))
    status = {"loadBalancer": {"ingress": ingress} if ingress else {}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": status}


def endpoint_slice(name: str, short: Mapping[str, Any]) -> Object:
    """An EndpointSlice: `of` is the Service's name, `endpoints` are texts like `10.244.1.5 node-a not-ready`."""
    if unknown := set(short) - _SLICE_WORDS:
        raise MalformedCaseError(f"slice {name}: unknown {', '.join(sorted(unknown))}")
    endpoints = [endpoint for text in short.get("endpoints", ()) for endpoint in _endpoints(text)]
    first = next((endpoint["addresses"][0] for endpoint in endpoints if endpoint["addresses"]), "")
    of = {"kubernetes.io/service-name": short["of"]} if short.get("of") else {}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _metadata(name, {**of, **short.get("labels", {})}),
        "addressType": short.get("family", "IPv6" if ":" in first else "IPv4"),
        "ports": [_slice_port(port) for port in short.get("ports", ())],
        "endpoints": endpoints,
    }


def _metadata(name: str, labels: Mapping[str, str] | None, annotations: Mapping[str, str] | None = None) -> Object:
    namespace, _, base = name.rpartition("/")
    return {
        "name": base,
        "namespace": namespace or "default",
        **({"labels": dict(labels)} if labels else {}),
        **({"annotations": dict(annotations)} if annotations else {}),
    }


def _parsed_port(text: str | int) -> re.Match[str]:
    match = _PORT.fullmatch(str(text))
    if not match:
        raise MalformedCaseError(f"{text!r} is not a port; write [NAME ]NUMBER[/PROTOCOL][ node NUMBER]")
    return match


def _service_port(text: str | int) -> Object:
    match = _parsed_port(text)
    name = {"name": match["name"]} if match["name"] else {}
    node_port = {"nodePort": int(match["node"])} if match["node"] else {}
    return {**name, "port": int(match["port"]), "protocol": match["protocol"] or "TCP", **node_port}


def _slice_port(port: str | int | Object) -> Object:
    """A text, or a mapping for what has no short form."""
    if isinstance(port, dict):
        return port
    match = _parsed_port(port)
    return {"name": match["name"] or "", "port": int(match["port"]), "protocol": match["protocol"] or "TCP"}


def _endpoints(text: str) -> Iterator[Object]:
    """`ADDRESS [NODE] [WORD ...]`; a condition without a word is not set."""
    for expanded in expand(text):
        address, *options = expanded.split()
        endpoint: Object = {"addresses": [] if address == "nowhere" else [address], "conditions": {}}
        for word in options:
            key, equals, names = word.partition("=")
            if word in _CONDITIONS:
                condition, value = _CONDITIONS[word]
                endpoint["conditions"][condition] = value
            elif equals and key in _HINTS:
                hints = endpoint.setdefault("hints", {})
                hints[_HINTS[key]] = [{"name": name} for name in names.split("+")]
            elif word.startswith("node-"):
                endpoint["nodeName"] = word
            else:
                raise MalformedCaseError(f"endpoint {text!r}: unknown word {word!r}")
        yield endpoint
