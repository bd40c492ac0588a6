"""What happens to a packet, evaluated on rows alone: a small interpreter of the rules that this agent writes.

It shares no code with the planner, so that a law can compare what packets meet before, during and after a plan.
"""

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Literal, NamedTuple

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import (
    DRAINING,
    Address,
    Chain,
    ChainSpec,
    IpsetEntry,
    Jump,
    RealServer,
    Rows,
    Table,
    VirtualServer,
)
from kubeproxy_py.net import Family, family_of

NODE_ADDRESSES = frozenset({"192.168.3.10", "fd00:3::10"})
_ENDS = ("ACCEPT", "DROP", "REJECT", "MASQUERADE")


class Packet(NamedTuple):
    """The first packet of a connection from a client outside of the cluster."""

    source: str
    destination: str
    port: int
    protocol: str  # lower case

    @property
    def family(self) -> Family:
        return family_of(self.destination)

    @property
    def server(self) -> VirtualServer:
        return VirtualServer(self.destination, self.port, self.protocol.upper())  # type: ignore[arg-type]


class Fate(NamedTuple):
    """What happens to a packet.

    elsewhere: this node does not have the address.  shut out: a rule drops or rejects it.  host: a port of the host
    itself gets it.  refused: a virtual server without endpoints.  served: one of *endpoints* gets it.
    """

    result: Literal["elsewhere", "shut out", "host", "refused", "served"]
    endpoints: frozenset[tuple[str, int]] = frozenset()
    masqueraded: bool = False


class State:
    """Rows, with what is looked up of them by packet."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.endpoints: defaultdict[VirtualServer, set[tuple[str, int]]] = defaultdict(set)
        self.sources: defaultdict[tuple[str, str], list[str]] = defaultdict(list)  # by set and frontend
        for key, spec in rows.items():
            if isinstance(key, RealServer) and spec != DRAINING:
                self.endpoints[key.virtual_server].add((key.address, key.port))
            elif isinstance(key, IpsetEntry) and key.entry.count(",") == 2:
                frontend, _, source = key.entry.rpartition(",")
                self.sources[key.set, frontend].append(source)


class _Walk:
    """One packet on its way through the chains of *state*."""

    def __init__(self, state: State, packet: Packet, *, is_local: bool) -> None:
        self.state = state
        self.rows = state.rows
        self.packet = packet
        self.is_local = is_local
        self.is_marked = False

    def passes(self, table: Table, hook: str) -> str:
        """Return the verdict of all jumps of *hook*; "" if none ends the walk."""
        family = self.packet.family
        for jump_table, source, target, _ in reversed(kube_names.JUMPS):  # each is inserted above the last
            if (jump_table, source) == (table, hook) and Jump(family, table, source, target) in self.rows:
                verdict = self._run(table, target)
                if verdict in _ENDS:
                    return verdict
        return ""

    def _run(self, table: Table, name: str) -> str:
        spec = self.rows.get(Chain(self.packet.family, table, name))
        for rule in spec.rules if isinstance(spec, ChainSpec) else ():
            matches, target = parse_rule(rule)
            if not all(match(self) for match in matches):
                continue
            if target == "MARK":
                self.is_marked = True
            elif target == "RETURN":
                return ""
            elif target in _ENDS:
                return target
            elif (verdict := self._run(table, target)) in _ENDS:
                return verdict
        return ""

    def is_in(self, name: str, fields: str) -> bool:
        packet, rows = self.packet, self.rows
        port = f"{packet.protocol}:{packet.port}"
        match fields:
            case "dst,dst":
                return IpsetEntry(name, f"{packet.destination},{port}") in rows
            case "src,dst":
                return IpsetEntry(name, f"{packet.source},{port}") in rows
            case "dst":
                return any(IpsetEntry(name, entry) in rows for entry in (packet.destination, str(packet.port)))
            case "dst,dst,src":
                networks = self.state.sources.get((name, f"{packet.destination},{port}"), ())
                return any(ip_address(packet.source) in ip_network(network) for network in networks)
        raise AssertionError(fields)


_Match = Callable[[_Walk], bool]


@cache
def parse_rule(rule: str) -> tuple[tuple[_Match, ...], str]:
    words = iter(shlex.split(rule))
    matches: list[_Match] = []
    target = ""
    negate = False
    for word in words:
        if word == "!":
            negate = True
            continue
        if word in ("-j", "-g"):
            target = next(words)
            break
        match = _match(word, words)
        if match:
            matches.append(_negated(match) if negate else match)
            negate = False
    return tuple(matches), target


def _negated(match: _Match) -> _Match:
    return lambda walk: not match(walk)


def _match(word: str, words: Iterator[str]) -> _Match | None:
    match word:
        case "-m" | "--comment" | "--ctstate":
            next(words)
            return None
        case "-s":
            network = ip_network(next(words))
            return lambda walk: ip_address(walk.packet.source) in network
        case "-p":
            protocol = next(words)
            return lambda walk: walk.packet.protocol == protocol
        case "--match-set":
            name, fields = next(words), next(words)
            return lambda walk: walk.is_in(name, fields)
        case "--dst-type":
            next(words)
            return lambda walk: walk.is_local
        case "--src-type" | "--vproto" | "--vaddr" | "--vport":
            next(words)
            return lambda _: False  # the client is outside, and its packet does not come from IPVS
        case "--physdev-is-in":
            return lambda _: False
        case "--mark":
            next(words)
            return lambda walk: walk.is_marked
    raise AssertionError(word)


def fate(state: State, packet: Packet) -> Fate:
    """Return what happens to *packet* on a node with the rows of *state*."""
    is_local = packet.destination in NODE_ADDRESSES or Address(packet.destination) in state.rows
    if not is_local:
        return Fate("elsewhere")
    walk = _Walk(state, packet, is_local=is_local)
    walk.passes("nat", "PREROUTING")
    if walk.passes("filter", "INPUT") in ("DROP", "REJECT"):
        return Fate("shut out")
    if packet.server not in state.rows:
        return Fate("host")
    endpoints = frozenset(state.endpoints.get(packet.server, ()))
    if not endpoints:
        return Fate("refused")
    return Fate("served", endpoints, masqueraded=walk.passes("nat", "POSTROUTING") == "MASQUERADE")
