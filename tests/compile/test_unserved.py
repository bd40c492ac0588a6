"""The reason why no endpoint serves a Service port."""

from __future__ import annotations

import pytest

from kubeproxy_py.compile.unserved import EXTERNAL_LOCAL_TEXT, KINDS, unserved_outside, unserved_ports
from kubeproxy_py.model.services import EndpointSlice, Service
from tests.builders import HERE, THERE, endpoint, endpoint_slice, node_context, port, service

LOCAL = service(internal_local=True)


@pytest.mark.parametrize(
    ("asked", "slices", "reason"),
    [
        (service(), [], "no EndpointSlice"),
        (service(cluster_ips=("fd00::1",)), [endpoint_slice()], "no IPv6 endpoint, its slices are IPv4"),
        (service(), [endpoint_slice(endpoints=())], "0 endpoints"),
        (
            service(ports=(port(label="http"),)),
            [endpoint_slice(label="web")],
            'no port "http" in its slices (they have: web)',
        ),
        (
            service(ports=(port(protocol="UDP"),)),
            [endpoint_slice(endpoints=("10.244.1.5", "10.244.1.6"))],
            "2 endpoints of protocol TCP, port is UDP",
        ),
        (service(), [endpoint_slice(endpoints=(endpoint(ready=False, serving=False),))], "1 endpoint, 0 ready"),
        (
            LOCAL,
            [endpoint_slice(endpoints=(endpoint(node=THERE),))],
            "internalTrafficPolicy Local: no endpoint on this node, its clients are refused",
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


def test_external_policy_local_without_local_endpoint_names_who_is_not_answered() -> None:
    exposed = service(type="NodePort", external_local=True, ports=(port(node_port=30_080),))
    (asked,) = exposed.ports
    remote, local = ([endpoint_slice(endpoints=(endpoint(node=node),))] for node in (THERE, HERE))
    found = unserved_outside(exposed, asked, remote, "IPv4", node_context())
    assert found is not None
    assert found.text == EXTERNAL_LOCAL_TEXT
    assert unserved_outside(exposed, asked, local, "IPv4", node_context()) is None
    assert unserved_outside(service(external_local=True), asked, remote, "IPv4", node_context()) is None
