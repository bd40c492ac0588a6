"""Each match, on a packet: yes, no, or not known."""

import pytest

from kubeproxy_py.diagnose.trace.lookup import RowLookup
from kubeproxy_py.diagnose.trace.matches import View, match_rule, match_words
from kubeproxy_py.diagnose.trace.packet import Packet
from kubeproxy_py.diagnose.trace.rules import parse_rule
from kubeproxy_py.diagnose.trace.truth import MAYBE, NO, YES, Truth
from kubeproxy_py.model.rows import Address, Ipset, IpsetEntry, IpsetSpec, Rows, VirtualServer
from tests.diagnose.trace.traces import HOST

FRONTEND = "10.96.0.10,tcp:80"
SERVER = VirtualServer("192.0.2.80", 80, "TCP")
TCP = Packet("203.0.113.9", "10.96.0.10", "TCP", 80, in_interface="eth0", out_interface=None)
UDP = Packet("203.0.113.9", "10.96.0.10", "UDP", 53, in_interface="", out_interface=None)
SCTP = Packet("203.0.113.9", "10.96.0.10", "SCTP", 80)
OWN = Packet("192.0.2.80", "10.244.1.5", "TCP", 8080, from_host=True, in_interface=None, virtual_server=SERVER)
MARKED = Packet("203.0.113.9", "10.96.0.10", "TCP", 80, mark=0x4000)
PING = Packet("203.0.113.9", "10.96.0.10", "ICMP")
UNKNOWN_MARK = Packet("203.0.113.9", "10.96.0.10", "TCP", 80, unknown_mark=0x4000)


def rows_of(sets: dict[str, tuple[str, list[str]]]) -> Rows:
    rows: Rows = {Address("10.96.0.10"): None}
    for name, (kind, entries) in sets.items():
        rows[Ipset(name)] = IpsetSpec(kind, None if kind == "bitmap:port" else "IPv4")
        rows.update(dict.fromkeys((IpsetEntry(name, entry) for entry in entries), None))
    return rows


ROWS = rows_of(
    {
        "IP": ("hash:ip", ["10.96.0.10"]),
        "IPPORT": ("hash:ip,port", ["10.96.0.10,tcp:80", "10.96.0.10,sctp:80"]),
        "IPPORTIP": ("hash:ip,port,ip", ["10.96.0.10,tcp:80,203.0.113.9"]),
        "RANGES": ("hash:ip,port,net", [f"{FRONTEND},203.0.113.0/24", f"{FRONTEND},203.0.113.0/28 nomatch"]),
        "RANGE": ("hash:ip,port,net", ["10.96.0.10,tcp:80,203.0.113.9"]),
        "HALF": ("hash:ip,port,net", ["10.96.0.10,tcp:80,128.0.0.0/1"]),
        "NET": ("hash:net", ["203.0.113.0/24"]),
        "PORTS": ("bitmap:port", ["80", "53"]),
        "LIST": ("list:set", []),
        "EMPTY": ("hash:ip,port", []),
    }
)  # fmt: skip
VIEW = View(RowLookup(ROWS), HOST.without_service_addresses())


@pytest.mark.parametrize(
    ("rule", "packet", "expected"),
    [
        ("", TCP, YES),
        ("-s 203.0.113.0/24", TCP, YES),
        ("-s 203.0.113.0/255.255.255.0", TCP, YES),
        ("! -s 203.0.113.0/24", TCP, NO),
        ("-d 10.96.0.10/32", TCP, YES),
        ("-d 10.96.0.11", TCP, NO),
        ("-i eth0", TCP, YES),
        ("-i eth+", TCP, YES),
        ("! -i eth+", TCP, NO),
        ("-i cni0", TCP, NO),
        ("-i cni0", UDP, MAYBE),
        ("! -i cni0", UDP, MAYBE),
        ("-i cni0", OWN, NO),
        ("-i +", UDP, YES),
        ("-o eth0", TCP, NO),
        ("-o eth0", OWN, MAYBE),
        ("-p tcp", TCP, YES),
        ("-p 6", TCP, YES),
        ("-p all", TCP, YES),
        ("! -p udp", TCP, YES),
        ("-p udp", TCP, NO),
        ("-p tcp -m tcp --dport 80", TCP, YES),
        ("-p tcp -m tcp --dport 79:81", TCP, YES),
        ("-p tcp -m tcp --dport 81:", TCP, NO),
        ("-p tcp -m tcp ! --dport 80", TCP, NO),
        ("-p tcp -m tcp --sport 1024:", TCP, MAYBE),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", TCP, YES),
        ("-p tcp -m tcp --tcp-flags FIN,SYN FIN", TCP, NO),
        ("-p tcp -m multiport --dports 22,80,8000:9000", TCP, YES),
        ("-p tcp -m multiport --dports 22,443", TCP, NO),
        ("-m set --match-set IP dst", TCP, YES),
        ("-m set --match-set IP src", TCP, NO),
        ("-m set ! --match-set IP dst", TCP, NO),
        ("-m set --match-set IPPORT dst,dst", TCP, YES),
        ("-m set --match-set IPPORT dst,dst", SCTP, YES),
        ("-m set --match-set IPPORT dst,dst", UDP, NO),
        ("-m set --match-set IPPORT src,dst", TCP, NO),
        ("-m set --match-set IPPORT dst,src", TCP, MAYBE),
        ("-m set --match-set IPPORT dst,dst", PING, NO),
        ("-m set --match-set IPPORT dst", TCP, NO),
        ("-m set --match-set IPPORTIP dst,dst,src", TCP, YES),
        ("-m set --match-set IPPORTIP dst,dst,dst", TCP, NO),
        ("-m set --match-set RANGES dst,dst,src", TCP, NO),  # nomatch is the longest
        ("-m set --match-set RANGES dst,dst,src", Packet("203.0.113.99", "10.96.0.10", "TCP", 80), YES),
        ("-m set --match-set RANGE dst,dst,src", TCP, YES),
        ("-m set --match-set HALF dst,dst,src", TCP, YES),
        ("-m set --match-set HALF dst,dst,src", Packet("10.0.0.1", "10.96.0.10", "TCP", 80), NO),
        ("-m set --match-set NET src", TCP, YES),
        ("-m set --match-set NET dst", TCP, NO),
        ("-m set --match-set PORTS dst", TCP, YES),
        ("-m set --match-set PORTS dst", UDP, YES),
        ("-m set --match-set PORTS dst", SCTP, NO),  # the kernel's bitmap:port knows no SCTP
        ("-m set --match-set PORTS dst", PING, NO),
        ("-m set --match-set LIST dst", TCP, MAYBE),
        ("-m set --match-set OTHERS src", TCP, MAYBE),
        ("-m set --match-set EMPTY dst,dst", TCP, NO),
        ("-m set --match-set EMPTY dst,dst", Packet("fd00::1", "fd00::2", "TCP", 80), NO),
        ("-m set --match-set IPPORT dst,dst --return-nomatch", TCP, MAYBE),
        ("-m addrtype --dst-type LOCAL", TCP, YES),
        ("-m addrtype ! --dst-type LOCAL", TCP, NO),
        ("-m addrtype --src-type LOCAL", TCP, NO),
        ("-m addrtype --src-type UNICAST", TCP, YES),
        ("-m addrtype --src-type LOCAL,MULTICAST", TCP, NO),
        ("-m addrtype --dst-type BROADCAST", TCP, NO),
        ("-m addrtype --dst-type MULTICAST", Packet("203.0.113.9", "224.0.0.1", "UDP", 80), YES),
        ("-m addrtype --dst-type LOCAL", Packet("203.0.113.9", "192.168.3.10", "UDP", 80), YES),
        ("-m addrtype --dst-type LOCAL --limit-iface-in", TCP, MAYBE),
        ("-m mark --mark 0x4000/0x4000", MARKED, YES),
        ("-m mark ! --mark 0x4000/0x4000", MARKED, NO),
        ("-m mark --mark 0x4000/0x4000", TCP, NO),
        ("-m mark --mark 0x4000/0x4000", UNKNOWN_MARK, MAYBE),
        ("-m mark --mark 0x1/0x1", UNKNOWN_MARK, NO),
        ("-m conntrack --ctstate NEW", TCP, YES),
        ("-m conntrack --ctstate RELATED,ESTABLISHED", TCP, NO),
        ("-m conntrack ! --ctstate INVALID", TCP, YES),
        ("-m conntrack --ctstate DNAT", OWN, MAYBE),
        ("-m state --state NEW,INVALID", TCP, YES),
        ("-m conntrack --ctorigdst 10.0.0.1", TCP, MAYBE),
        ('-m comment --comment "-j DROP --dport"', TCP, YES),
        ("-m comment --comment --dport", TCP, YES),
        ("-m physdev --physdev-is-in", TCP, MAYBE),
        ("-m physdev ! --physdev-is-in", OWN, YES),
        ("-m physdev --physdev-is-bridged", TCP, NO),
        ("-m physdev --physdev-is-bridged", Packet("10.0.0.1", "10.0.0.2", "TCP", 80), MAYBE),
        ("-m ipvs --vproto 6 --vaddr 192.0.2.80 --vport 80", OWN, YES),
        ("-m ipvs --vproto 6 --vaddr 192.0.2.80/32 --vport 80", OWN, YES),
        ("-m ipvs --vproto 17 --vaddr 192.0.2.80 --vport 80", OWN, NO),
        ("-m ipvs --vport 81", OWN, NO),
        ("-m ipvs --vaddr 192.0.2.80", TCP, NO),
        ("-m ipvs --ipvs", OWN, YES),
        ("-m pkttype --pkt-type broadcast", TCP, NO),
        ("-m owner --uid-owner 0", TCP, NO),
        ("-m owner --uid-owner 0", OWN, MAYBE),
        ("-p icmp -m icmp --icmp-type 8", PING, YES),
        ("-p icmp -m icmp --icmp-type 0", PING, NO),
        ("-p icmp", TCP, NO),
        ("-m recent --rcheck --seconds 60 --name x", TCP, MAYBE),
        ("-m recent --rcheck -p udp", TCP, NO),  # what is known excludes it
        ("-m limit --limit 5/min", TCP, MAYBE),
        ("-m socket", TCP, MAYBE),
        ("--unheard-of", TCP, MAYBE),
        ("-s not-an-address", TCP, MAYBE),
        ("-m mark --mark what", TCP, MAYBE),
    ],
)
def test_match(rule: str, packet: Packet, expected: Truth) -> None:
    assert match_rule(parse_rule(f"{rule} -j ACCEPT"), packet, VIEW) == expected


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            "! -s 10.244.0.0/16 -m set --match-set IPPORT dst,dst",
            "the source is not in 10.244.0.0/16, 10.96.0.10,tcp:80 is in IPPORT",
        ),
        ("-m addrtype --dst-type LOCAL", "10.96.0.10 is an address of this node"),
        ("-m set --match-set PORTS dst", "port 80/tcp is in PORTS"),
        ("-m recent --set", "-m recent --set cannot be evaluated"),
        ("-m socket", "-m socket cannot be evaluated"),
        ('-m comment --comment "{x}"', ""),
    ],
)
def test_words_say_what_matched(rule: str, words: str) -> None:
    assert match_words(parse_rule(f"{rule} -j ACCEPT"), TCP, VIEW) == words


@pytest.mark.parametrize(
    ("text", "target", "is_goto"),
    [
        ("-j DROP", "DROP", False),
        ("-g CHAIN", "CHAIN", True),
        ("-s 10.0.0.1", "", False),
        ("-j MARK --set-xmark 0x1/0x1", "MARK", False),
        ('-m comment --comment "it\\"s" -j LOG --log-prefix "-j x"', "LOG", False),
        ("-j", "", False),
        ("", "", False),
        ("!", "", False),
    ],
)
def test_rule_has_its_target(text: str, target: str, is_goto: bool) -> None:
    rule = parse_rule(text)
    assert (rule.target, rule.is_goto) == (target, is_goto)
