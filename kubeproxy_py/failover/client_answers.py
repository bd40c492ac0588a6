"""What clients get of each endpoint, from two readings of the counters of IPVS.

An endpoint that got packets and sent none, while others of the same virtual server sent some, is deserted: the first
answer to a SYN comes from the kernel of the endpoint, so a slow program does not look like that.  Where nobody answers,
nothing is known: the way to all of them may be broken, or answers may not pass this node.

Linux updates these counters every two seconds.

IPVS counts ICMP errors as packets of the endpoint that they are about, whoever sent them: where no machine has the
address any more, each SYN is "answered" by this node, or by the router before that address.  An error quotes the packet
that it is about (RFC 1812, 4.3.2.3; RFC 4443, 2.4), so its size shows what it is.

Invariants:
- A virtual server with real servers of other forwarding methods than masquerading shows nothing: their answers do not
  pass this node.
- A reset alone is no answer of a program: it has no more than the headers of IP and TCP.
- Packets that have exactly the sizes of ICMP errors are no answer, and packets of nearly these sizes show nothing.
"""

from collections.abc import Iterable, Mapping
from enum import Enum

from msgspec import Struct

from kubeproxy_py.failover.endpoint_health import Result
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.rows import RealServer, RealServerCounters, Traffic, VirtualServer
from kubeproxy_py.net import is_ipv6

Reading = Mapping[RealServer, RealServerCounters]

ERRORS_LATE_S = 5.0
"""How long after a packet an ICMP error about it may come: Linux asks three seconds for a neighbour's address."""

_RESET_BYTES = {False: 40, True: 60}  # of a reset in IPv4 and IPv6: headers without options
_ERROR_BYTES = {False: 28, True: 48}  # of an ICMP error in IPv4 and IPv6: headers of IP and ICMP
_QUOTED_MAX_BYTES = {False: 576 - 28, True: 1280 - 48}
_SHORTEST_ERROR_BYTES = 56  # of routers that quote the header of IPv4 and 8 bytes more, as RFC 792 has it
_NEARLY_BYTES = 12  # the SYNs of systems differ by so much: 52 bytes of Windows, 60 of Linux, 64 of macOS


class Seen(Struct, frozen=True, gc=False):
    """What clients got of one endpoint, and how many connections they began."""

    result: Result
    connections: int


class _Packets(Struct, frozen=True, gc=False):
    """What was counted of one real server."""

    traffic: Traffic
    asked: Traffic  # the same, in the longer time from which ICMP errors may come


def client_results(earlier: Reading, before: Reading, after: Reading) -> dict[Destination, Seen]:
    """Return what clients got between the readings *before* and *after*, of those endpoints of which it is known.

    *earlier* is a reading ``ERRORS_LATE_S`` before *before*, or the first one.
    """
    by_server: dict[VirtualServer, dict[RealServer, _Packets]] = {}
    mixed: set[VirtualServer] = set()
    for key, counters in after.items():
        if counters.weight < 0:  # another forwarding method
            mixed.add(key.virtual_server)
        elif key in before:
            traffic = _difference(before[key].traffic, counters.traffic)
            asked = _difference(earlier.get(key, before[key]).traffic, counters.traffic)
            is_whole = asked.received_packets >= traffic.received_packets  # the kernel did not begin again at 0 between
            by_server.setdefault(key.virtual_server, {})[key] = _Packets(traffic, asked if is_whole else traffic)
    results: dict[Destination, Seen] = {}
    for server, packets in by_server.items():
        if server not in mixed:
            _add_results(results, _results_of(packets))
    return results


class _Answer(Enum):
    """What the packets to clients may be."""

    NONE = "there are none, or they are ICMP errors"
    RESETS = "resets only"
    UNKNOWN = "they may be ICMP errors"
    PROGRAM = "a program answers"


_ANSWERS = {_Answer.RESETS: Result.REFUSES, _Answer.PROGRAM: Result.SERVES}


def _results_of(packets: Mapping[RealServer, _Packets]) -> Iterable[tuple[RealServer, Seen]]:
    answers = {key: _answer_of(one, is_v6=is_ipv6(key.address)) for key, one in packets.items()}
    others_answer = not _ANSWERS.keys().isdisjoint(answers.values())
    for key, answer in answers.items():
        traffic = packets[key].traffic
        if result := _ANSWERS.get(answer):
            yield key, Seen(result, traffic.connections)
        elif answer is _Answer.NONE and traffic.connections > 0 and traffic.received_packets > 0 and others_answer:
            yield key, Seen(Result.DESERTED, traffic.connections)


def _answer_of(packets: _Packets, *, is_v6: bool) -> _Answer:
    sent, sent_bytes = packets.traffic.sent_packets, packets.traffic.sent_bytes
    asked, asked_bytes = packets.asked.received_packets, packets.asked.received_bytes
    if sent <= 0:
        return _Answer.NONE if sent == 0 else _Answer.UNKNOWN
    if sent_bytes <= sent * _RESET_BYTES[is_v6]:
        return _Answer.RESETS
    if sent > asked:  # no more errors than packets
        return _Answer.PROGRAM
    error_bytes = _ERROR_BYTES[is_v6] + min(asked_bytes / asked, _QUOTED_MAX_BYTES[is_v6])
    off_bytes = abs(sent_bytes / sent - error_bytes)
    if off_bytes < 0.5 / (sent * asked):  # none: two means of so many packets differ by more than that, if at all
        return _Answer.NONE
    is_shortest = not is_v6 and sent_bytes == sent * _SHORTEST_ERROR_BYTES
    return _Answer.UNKNOWN if is_shortest or off_bytes <= _NEARLY_BYTES else _Answer.PROGRAM


_RANK = {Result.SERVES: 0, Result.REFUSES: 1, Result.DESERTED: 2}


def _add_results(results: dict[Destination, Seen], new: Iterable[tuple[RealServer, Seen]]) -> None:
    """Add *new* to *results*; of an endpoint of several virtual servers the best counts."""
    for key, seen in new:
        place = key.address, key.port
        known = results.get(place)
        if known is None or _RANK[seen.result] < _RANK[known.result]:
            results[place] = seen


def _difference(before: Traffic, after: Traffic) -> Traffic:
    """Return what was counted meanwhile; what is negative, because the kernel began again at 0, shows nothing."""
    return Traffic(
        after.connections - before.connections,
        after.received_packets - before.received_packets,
        after.sent_packets - before.sent_packets,
        after.received_bytes - before.received_bytes,
        after.sent_bytes - before.sent_bytes,
    )
