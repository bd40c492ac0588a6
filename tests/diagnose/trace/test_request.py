"""--from and --to: what is accepted, and errors that name the remedy."""

import re

import pytest

from kubeproxy_py.diagnose.trace.objects import directory_of, known_to_compiler
from kubeproxy_py.diagnose.trace.request import Directory, Request, TraceError, parse_request
from tests.diagnose.trace.traces import CLUSTER_IP, COMPILER

DIRECTORY = directory_of(known_to_compiler(COMPILER))


@pytest.mark.parametrize(
    ("target", "address", "port", "protocol"),
    [
        ("192.0.2.1:443", "192.0.2.1", 443, "TCP"),
        ("192.0.2.1:443/udp", "192.0.2.1", 443, "UDP"),
        ("192.0.2.1:443/SCTP", "192.0.2.1", 443, "SCTP"),
        ("[fd00::0:1]:80", "fd00::1", 80, "TCP"),
        ("[fd00::1]:80/udp", "fd00::1", 80, "UDP"),
        ("192.0.2.1/icmp", "192.0.2.1", 0, "ICMP"),
        ("fd00::1/icmpv6", "fd00::1", 0, "ICMP"),
        ("10.96.0.53:53", "10.96.0.53", 53, "UDP"),  # the only protocol that is served there
        (CLUSTER_IP, CLUSTER_IP, 80, "TCP"),  # its only port
        ("http://192.0.2.1/path", "192.0.2.1", 80, "TCP"),
        ("https://[fd00::1]", "fd00::1", 443, "TCP"),
        ("http://web.shop.svc.cluster.local", CLUSTER_IP, 80, "TCP"),
        ("web.shop:80", CLUSTER_IP, 80, "TCP"),
        ("fd00:10:96::10", "fd00:10:96::10", 80, "TCP"),
        ("shop/web", CLUSTER_IP, 80, "TCP"),
        ("shop/web:80", CLUSTER_IP, 80, "TCP"),
        ("shop/web/icmp", CLUSTER_IP, 0, "ICMP"),
        ("shop/dns", "10.96.0.53", 53, "UDP"),
        ("shop/dns:53/udp", "10.96.0.53", 53, "UDP"),
        ("shop/two:https", "10.96.0.60", 443, "TCP"),
    ],
)
def test_destination(target: str, address: str, port: int, protocol: str) -> None:
    assert parse_request("node", target, "", DIRECTORY) == Request("node", address, port, protocol)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("nod", "shop/web", '--from "nod": give an address, or one of outside, node, pod; did you mean node?'),
        ("1.2.3", "shop/web", '--from "1.2.3": give an address'),
        (
            "node",
            "192.0.2.1:99999",
            '--to "192.0.2.1:99999": the port is not in 1-65535; give ADDRESS:PORT[/tcp|udp|sctp]',
        ),
        ("node", "192.0.2.1:80/tpc", '--to "192.0.2.1:80/tpc": "tpc" is no protocol; give ADDRESS:PORT'),
        ("node", "192.0.2.1:" + "9" * 5000, "the port is not in 1-65535"),
        ("node", "192.0.2.1:\u0668\u0660", "the port is not in 1-65535"),
        ("node", "224.0.0.1:80", "no Service and no host has this address, it is multicast"),
        ("node", "[::]:80", "no Service and no host has this address, it is unspecified"),
        ("255.255.255.255", "shop/web", '--from "255.255.255.255": no packet has this source, it is broadcast'),
        ("0.0.0.0", "shop/web", "no packet has this source, it is unspecified; give the address of the client"),
        ("ff02::1", "[fd00::1]:80", "no packet has this source, it is multicast"),
        ("node", "192.0.2.1:http", "the port is not in 1-65535"),
        ("node", "30080", '--to "30080": a port alone; a NodePort is at each address of the node: give ADDRESS:PORT'),
        ("node", "www.example.com:80", '--to "www.example.com:80": give ADDRESS:PORT[/tcp|udp|sctp]'),
        ("node", "wbe.shop:80", '--to "wbe.shop:80": there is no Service shop/wbe; did you mean shop/web?'),
        ("node", "192.0.2.1", '--to "192.0.2.1": no port is given, and no Service has the address'),
        ("node", "10.96.0.60", "it has several ports; give one of 10.96.0.60:443/tcp, 10.96.0.60:80/tcp"),
        ("node", "shop/two", "it has several ports; give one of shop/two:http/tcp, shop/two:https/tcp"),
        ("node", "shop/web:81", 'it has no port "81"; give one of shop/web:80/tcp'),
        ("node", "shop/wbe", '--to "shop/wbe": there is no Service shop/wbe; did you mean shop/web?'),
        ("node", "x/y", "there is no Service x/y; list them by: kubectl get services"),
        ("node", "shop/headless", "the Service is headless and has no address; give ADDRESS:PORT of an endpoint"),
        ("node", "", "give ADDRESS:PORT"),
    ],
)
def test_error_names_argument_and_remedy(source: str, target: str, message: str) -> None:
    with pytest.raises(TraceError, match=re.escape(message)):
        parse_request(source, target, "", DIRECTORY)


def test_service_that_is_named_as_a_protocol_is_a_service() -> None:
    with pytest.raises(TraceError, match="there is no Service shop/tcp"):
        parse_request("node", "shop/tcp", "", Directory())
