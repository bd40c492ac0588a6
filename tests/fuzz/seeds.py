"""Inputs to begin with, made from files that tests have anyway: golden bytes, and kernel state of kube-proxy."""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from struct import pack
from typing import Any

import yaml

from kubeproxy_py.diagnose.trace.packet import Host
from kubeproxy_py.kernel.iptables.text import TABLES, our_lines
from kubeproxy_py.kernel.kernel_state import HostWire, KernelState, contents_of, encode
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.rows import (
    SERVING,
    Address,
    Chain,
    ChainSpec,
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Jump,
    JumpSpec,
    Link,
    RealServer,
    Rows,
    Sysctl,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.services import ObjectName
from kubeproxy_py.net import SocketAddress
from kubeproxy_py.sources.saved.content import Objects, Origin, Saved
from kubeproxy_py.sources.saved.content import encode as encode_saved
from kubeproxy_py.yaml_loader import load_yaml
from tests.builders import endpoint_slice, service

TESTS = Path(__file__).parent.parent
CASES = TESTS / "recorded_cases"
FLOW_SERVERS = (VirtualServer("10.96.0.53", 53, "UDP"), VirtualServer("fd00:10:96::53", 53, "UDP"))
"""The virtual servers of the flows in corpus/udp-flows."""

TRACED_ROWS: Rows = {
    key: spec
    for address in ("10.96.0.10", "fd00:10:96::10")
    for key, spec in (
        (Address(address), None),
        (VirtualServer(address, 80, "TCP"), VirtualServerSpec()),
        (RealServer(VirtualServer(address, 80, "TCP"), address, 8080), SERVING),
    )
}
TRACED_HOST = Host((HostAddress("eth0", "192.168.3.10", 24),))

_SIZE_MAX_BYTES = 4096  # a change of a larger input is rarely where it matters


def golden(name: str) -> Callable[[], Iterator[bytes]]:
    """Return a function that returns the bodies of the messages in the golden file *name*."""
    return partial(_golden, name)


def _golden(name: str) -> Iterator[bytes]:
    text = (TESTS / "wire/golden" / f"{name}.txt").read_text()
    for message in text.split("\n\n"):
        columns = [line.partition("|")[0] for line in message.splitlines() if not line.startswith("#")]
        yield bytes.fromhex("".join(columns))


def netlink_messages() -> Iterator[bytes]:
    """Yield messages about addresses, acknowledgements, and errors, each one read of a socket."""
    for message_type in (16, 20):  # RTM_NEWLINK, RTM_NEWADDR
        for body in _golden("address"):
            yield pack("=IHHII", 16 + len(body), message_type, 0, 1, 0) + body
    request = pack("=IHHII", 20, 16, 5, 1, 0)
    for errno in (0, 2):
        error = pack("=i", -errno) + request
        text = pack("=HH", 9, 1) + b"text\0\0\0\0"  # NLMSGERR_ATTR_MSG
        yield pack("=IHHII", 16 + len(error) + len(text), 2, 0x300, 1, 0) + error + text


def certificates() -> Iterator[bytes]:
    """Yield a certificate, in DER, as far as its dates; with and without a version, and with both kinds of times."""

    def element(tag: int, *contents: bytes) -> bytes:
        content = b"".join(contents)
        return bytes((tag, len(content))) + content

    first_parts = (element(0x02, b"\1"), element(0x30), element(0x30))  # serial number, algorithm, issuer
    times = (element(0x17, b"260101000000Z"), element(0x18, b"20560101000000Z"))
    for version in ((), (element(0xA0, element(0x02, b"\2")),)):
        yield element(0x30, element(0x30, *version, *first_parts, element(0x30, *times)))


def nft_chains() -> Iterator[bytes]:
    """Yield a chain of nf_tables in a hook, and one in none."""
    table = pack("=HH", 8, 1) + b"fw\0\0"
    hook = pack("=HH", 20, 4 | 0x8000) + pack(">HHIHHI", 8, 1, 0, 8, 2, 0)
    yield b"\x01\0\0\0" + table + hook
    yield b"\x02\0\0\0" + table


def ipvs_listings() -> Iterator[bytes]:
    """Yield what /proc/net/ip_vs has for a virtual server of each family."""
    yield b"TCP  0A60000A:0050 rr persistent 10800 FFFFFFFF\n  -> 0AF40105:1F90      Masq    1      0          0\n"
    yield b"UDP  [fd00:0000:0000:0000:0000:0000:0000:0053]:0035 rr \n"
    yield b"  -> [fd00:0000:0000:0000:0000:0000:0000:0005]:1F90      Masq    1      0          0         \n"


def saved_sets() -> Iterator[bytes]:
    """Yield the ipsets of kube-proxy, as `ipset save NAME` prints one, with the line that creates it."""
    for case in ("affinity", "dualstack", "lb-sourceranges"):
        lines: dict[str, list[str]] = {}
        for line in (CASES / case / "expected/ipset-save.txt").read_text().splitlines():
            lines.setdefault(line.split(" ")[1], []).append(line)
        for added in lines.values():
            if len(added) > 1:
                yield "\n".join(sorted(added, key=lambda line: not line.startswith("create"))).encode() + b"\n"


def saved_tables() -> Iterator[bytes]:
    """Yield the rules of kube-proxy, as iptables-save prints them."""
    return _distinct(file.read_bytes() for file in sorted(CASES.glob("*/expected/ip*tables-save.txt")))


def restore_texts() -> Iterator[bytes]:
    """Yield their part that is ours, as restore_text writes it."""
    return _distinct(our_lines(saved, table) for saved in saved_tables() for table in TABLES)


def configurations() -> Iterator[bytes]:
    """Yield the configuration files of the recorded cases."""
    return _distinct(case.read_bytes() for case in sorted(CASES.glob("*/config.yaml")))


def manifests() -> Iterator[bytes]:
    """Yield Services, EndpointSlices and Nodes, one a file, as YAML."""
    return _small(yaml.safe_dump(each, sort_keys=False).encode() for each in _objects())


def objects() -> Iterator[bytes]:
    """Yield the same as JSON."""
    return _small(json.dumps(each).encode() for each in _objects())


def manifests_in_json() -> Iterator[bytes]:
    """Yield them, and a list of the first."""
    first = list(_objects())[:2]
    yield json.dumps({"apiVersion": "v1", "kind": "List", "items": first}).encode()
    yield from objects()


def lists() -> Iterator[bytes]:
    """Yield pages of lists of an API server, and a Status."""
    for each in _objects():
        meta = {"resourceVersion": "7", "continue": ""}
        yield json.dumps({"kind": f"{each['kind']}List", "metadata": meta, "items": [each]}).encode()
    yield json.dumps({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}).encode()


def state_requests() -> Iterator[bytes]:
    """Yield requests for the documents of the agent's state."""
    yield b"/v1/state"
    yield b"/v1/status?namespace=shop&service=shop%2Fweb&realServers=true&connections=false"
    yield b"/v1/status?address=10.96.0.10&port=80&nodePort=30080"
    for target in (b"shop/web:80", b"10.96.0.10:80/tcp", b"[fd00::10]:80", b"10.244.1.5", b"shop/wbe"):
        yield b"/v1/explain?target=" + target


def watch_lines() -> Iterator[bytes]:
    """Yield a few lines of a watch, one about an object each, and the end of one."""
    for each in _objects():
        lines = [{"type": kind, "object": each} for kind in ("ADDED", "MODIFIED", "DELETED")]
        lines.append({"type": "BOOKMARK", "object": {"kind": each["kind"], "metadata": {"resourceVersion": "12"}}})
        yield "\n".join(map(json.dumps, lines)).encode()
    yield json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}).encode()


def _objects() -> Iterator[dict[str, Any]]:
    """Yield one object of each kind from each of some recorded cases."""
    for case in ("affinity", "dualstack", "lb-sourceranges", "nodeport-local"):
        kinds: set[str] = set()
        for text in (CASES / case / "objects.yaml").read_text().split("\n---"):
            each = load_yaml(text, max_depth=50).value
            if isinstance(each, dict) and each["kind"] not in kinds:
                kinds.add(each["kind"])
                yield each


def _distinct(inputs: Iterable[bytes]) -> Iterator[bytes]:
    yield from dict.fromkeys(_small(inputs))


def _small(inputs: Iterable[bytes]) -> Iterator[bytes]:
    return (data for data in inputs if len(data) <= _SIZE_MAX_BYTES)


def kernel_states() -> Iterator[bytes]:
    """Yield a dump with a row of each kind."""
    server = VirtualServer("10.96.0.10", 80, "TCP")
    rows: Rows = {
        Sysctl("net/ipv4/ip_forward"): "1",
        Link("kube-ipvs0"): None,
        Address("10.96.0.10"): None,
        Ipset("KUBE-CLUSTER-IP"): IpsetSpec("hash:ip,port", "IPv4"),
        IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"): None,
        Chain("IPv4", "nat", "KUBE-SERVICES"): ChainSpec(("-j RETURN",)),
        Jump("IPv4", "nat", "OUTPUT", "KUBE-SERVICES"): JumpSpec("-j KUBE-SERVICES"),
        server: VirtualServerSpec(),
        RealServer(server, "10.1.0.5", 8080): SERVING,
    }
    host = HostWire.of("node-a", "6.1.0", HostInfo(outgoing_addresses=("192.168.3.10",)))
    contents = contents_of(rows, [HostAddress("eth0", "192.168.3.10", 24)])
    yield encode(KernelState(written_by="test", written_at="", host=host, **contents))


def saved_files() -> Iterator[bytes]:
    """Yield files of saved objects: one with an object of each kind, and an empty one."""
    parts = tuple(endpoint_slice("shop/old", ("10.244.1.7",), suffix=f"/{index}") for index in range(2))
    objects: Objects = {
        ("Service", ObjectName("shop", "web")): (service("shop/web", ("10.96.0.10", "fd00::10")),),
        ("EndpointSlice", ObjectName("shop", "web")): (endpoint_slice(),),
        ("Endpoints", ObjectName("shop", "old")): parts,
        ("Node", ObjectName("", "node-a")): (Node("node-a", "zone-a", ("192.168.3.10",), ("10.244.1.0/24",)),),
    }
    origin = Origin(("ca 0123",), 1_700_000_000.0, (SocketAddress("192.168.3.1", 6443),))
    yield encode_saved(Saved(origin, objects))
    yield encode_saved(Saved(origin, {}))


def saved_lines() -> Iterator[bytes]:
    """Yield their lines, without the last one."""
    return (gzip.decompress(file).rstrip(b"\n").rpartition(b"\n")[0] for file in saved_files())
