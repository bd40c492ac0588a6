"""One message of each kind that the agent sends, with a title that states what it requests."""

from msgspec import Struct

from kubeproxy_py.kernel.address import encode as address
from kubeproxy_py.kernel.address.neighbours import encode_solicit
from kubeproxy_py.kernel.ipset import encode as ipset_encode
from kubeproxy_py.kernel.ipvs import encode as ipvs_encode
from kubeproxy_py.kernel.ipvs.constants import Timeouts
from kubeproxy_py.kernel.netlink.messages import NLM_F_REQUEST, split_messages
from kubeproxy_py.kernel.netlink.socket import Message
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import (
    DRAINING,
    FLAG_PERSISTENT,
    FLAG_SCHED_2,
    IPVS_DEVICE,
    SERVING,
    Address,
    IpsetSpec,
    Key,
    Link,
    RealServer,
    Spec,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.steps import Step, Verb
from tests.wire.annotate import ADDRESS, IPSET, IPVS, LINK, NEIGHBOUR, Names


class Sample(Struct, frozen=True):
    """The body of a message, and how to annotate it."""

    title: str
    body: bytes
    fixed_size: int
    names: Names


WEB = VirtualServer("10.96.0.10", 80, "TCP")
DNS = VirtualServer("fd00:96::10", 53, "UDP")
SIGNAL = VirtualServer("203.0.113.7", 2905, "SCTP")
INDEX = 7  # the interface index of kube-ipvs0


def ipvs_body(step: Step) -> bytes:
    """Return the body of the message for *step* on a virtual or real server."""
    ((_, _, _, body),) = split_messages(next(ipvs_encode.encode_steps((step,), 0)))
    return body


def _ipvs(title: str, verb: Verb, key: Key, spec: Spec = None) -> Sample:
    return Sample(title, ipvs_body(Step(verb, key, spec)), 4, IPVS)


def _ipset(title: str, body: bytes) -> Sample:
    return Sample(title, body, 4, IPSET)


def _rtnetlink(title: str, message: Message, fixed_size: int, names: Names) -> Sample:
    ((kind, _, flags, body),) = split_messages(message)
    flags &= ~NLM_F_REQUEST
    return Sample(f"{title} (message type {kind}, flags {flags:#x})", body, fixed_size, names)


def _link(title: str, verb: Verb) -> Sample:
    return _rtnetlink(title, address.encode_link(Step(verb, Link(IPVS_DEVICE))), 16, LINK)


def _address(title: str, verb: Verb, ip: str) -> Sample:
    return _rtnetlink(title, b"".join(address.encode_address(Step(verb, Address(ip)), INDEX, {})), 8, ADDRESS)


def _solicit(title: str, ip: str) -> Sample:
    return _rtnetlink(title, encode_solicit(HostAddress("eth0", ip), INDEX), 12, NEIGHBOUR)


def _entries(*entries: str) -> bytes:
    return ipset_encode.encode_entries("KUBE-X", [ipset_encode.encode_entry(e, i) for i, e in enumerate(entries, 1)])


FILES: dict[str, list[Sample]] = {
    "ipvs": [
        _ipvs("add a virtual server", "add", WEB, VirtualServerSpec()),
        _ipvs("add one for IPv6", "add", DNS, VirtualServerSpec("wlc")),
        _ipvs(
            "add one with persistence and mh-port",
            "add",
            SIGNAL,
            VirtualServerSpec("mh", FLAG_PERSISTENT | FLAG_SCHED_2, 10800),
        ),
        _ipvs("update a virtual server", "update", WEB, VirtualServerSpec("lc")),
        _ipvs("delete a virtual server", "delete", WEB),
        _ipvs("add a real server", "add", RealServer(WEB, "10.244.1.5", 8080), SERVING),
        _ipvs("add a real server for IPv6", "add", RealServer(DNS, "fd00:10:244:1::5", 5353), SERVING),
        _ipvs("drain a real server", "update", RealServer(WEB, "10.244.1.5", 8080), DRAINING),
        _ipvs("delete a real server", "delete", RealServer(WEB, "10.244.1.5", 8080)),
        Sample("list virtual servers", ipvs_encode.encode_list_services(), 4, IPVS),
        Sample("list the real servers of one", ipvs_encode.encode_list_dests(WEB), 4, IPVS),
        Sample("get the timeouts", ipvs_encode.encode_get_timeouts(), 4, IPVS),
        Sample("set two timeouts", ipvs_encode.encode_set_timeouts(Timeouts(900, 0, 300)), 4, IPVS),
    ],
    "ipset": [
        _ipset("get the revisions of a type", ipset_encode.encode_type(IpsetSpec("hash:ip,port", "IPv6"))),
        _ipset("create a hash", ipset_encode.encode_create("KUBE-X", IpsetSpec("hash:ip,port", "IPv4"), 6)),
        _ipset("create a bitmap", ipset_encode.encode_create("KUBE-X", IpsetSpec("bitmap:port", None), 3)),
        _ipset("destroy a set", ipset_encode.encode_set_name("KUBE-X")),
        _ipset("swap two sets", ipset_encode.encode_swap("KUBE-X", "KUBE-Y")),
        _ipset("list a set", ipset_encode.encode_list("KUBE-X")),
        _ipset("list the header of a set", ipset_encode.encode_list("KUBE-X", header_only=True)),
        _ipset("list the headers of all sets", ipset_encode.encode_list_headers()),
        _ipset("add or delete entries of hash:ip,port", _entries("10.96.0.10,tcp:80", "fd00::1,sctp:2905")),
        _ipset("add or delete an entry of hash:ip,port,ip", _entries("10.244.1.5,udp:53,10.244.1.5")),
        _ipset("add or delete an entry of hash:ip,port,net", _entries("10.96.0.10,tcp:80,192.0.2.0/24")),
        _ipset("add or delete an entry of bitmap:port", _entries("30080")),
        _ipset("add or delete an entry of hash:ip", _entries("10.96.0.10")),
    ],
    "address": [
        _link("create kube-ipvs0", "add"),
        _link("delete kube-ipvs0", "delete"),
        _rtnetlink("give the device its name back", address.encode_rename(INDEX, IPVS_DEVICE), 16, LINK),
        _address("add an address to it", "add", "10.96.0.10"),
        _address("add an IPv6 address to it", "add", "fd00:96::10"),
        _address("remove an address from it", "delete", "10.96.0.10"),
        _address("remove an IPv6 address from it", "delete", "fd00:96::10"),
        _address("deprecate an IPv6 address of another program", "update", "fd00:96::10"),
        _solicit("ask which neighbour has an address", "192.168.3.11"),
        _solicit("ask which neighbour has an IPv6 address", "fd00:3::11"),
    ],
}
