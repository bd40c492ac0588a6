"""The reason why no endpoint serves a Service port."""

from __future__ import annotations

import pytest

from kubeproxy_py.compile.unserved import KINDS, unserved_ports
from kubeproxy_py.model.services import EndpointSlice, Service
from tests.builders import THERE, endpoint, endpoint_slice, node_context, port, service

LOCAL = service(internal_local=True)


@pytest.mark.parametrize(
    ("asked", "slices", "reason"),
    [
        (service(), [], "the Service has no EndpointSlice"),
        (service(cluster_ips=("fd00::1",)), [endpoint_slice()], "none of its EndpointSlices is IPv6"),
        (service(), [endpoint_slice(endpoints=())], "its EndpointSlices have no endpoints"),
        (
            service(ports=(port(label="http"),)),
            [endpoint_slice(label="web")],
            "1 endpoint, none for port http/TCP; they have web/TCP",
        ),
        (
            service(ports=(port(protocol="UDP"),)),
            [endpoint_slice(endpoints=("10.244.1.5", "10.244.1.6"))],
            "2 endpoints, none for port (unnamed)/UDP; they have (unnamed)/TCP",
        ),
        (service(), [endpoint_slice(endpoints=(endpoint(ready=False, serving=False),))], "1 endpoint, none is ready"),
        (
            LOCAL,
            [endpoint_slice(endpoints=(endpoint(node=THERE),))],
            "1 endpoint, none on this node (internalTrafficPolicy: Local)",
        ),
    ],
)
def test_reason_names_what_is_missing(asked: Service, slices: list[EndpointSlice], reason: str) -> None:
    ((_, _, found),) = unserved_ports(asked, slices, node_context())
    assert found.text == reason
    assert found.kind in KINDS


@pytest.mark.parametrize(
    ("asked", "slices"),
    [
        (service(), [endpoint_slice()]),
        (LOCAL, [endpoint_slice()]),
        (service(), [endpoint_slice(endpoints=(endpoint(ready=False, serving=True, terminating=True),))]),
        (service(proxy_name="other"), []),
        (service(type="ExternalName"), []),
        (service(cluster_ips=()), []),
    ],
)
def test_served_port_and_service_of_another_proxy_have_no_reason(asked: Service, slices: list[EndpointSlice]) -> None:
    assert list(unserved_ports(asked, slices, node_context())) == []
