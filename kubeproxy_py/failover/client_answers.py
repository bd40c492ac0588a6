"""What clients get of each endpoint, from two readings of the counters of IPVS.

An endpoint that got packets and sent none, while others of the same virtual server sent some, is deserted: the first
answer to a SYN comes from the kernel of the endpoint, so a slow program does not look like that.  Where nobody answers,
nothing is known: the way to all of them may be broken, or answers may not pass this node.

Linux updates these counters every two seconds.

Invariants:
- A virtual server with real servers of other forwarding methods than masquerading shows nothing: their answers do not
  pass this node.
- A reset alone is no answer of a program: it has no more than the headers of IP and TCP.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from kubeproxy_py.failover.endpoint_health import Result
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.rows import RealServer, RealServerCounters, Traffic, VirtualServer
from kubeproxy_py.net import is_ipv6

Reading = Mapping[RealServer, RealServerCounters]

_RESET_BYTES = {False: 40, True: 60}  # of a reset in IPv4 and IPv6: headers without options


class Seen(Struct, frozen=True, gc=False):
    """What clients got of one endpoint, and how many connections they began."""

    result: Result
    connections: int


def client_results(before: Reading, after: Reading) -> dict[Destination, Seen]:
    """Return what clients got between two readings, of those endpoints of which it is known."""
    by_server: dict[VirtualServer, dict[RealServer, Traffic]] = {}
    mixed: set[VirtualServer] = set()
    for key, counters in after.items():
        if counters.weight < 0:  # another forwarding method
            mixed.add(key.virtual_server)
        elif key in before:
            by_server.setdefault(key.virtual_server, {})[key] = _difference(before[key].traffic, counters.traffic)
    results: dict[Destination, Seen] = {}
    for server, differences in by_server.items():
        if server not in mixed:
            _add_results(results, _results_of(differences))
    return results


def _results_of(differences: Mapping[RealServer, Traffic]) -> Iterable[tuple[RealServer, Seen]]:
    others_answer = any(traffic.sent_packets > 0 for traffic in differences.values())
    for key, traffic in differences.items():
        if traffic.sent_packets > 0:
            is_reset = traffic.sent_bytes <= traffic.sent_packets * _RESET_BYTES[is_ipv6(key.address)]
            yield key, Seen(Result.REFUSES if is_reset else Result.SERVES, traffic.connections)
        elif traffic.sent_packets == 0 and traffic.connections > 0 and traffic.received_packets > 0 and others_answer:
            yield key, Seen(Result.DESERTED, traffic.connections)


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
