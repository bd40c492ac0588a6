"""Write what a kernel and its programs answer into corpus/.

``python3 -m lab run -- .venv/bin/python -m tests.fuzz.record`` runs it; it changes the network namespace that it runs
in, which is the lab kernel's.  Files that exist are overwritten.
"""

import socket
import subprocess
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from kubeproxy_py.kernel.address.rtnetlink import IFADDRMSG, IFINFOMSG, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS, RTMSG
from kubeproxy_py.kernel.conntrack.wire import encode_list_udp
from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.ipset.constants import IPSET_CMD_LIST, IPSET_CMD_TYPE
from kubeproxy_py.kernel.ipset.encode import encode_list, encode_type, message_type
from kubeproxy_py.kernel.ipvs.encode import encode_get_timeouts, encode_list_dests, encode_list_services
from kubeproxy_py.kernel.netlink.attributes import string, u32
from kubeproxy_py.kernel.netlink.socket import (
    NETLINK_GENERIC,
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NLM_F_ACK,
    Socket,
    generic_family_id,
    message,
)
from kubeproxy_py.model.rows import IpsetSpec, VirtualServer
from kubeproxy_py.net import FAMILIES
from tests.fuzz.inputs import FOLDER

_SETS = {
    "KUBE-IPVS-IPS": ("hash:ip family inet", ["10.96.0.10", "203.0.113.70"]),
    "KUBE-CLUSTER-IP": ("hash:ip,port family inet", ["10.96.0.10,tcp:80", "10.96.0.10,udp:53", "10.96.0.9,sctp:9"]),
    "KUBE-6-CLUSTER-IP": ("hash:ip,port family inet6", ["fd00:96::10,udp:53"]),
    "KUBE-LOOP-BACK": ("hash:ip,port,ip family inet", ["10.244.1.5,tcp:8080,10.244.1.5"]),
    "KUBE-LOAD-BALANCER-SOURCE-CIDR": ("hash:ip,port,net family inet", ["203.0.113.70,tcp:80,10.0.0.0/8"]),
    "KUBE-NODE-PORT-TCP": ("bitmap:port range 0-65535", ["30098", "30099"]),
}
_SETUP = """
ip link add kube-ipvs0 type dummy
ip address add 10.96.0.10/32 dev kube-ipvs0
ip address add fd00:96::10/128 dev kube-ipvs0
ip link add br0 type bridge
ip link add eth9 type veth peer name eth10
ip link set eth9 master br0
ip link set br0 up; ip link set eth9 up; ip link set eth10 up
ip address add 192.168.9.1/24 dev br0
ip route add default via 192.168.9.254
ip route add 10.9.0.0/16 proto static nexthop via 192.168.9.2 nexthop via 192.168.9.3
ip -6 route add fd00:9::/64 via fe80::9 dev br0
ip neighbour add 192.168.9.2 lladdr 52:54:00:00:00:0b dev br0
ip -6 neighbour add fe80::9 lladdr 52:54:00:00:00:0c dev br0
ipvsadm -A -t 10.96.0.10:80 -s rr -p 10800
ipvsadm -a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1
ipvsadm -A -u [fd00:96::10]:53 -s wlc
ipvsadm -a -u [fd00:96::10]:53 -r [fd00:10:244:1::5]:53 -m -w 0
ipvsadm -A -f 7 -s rr
iptables -t nat -N KUBE-SERVICES
iptables -t nat -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
iptables -t nat -A PREROUTING -j KUBE-SERVICES
conntrack -I -p udp -s 192.168.3.175 -d 10.96.0.53 --sport 5001 --dport 53 -r 10.244.2.5 -q 192.168.3.10 \
    --reply-port-src 8080 --reply-port-dst 7071 -t 600
conntrack -I -p udp -s fd00:3::175 -d fd00:10:96::53 --sport 5001 --dport 53 -r fd00:10:244:2::5 -q fd00:3::10 \
    --reply-port-src 8080 --reply-port-dst 7071 -t 600
"""
_SERVERS = (VirtualServer("10.96.0.10", 80, "TCP"), VirtualServer("fd00:96::10", 53, "UDP"))
_PROC = ("net/stat/nf_conntrack", "sys/net/ipv4/ip_local_port_range", "sys/kernel/osrelease", "self/stat", "stat")
_SKIP_STATS = u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


def main() -> None:
    """Set everything up, and write the answers."""
    sets = [f"create {name} {kind}" for name, (kind, _) in _SETS.items()]
    sets += [f"add {name} {entry}" for name, (_, entries) in _SETS.items() for entry in entries]
    subprocess.run(["ipset", "restore"], input="\n".join(sets), text=True, check=True)
    subprocess.run(["sh", "-ex", "-c", _SETUP], check=True)
    _generic_netlink()
    _netfilter()
    _rtnetlink()
    _programs()


def _write(reader: str, name: str, answers: Iterable[bytes]) -> None:
    folder = FOLDER / reader
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(answers, 1):
        (folder / f"linux-{name}-{number}").write_bytes(data)


def _dump(protocol: int, kind: int, body: bytes, flags: int = 0) -> list[bytes]:
    with closing(Socket(protocol)) as netlink:
        return netlink.dump(message(kind, flags, body))


def _request(protocol: int, kind: int, body: bytes) -> bytes:
    with closing(Socket(protocol)) as netlink:
        return netlink.request(message(kind, 0, body))


def _generic_netlink() -> None:
    _write("generic-family", "ipvs", [_request(NETLINK_GENERIC, 0x10, b"\x03\x01\0\0" + string(2, "IPVS"))])
    with closing(Socket(NETLINK_GENERIC)) as netlink:
        ipvs = generic_family_id(netlink, "IPVS")
    _write("ipvs-services", "listed", _dump(NETLINK_GENERIC, ipvs, encode_list_services()))
    for server in _SERVERS:
        answers = _dump(NETLINK_GENERIC, ipvs, encode_list_dests(server))
        _write("ipvs-dests", server.protocol.lower(), answers)
    _write("ipvs-timeouts", "default", [_request(NETLINK_GENERIC, ipvs, encode_get_timeouts())])


def _netfilter() -> None:
    for name in _SETS:
        answers = _dump(NETLINK_NETFILTER, message_type(IPSET_CMD_LIST), encode_list(name), NLM_F_ACK)
        _write("ipset-sets", name, answers)
        saved = subprocess.run(["ipset", "save", name], check=True, capture_output=True)
        _write("ipset-save", name, [saved.stdout])
    body = encode_type(IpsetSpec("hash:ip,port", "IPv4"))
    _write("ipset-revisions", "hash-ip-port", [_request(NETLINK_NETFILTER, message_type(IPSET_CMD_TYPE), body)])
    for family in FAMILIES:
        with closing(Socket(NETLINK_NETFILTER)) as netlink:
            _write("udp-flows", family, netlink.dump(encode_list_udp(family)))


def _rtnetlink() -> None:
    links = _dump(NETLINK_ROUTE, 18, IFINFOMSG.pack(0, 0, 0, 0, 0) + _SKIP_STATS)
    names = ("lo", "kube-ipvs0", "br0", "eth9")
    for name in names:
        index = socket.if_nametoindex(name)
        _write("links", name, [body for body in links if IFINFOMSG.unpack_from(body)[2] == index])
    _write("addresses", "listed", _dump(NETLINK_ROUTE, 22, IFADDRMSG.pack(0, 0, 0, 0, 0))[:6])
    for family in (socket.AF_INET, socket.AF_INET6):
        routes = _dump(NETLINK_ROUTE, 26, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        _write("routes", family.name, sorted(routes, key=len)[-4:])
        neighbours = _dump(NETLINK_ROUTE, 30, bytes((family,)) + bytes(11))
        # As on the interface that readers.py knows.
        known = [body[:4] + (7).to_bytes(4, "little") + body[8:] for body in neighbours if len(body) < 256]
        _write("neighbours", family.name, known[:2])
    with socket.create_server(("::", 0), family=socket.AF_INET6), socket.create_server(("127.0.0.1", 0)):
        for family in (socket.AF_INET, socket.AF_INET6):
            request = bytes((family, socket.IPPROTO_TCP, 0, 0)) + (1 << 10).to_bytes(4, "little") + bytes(48)
            _write("sockets", family.name, _dump(4, 20, request)[:2])


def _programs() -> None:
    listed = subprocess.run(["ipset", "list", "-t"], check=True, capture_output=True)
    _write("ipset-list", "all", [listed.stdout])
    for name in _PROC:
        _write("proc", name.replace("/", "-"), [(Path("/proc") / name).read_bytes()])
    netstat = [line for line in Path("/proc/net/netstat").read_bytes().splitlines(keepends=True) if line[:3] == b"IpE"]
    _write("proc", "net-netstat", [b"".join(netstat)])
    _write("legacy-entries", "nat", [_entries(b"nat")])


def _entries(table: bytes) -> bytes:
    """Return the entries of a legacy IPv4 table, as fingerprint.py reads them."""
    with closing(SocketOptions(socket.AF_INET, socket.SOL_IP)) as options:
        info = bytearray(table.ljust(84, b"\0"))
        options.get(64, info)
        size = int.from_bytes(info[80:84], "little")
        answer = bytearray(table.ljust(32, b"\0") + size.to_bytes(4, "little") + bytes(4 + size))
        options.get(65, answer)
    return bytes(answer[40:])


if __name__ == "__main__":
    main()
