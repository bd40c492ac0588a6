"""An EndpointSlice as servers before Kubernetes 1.21 have it: as v1beta1, and as Endpoints.

kube-proxy reads the one there, and the agent the other.  kube-controller-manager, which does not run, would write both.
"""

from typing import Any

Json = dict[str, Any]
_HOSTNAME, _ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


def both_forms(part: Json) -> list[Json]:
    """Return *part*, the only EndpointSlice of its Service, in both forms."""
    return [_v1beta1(part), _endpoints(part)]


def _v1beta1(part: Json) -> Json:
    endpoints = [
        {
            **{name: value for name, value in endpoint.items() if name not in ("nodeName", "zone", "hints")},
            "topology": _present({_HOSTNAME: endpoint.get("nodeName"), _ZONE: endpoint.get("zone")}),
        }
        for endpoint in part["endpoints"]
    ]
    return {**part, "apiVersion": "discovery.k8s.io/v1beta1", "endpoints": endpoints}


def _endpoints(part: Json) -> Json:
    by_state: dict[str, list[Json]] = {"addresses": [], "notReadyAddresses": []}
    for endpoint in part["endpoints"]:
        ready = endpoint.get("conditions", {}).get("ready", True)
        pod = {"nodeName": endpoint.get("nodeName"), "targetRef": endpoint.get("targetRef")}
        by_state["addresses" if ready else "notReadyAddresses"] += [
            {"ip": address, **_present(pod)} for address in endpoint["addresses"]
        ]
    subset = {**{state: addresses for state, addresses in by_state.items() if addresses}, "ports": part["ports"]}
    metadata = part["metadata"]
    name = metadata["labels"]["kubernetes.io/service-name"]
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "subsets": [subset] if part["endpoints"] else [],
    }


def _present(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}
