"""What an API server would reject in an object of a manifest, although it can be used.

An API server checks combinations of fields before any proxy sees them; of a manifest nobody does.  The object is used
as kube-proxy would use it, and what its author hardly means is named.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache

from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import Service
from kubeproxy_py.net import family_of
from kubeproxy_py.sources.decode.errors import FieldError, quoted
from kubeproxy_py.sources.decode.schema import EndpointPortWire, ServicePortWire, ServiceSpecWire

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)  # RFC 1123
_NAMES_MAX = 1024


def missing_fields(spec: ServiceSpecWire, service: Service) -> list[FieldError]:
    """Return an error for each field that an API server would fill in, or without which it rejects the Service."""
    errors: list[FieldError] = []
    if not (spec.cluster_ip or spec.cluster_ips) and service.type != "ExternalName" and service.proxy_name is None:
        hint = "no API server allocates one; write an address, or None"
        errors.append(FieldError("spec.clusterIP", "is missing", hint))
    if service.cluster_ips and not spec.ports:
        hint = "a Service without ports serves nothing; to stop serving it, delete the Service"
        errors.append(FieldError("spec.ports", "is missing", hint))
    return errors


def service_warnings(spec: ServiceSpecWire, service: Service) -> list[FieldError]:
    """Return a warning for each value of *spec*, of which *service* was read, that does not fit the others."""
    warnings: list[FieldError] = []
    if service.source_ranges and service.type != "LoadBalancer" and not service.load_balancer_ips:
        message = f"restricts nobody, because spec.type is {service.type}"
        warnings.append(_warning("spec.loadBalancerSourceRanges", message, "set type: LoadBalancer, or remove it"))
    if spec.session_affinity_config and not service.affinity_timeout_s:
        hint = "set sessionAffinity: ClientIP, or remove it"
        warnings.append(_warning("spec.sessionAffinityConfig", "has no effect without spec.sessionAffinity", hint))
    if service.type == "ClusterIP":  # kube-proxy does not look at the type, and serves the port
        warnings += [
            _warning(
                f"spec.ports[{index}].nodePort",
                f"{port.node_port} is served, although spec.type is ClusterIP",
                "set type: NodePort, or remove it",
            )
            for index, port in enumerate(spec.ports or ())
            if port.node_port
        ]
    return warnings + port_name_warnings("spec.ports", spec.ports)


def port_name_warnings(path: str, ports: Iterable[ServicePortWire | EndpointPortWire] | None) -> list[FieldError]:
    """Return a warning for each name of a port that no object of an API server can have."""
    return [
        _warning(
            f"{path}[{index}].name",
            f"{quoted(port.name)} is not a name of a port",
            "at most 63 lowercase letters, digits and -",
        )
        for index, port in enumerate(ports or ())
        if port.name and not _is_label(port.name)
    ]


def node_warnings(node: Node) -> Iterator[FieldError]:
    """Yield a warning for each family of which *node* has several podCIDRs: all but the first have no effect."""
    for family, count in Counter(map(family_of, node.pod_cidrs)).items():
        if count > 1:
            message = f"has {count} {family} networks, of which only the first is used"
            yield _warning("spec.podCIDRs", message, "write one network of each family")


@lru_cache(_NAMES_MAX)
def _is_label(name: str) -> bool:
    return bool(_LABEL.fullmatch(name))


def _warning(field: str, message: str, hint: str) -> FieldError:
    return FieldError(field, message, hint, is_warning=True)
