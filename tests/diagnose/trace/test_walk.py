"""Each target, in a hook of one table."""

import pytest

from kubeproxy_py.diagnose.trace.lookup import RowLookup
from kubeproxy_py.diagnose.trace.matches import View
from kubeproxy_py.diagnose.trace.packet import Packet
from kubeproxy_py.diagnose.trace.ruleset import ruleset_of_save
from kubeproxy_py.diagnose.trace.walk import Hooks
from kubeproxy_py.diagnose.trace.way import Way
from tests.diagnose.trace.traces import HOST

PACKET = Packet("203.0.113.9", "10.96.0.10", "TCP", 80, mark=0x1)
PACKET_6 = Packet("2001:db8::9", "fd00::1", "TCP", 80)


def packets_after(*rules: str, packet: Packet = PACKET) -> tuple[list[Packet], list[str]]:
    """The packets past a chain with *rules*, and the verdicts on those that end there."""
    lines = ["*nat", ":PREROUTING ACCEPT [0:0]", ":SUB - [0:0]", "-A SUB -s 203.0.113.9 -j RETURN", "-A SUB -j DROP"]
    ruleset = ruleset_of_save([*lines, *(f"-A PREROUTING {rule}" for rule in rules), "COMMIT"])
    ways, ends = Hooks(ruleset, View(RowLookup({}), HOST)).run([Way(packet)], "PREROUTING", "nat")
    return [way.packet for way in ways], [end.verdict for end in ends]


@pytest.mark.parametrize(
    ("target", "mark"),
    [
        ("MARK --set-xmark 0x4000/0x4000", 0x4001),
        ("MARK --set-xmark 0x0/0xffffffff", 0),
        ("MARK --set-mark 0x8", 0x8),
        ("MARK --or-mark 0x8", 0x9),
        ("MARK --and-mark 0x8", 0x0),
        ("MARK --xor-mark 0x3", 0x2),
        ("CONNMARK --save-mark", 0x1),
        ("LOG --log-prefix x", 0x1),
    ],
)
def test_target_that_changes_the_mark(target: str, mark: int) -> None:
    ((packet,), ends) = packets_after(f"-j {target}")
    assert (packet.mark, packet.unknown_mark, ends) == (mark, 0, [])


def test_mark_that_is_restored_is_not_known() -> None:
    ((packet,), _) = packets_after("-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff")
    assert packet.unknown_mark == 0xFFFFFFFF


@pytest.mark.parametrize(
    ("rules", "verdicts"),
    [
        (["-j DROP"], ["dropped"]),
        (["-j REJECT --reject-with icmp-port-unreachable"], ["rejected"]),
        (["-j ACCEPT", "-j DROP"], []),
        (["-j RETURN", "-j DROP"], []),
        (["-j SUB", "-j DROP"], ["dropped"]),
        (["-g SUB", "-j DROP"], []),
        (["-j QUEUE"], ["unknown"]),
        (["-j NOSUCHTARGET"], ["unknown"]),
        (["-m recent --set -j DROP"], ["dropped"]),
        (["-m recent --set"], []),
    ],
)
def test_verdict_of_a_target(rules: list[str], verdicts: list[str]) -> None:
    assert packets_after(*rules)[1] == verdicts


@pytest.mark.parametrize(
    ("rule", "packet", "destination", "port"),
    [
        ("-j DNAT --to-destination 10.0.0.1:8080", PACKET, "10.0.0.1", 8080),
        ("-j DNAT --to-destination 10.0.0.1", PACKET, "10.0.0.1", 80),
        ("-p tcp -j DNAT --to-destination :8080", PACKET, "10.96.0.10", 8080),
        ("-j REDIRECT --to-ports 8080", PACKET, "127.0.0.1", 8080),
        ("-j DNAT --to-destination [fd00::2]:8080", PACKET_6, "fd00::2", 8080),
        ("-j DNAT --to-destination fd00::2", PACKET_6, "fd00::2", 80),
    ],
)
def test_target_that_changes_the_destination(rule: str, packet: Packet, destination: str, port: int) -> None:
    ((changed,), ends) = packets_after(rule, packet=packet)
    assert (changed.destination, changed.port, changed.diverted, ends) == (destination, port, rule, [])


def test_destination_that_is_one_of_several_is_unknown() -> None:
    assert packets_after("-j DNAT --to-destination 10.0.0.1-10.0.0.9") == ([], ["unknown"])


def test_ways_on_which_the_packet_is_the_same_are_one() -> None:
    packets, _ = packets_after("-m recent --set -j MARK --set-xmark 0x1/0x1", "-m recent --set -j LOG")
    assert packets == [PACKET]


def test_rule_that_may_mark_leads_both_ways() -> None:
    packets, _ = packets_after("-m recent --set -j MARK --set-xmark 0x2/0x2")
    assert [packet.mark for packet in packets] == [0x1, 0x3]
