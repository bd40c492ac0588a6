"""A table of changes: the files, all steps that each change causes, and the pods that answer afterwards.

A step on a row of another Service would be one too many: `web`, `dns` and `extra` change where they are named, `other`
never does.
"""

from __future__ import annotations

from typing import NamedTuple

from lab.echo import Protocol
from tests.e2e.manifests import Object, Port, endpoint_slice, service, service_with_slice

WEB_PORT = Port(80, "TCP", 8080, 30080)
DNS_PORT = Port(53, "UDP", 8080)

Files = dict[str, list[Object]]
Front = tuple[Protocol, str, int]


def web(pods: tuple[str, ...] = ("pod-a1", "pod-b1"), port: Port = WEB_PORT, ip: str = "10.96.0.10") -> list[Object]:
    return service_with_slice("web", ip, pods, [port])


BASE: Files = {
    "web": web(),
    "dns": service_with_slice("dns", "10.96.0.53", ["pod-a1", "pod-b1"], [DNS_PORT]),
    "extra": service_with_slice("extra", "10.96.0.30", ["pod-b3"]),
    "other": service_with_slice("other", "10.96.0.20", ["pod-a2", "pod-b2"], [Port(80, "TCP", 8091, 30090)]),
}
NEW = service_with_slice("new", "10.96.0.77", ["pod-b3"])


def base_with(files: Files) -> Files:
    """Return BASE with *files* replaced; the file `new`, which is not in BASE, is empty unless given."""
    return {"new": [], **BASE, **files}


CLUSTER: Front = ("tcp", "10.96.0.10", 80)
NODE: Front = ("tcp", "192.168.3.10", 30080)
DNS: Front = ("udp", "10.96.0.53", 53)


class Change(NamedTuple):
    """One change of BASE.

    files: the files that are written; one without objects is emptied.
    steps: the steps at once.
    drained: the steps a second later, when draining has ended.
    answers: the pods that answer at a front between the two; none: the request is rejected.
    """

    name: str
    files: Files
    steps: list[str]
    drained: list[str]
    answers: dict[Front, set[str]]

    def __str__(self) -> str:
        return self.name


def _on(fronts: tuple[Front, ...], verb: str, server: str, to: str = "") -> list[str]:
    return [f"{verb} RealServer {ip}:{port}/{protocol.upper()} -> {server}{to}" for protocol, ip, port in fronts]


_BOTH = (CLUSTER, NODE)
_WEIGHT_0, _WEIGHT_1 = " to weight 0", " to weight 1"
_A1, _A2, _B1, _B2 = "10.244.1.5:8080", "10.244.1.6:8080", "10.244.2.5:8080", "10.244.2.6:8080"
_A1_8091, _B1_8091 = "10.244.1.5:8091", "10.244.2.5:8091"


def _hairpin(verb: str, ip: str, port: int) -> str:
    return f"{verb} IpsetEntry KUBE-LOOP-BACK {ip},tcp:{port},{ip}"


def _unready() -> list[Object]:
    return [web()[0], endpoint_slice("web", ["pod-b1"], [WEB_PORT], unready=["pod-a1"])]


def _relabelled() -> list[Object]:
    objects = web()
    for each in objects:
        each["metadata"]["annotations"] = {"note": "seen"}
    return objects


_AFFINE = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}

CHANGES = (
    Change(
        "remote endpoint added",
        {"web": web(("pod-a1", "pod-b1", "pod-b2"))},
        _on(_BOTH, "add", _B2),
        [],
        {CLUSTER: {"pod-a1", "pod-b1", "pod-b2"}, NODE: {"pod-a1", "pod-b1", "pod-b2"}},
    ),
    Change(
        "local endpoint added",
        {"web": web(("pod-a1", "pod-a2", "pod-b1"))},
        [_hairpin("add", "10.244.1.6", 8080), *_on(_BOTH, "add", _A2)],
        [],
        {CLUSTER: {"pod-a1", "pod-a2", "pod-b1"}, NODE: {"pod-a1", "pod-a2", "pod-b1"}},
    ),
    Change(
        "remote endpoint removed",
        {"web": web(("pod-a1",))},
        _on(_BOTH, "update", _B1, _WEIGHT_0),
        _on(_BOTH, "delete", _B1),
        {CLUSTER: {"pod-a1"}, NODE: {"pod-a1"}},
    ),
    Change(
        "local endpoint removed",
        {"web": web(("pod-b1",))},
        [*_on(_BOTH, "update", _A1, _WEIGHT_0), _hairpin("delete", "10.244.1.5", 8080)],
        _on(_BOTH, "delete", _A1),
        {CLUSTER: {"pod-b1"}, NODE: {"pod-b1"}},
    ),
    Change(
        "endpoint made unready",  # its connections may continue, so its hairpin entry stays
        {"web": _unready()},
        _on(_BOTH, "update", _A1, _WEIGHT_0),
        _on(_BOTH, "delete", _A1),
        {CLUSTER: {"pod-b1"}, NODE: {"pod-b1"}},
    ),
    Change(
        "UDP endpoint removed",  # UDP does not drain
        {"dns": service_with_slice("dns", "10.96.0.53", ["pod-b1"], [DNS_PORT])},
        [
            "delete RealServer 10.96.0.53:53/UDP -> 10.244.1.5:8080",
            "delete IpsetEntry KUBE-LOOP-BACK 10.244.1.5,udp:8080,10.244.1.5",
        ],
        [],
        {DNS: {"pod-b1"}},
    ),
    Change(
        "pods' port changed",
        {"web": web(port=WEB_PORT._replace(target=8091))},
        [
            _hairpin("add", "10.244.1.5", 8091),
            *_on(_BOTH, "add", _A1_8091),
            *_on(_BOTH, "add", _B1_8091),
            *_on(_BOTH, "update", _A1, _WEIGHT_0),
            *_on(_BOTH, "update", _B1, _WEIGHT_0),
            _hairpin("delete", "10.244.1.5", 8080),
        ],
        [*_on(_BOTH, "delete", _A1), *_on(_BOTH, "delete", _B1)],
        {CLUSTER: {"pod-a1:8091", "pod-b1:8091"}, NODE: {"pod-a1:8091", "pod-b1:8091"}},
    ),
    Change(
        "Service created",
        {"new": NEW},
        [
            "add IpsetEntry KUBE-CLUSTER-IP 10.96.0.77,tcp:80",
            "add IpsetEntry KUBE-IPVS-IPS 10.96.0.77",
            "add VirtualServer 10.96.0.77:80/TCP",
            "add RealServer 10.96.0.77:80/TCP -> 10.244.2.7:8080",
            "add Address 10.96.0.77",
        ],
        [],
        {("tcp", "10.96.0.77", 80): {"pod-b3"}},
    ),
    Change(
        "Service deleted",
        {"extra": []},
        [
            "delete Address 10.96.0.30",
            "delete RealServer 10.96.0.30:80/TCP -> 10.244.2.7:8080",
            "delete VirtualServer 10.96.0.30:80/TCP",
            "delete IpsetEntry KUBE-IPVS-IPS 10.96.0.30",
            "delete IpsetEntry KUBE-CLUSTER-IP 10.96.0.30,tcp:80",
        ],
        [],
        {("tcp", "10.96.0.30", 80): set()},
    ),
    Change(
        "Service's port changed",
        {"web": web(port=WEB_PORT._replace(number=81))},
        [
            "add IpsetEntry KUBE-CLUSTER-IP 10.96.0.10,tcp:81",
            "add VirtualServer 10.96.0.10:81/TCP",
            "add RealServer 10.96.0.10:81/TCP -> 10.244.1.5:8080",
            "add RealServer 10.96.0.10:81/TCP -> 10.244.2.5:8080",
            *_on((CLUSTER,), "delete", _A1),
            *_on((CLUSTER,), "delete", _B1),
            "delete VirtualServer 10.96.0.10:80/TCP",
            "delete IpsetEntry KUBE-CLUSTER-IP 10.96.0.10,tcp:80",
        ],
        [],
        {("tcp", "10.96.0.10", 81): {"pod-a1", "pod-b1"}, CLUSTER: set(), NODE: {"pod-a1", "pod-b1"}},
    ),
    Change(
        "nodePort changed",
        {"web": web(port=WEB_PORT._replace(node_port=30081))},
        [
            "add IpsetEntry KUBE-NODE-PORT-TCP 30081",
            "add VirtualServer 192.168.3.10:30081/TCP",
            "add RealServer 192.168.3.10:30081/TCP -> 10.244.1.5:8080",
            "add RealServer 192.168.3.10:30081/TCP -> 10.244.2.5:8080",
            *_on((NODE,), "delete", _A1),
            *_on((NODE,), "delete", _B1),
            "delete VirtualServer 192.168.3.10:30080/TCP",
            "delete IpsetEntry KUBE-NODE-PORT-TCP 30080",
        ],
        [],
        {("tcp", "192.168.3.10", 30081): {"pod-a1", "pod-b1"}, NODE: set(), CLUSTER: {"pod-a1", "pod-b1"}},
    ),
    Change(
        "clusterIP changed",
        {"web": web(ip="10.96.0.11")},
        [
            "add IpsetEntry KUBE-CLUSTER-IP 10.96.0.11,tcp:80",
            "add IpsetEntry KUBE-IPVS-IPS 10.96.0.11",
            "add VirtualServer 10.96.0.11:80/TCP",
            "add RealServer 10.96.0.11:80/TCP -> 10.244.1.5:8080",
            "add RealServer 10.96.0.11:80/TCP -> 10.244.2.5:8080",
            "add Address 10.96.0.11",
            "delete Address 10.96.0.10",
            *_on((CLUSTER,), "delete", _A1),
            *_on((CLUSTER,), "delete", _B1),
            "delete VirtualServer 10.96.0.10:80/TCP",
            "delete IpsetEntry KUBE-IPVS-IPS 10.96.0.10",
            "delete IpsetEntry KUBE-CLUSTER-IP 10.96.0.10,tcp:80",
        ],
        [],
        {("tcp", "10.96.0.11", 80): {"pod-a1", "pod-b1"}, CLUSTER: set(), NODE: {"pod-a1", "pod-b1"}},
    ),
    Change(
        "annotations changed",
        {"web": _relabelled()},
        [],
        [],
        {CLUSTER: {"pod-a1", "pod-b1"}, NODE: {"pod-a1", "pod-b1"}},
    ),
)
# Last, because one client is bound to one pod from then on (the templates outlive the affinity).
AFFINITY_ON = Change(
    "affinity on",
    {"web": [service("web", "10.96.0.10", [WEB_PORT], **_AFFINE), web()[1]]},
    [f"update VirtualServer {ip}:{port}/TCP to rr persistent 600" for _, ip, port in _BOTH],
    [],
    {},
)
