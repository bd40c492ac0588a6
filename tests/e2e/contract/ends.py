"""From a row to its requests, and what their results must be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple

from lab.echo import Protocol
from lab.network import BY_NAME, NODE_NAME
from tests.e2e.client_requests import Request, RequestResult, Series
from tests.e2e.contract.services import place_of
from tests.e2e.contract.table import BLOCKED, BOUND_NODE, OWN, Configuration, Fate, Policies, Row
from tests.e2e.policies_services import VERSIONS, Version

# The source address that a pod sees when node A masquerades: that of the interface towards the pod, by its node.
_MASQUERADED: Mapping[Version, Mapping[str, str]] = {
    4: {"node-a": "10.244.1.1", "node-b": "192.168.3.10"},
    6: {"node-a": "fd00:10:244:1::1", "node-b": "fd00:3::10"},
}
# Node B has several addresses, which an unbound SCTP socket would tell the pod, past node A, which would then try them.
_BOUND = (BOUND_NODE, BLOCKED)
_STICKY_TIMES = 3
_DROPPED_S = 1.0  # how long a request waits that nobody should answer
_PERHAPS_S = 3.0  # one of which some answers are lost
_ANSWERED_S = 20.0


class Case(NamedTuple):
    """A row in one configuration, family and protocol."""

    row: Row
    policies: Policies
    configuration: Configuration
    version: Version
    protocol: Protocol

    @property
    def fate(self) -> Fate:
        return self.row.fate_in(self.policies, self.configuration)

    @property
    def request(self) -> Request:
        address, port = place_of(self.row.service, self.row.front, self.version)
        client = NODE_NAME if self.row.client == BOUND_NODE else self.row.client
        source = _own_address(client, self.version) if self.row.client in _BOUND else ""
        return Request(client, self.protocol, address, port, source)

    @property
    def times(self) -> int:
        """One round of rr; or how often a client must come back to one pod."""
        return _STICKY_TIMES if self.fate.sticky else max(1, len(self.fate.pods))

    @property
    def series(self) -> Series:
        """How often to send the request, and for how long it waits: not long if it should wait in vain."""
        outcomes = {self._answer(pod).outcome for pod in self.fate.pods} or {_end_seen(self)}
        # All frontends of a Service port may share a virtual server.
        turn = f"{self.row.service} {self.protocol} {self.version}" if self.fate.pods else ""
        if outcomes & _WAITED_FOR:
            return Series(self.times, _DROPPED_S if outcomes <= _WAITED_FOR else _PERHAPS_S, turn)
        is_silent = (self.fate.end, self.protocol) == ("refused", "sctp")
        return Series(self.times, _DROPPED_S if is_silent else _ANSWERED_S, turn)

    def disagreement(self, results: Counter[RequestResult]) -> str:
        """Return how *results* differ from the row; "" if they do not."""
        what = f"{self.protocol} v{self.version}: {self.fate.end or 'answers'} expected, but {dict(results)}"
        if self.fate.end:
            return "" if all(self._is_end(result) for result in results) else what
        expected = [self._answer(pod) for pod in self.fate.pods]
        if self.fate.sticky:
            return "" if len(results) == 1 and set(results) <= set(expected) else what
        return "" if results == Counter(expected) else f"{what}, not {expected}"

    def _is_end(self, result: RequestResult) -> bool:
        match self.fate.end:
            case "host":
                return is_refused_by_host(result)
            case "away":
                return _is_away(result)
            case "dropped" if self.protocol == "udp" and self.request.client == NODE_NAME:
                return is_dropped_at_once(result)
            case _:
                return result == RequestResult(_end_seen(self))

    def _answer(self, pod: str) -> RequestResult:
        machine = BY_NAME[pod.partition(":")[0]]
        keeps_address = self.fate.source == OWN and machine.name != self.row.client
        if self.fate.source == "front":
            source = self.request.address
        elif keeps_address:
            source = _own_address(self.request.client, self.version)
        else:
            source = _MASQUERADED[self.version][machine.plugged_into]
        is_lost = keeps_address and not _passes_node_a(self.request.client) and machine.plugged_into != NODE_NAME
        if not is_lost:
            return RequestResult("answered", pod, source)
        return RequestResult("lost", pod, source) if self.protocol == "udp" else RequestResult("unanswered")


def cases(policies: Policies, configuration: Configuration, row: Row) -> list[Case]:
    """Return *row* by each protocol in each family.

    Not SCTP from the node itself without binding: such a socket sends all addresses of its host when it connects, those
    of kube-ipvs0 too, which together exceed a packet.
    """
    return [
        Case(row, policies, configuration, version, protocol)
        for version in VERSIONS
        for protocol in row.protocols
        if (row.client, protocol) != (NODE_NAME, "sctp")
    ]


_WAITED_FOR = frozenset(("lost", "dropped", "unanswered"))


def _end_seen(case: Case) -> Literal["refused", "dropped", "unanswered"]:
    if case.fate.end in ("refused", "host"):
        return "refused"
    return "dropped" if case.protocol == "udp" else "unanswered"


def is_refused_by_host(result: RequestResult) -> bool:
    """Return whether the host refused: by a TCP reset, an SCTP abort, or ICMP for UDP."""
    return result.outcome == "refused" or (result.outcome == "failed" and result.error.startswith("Refused("))


def _is_away(result: RequestResult) -> bool:
    """Return whether nobody answered and nobody here refused; the network may have said that it gave up."""
    return result.outcome in ("failed", "dropped", "unanswered") and not is_refused_by_host(result)


def is_dropped_at_once(result: RequestResult) -> bool:
    """Return whether the kernel of the sender dropped the datagram, which it tells the sender by EPERM."""
    return result.outcome == "dropped" or (result.outcome == "failed" and "Operation not permitted" in result.error)


def _passes_node_a(client: str) -> bool:
    """Return whether answers to *client* from another node come by node A."""
    return NODE_NAME in (client, BY_NAME[client].plugged_into)


def _own_address(machine: str, version: Version) -> str:
    return BY_NAME[machine].ipv4 if version == 4 else BY_NAME[machine].ipv6
