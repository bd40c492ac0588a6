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
    Key,
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
    """Rows, with what is looked up of them by packet.

    *rows* may change afterwards, if `follow` is called with each key that was added, changed or deleted.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.endpoints: defaultdict[VirtualServer, set[tuple[str, int]]] = defaultdict(set)
        self.entries: set[tuple[str, str]] = set()
        self.sources: defaultdict[tuple[str, str], set[str]] = defaultdict(set)  # by set and frontend
        self.chains: dict[tuple[Family, Table, str], list[tuple[tuple[_Match, ...], str]]] = {}
        for key in rows:
            self.follow(key)

    def follow(self, key: Key) -> None:
        """Take over the row *key* as it is now."""
        exists = key in self.rows
        match key:
            case RealServer():
                change = set.add if exists and self.rows[key] != DRAINING else set.discard
                change(self.endpoints[key.virtual_server], (key.address, key.port))
            case IpsetEntry():
                change_entry = set.add if exists else set.discard
                change_entry(self.entries, (key.set, key.entry))
                if key.entry.count(",") == 2:
                    frontend, _, source = key.entry.rpartition(",")
                    (set.add if exists else set.discard)(self.sources[key.set, frontend], source)
            case Chain():
                spec = self.rows.get(key)
                self.chains[key.family, key.table, key.name] = parse_chain(spec) if isinstance(spec, ChainSpec) else []
            case VirtualServer() if not exists:
                self.endpoints.pop(key, None)  # its real servers go with it


class _Walk:
    """One packet on its way through the chains of *state*."""

    def __init__(self, state: State, packet: Packet, *, is_local: bool) -> None:
        self.state = state
        self.packet = packet
        self.family = packet.family
        self.is_local = is_local
        self.is_marked = False
        port = f"{packet.protocol}:{packet.port}"
        self._frontend = f"{packet.destination},{port}"
        self._fields = {  # what a set is searched for
            "dst,dst": (self._frontend,),
            "src,dst": (f"{packet.source},{port}",),
            "dst": (packet.destination, str(packet.port)),
        }

    def passes(self, table: Table, hook: str) -> str:
        """Return the verdict of all jumps of *hook*; "" if none ends the walk."""
        for jump in _jumps(self.family, table, hook):
            if jump in self.state.rows:
                verdict = self._run(table, jump.target)
                if verdict in _ENDS:
                    return verdict
        return ""

    def _run(self, table: Table, name: str) -> str:
        for matches, target in self.state.chains.get((self.family, table, name), ()):
            if _fails(matches, self):
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
        if fields == "dst,dst,src":
            networks = self.state.sources.get((name, self._frontend), ())
            return any(is_within(self.packet.source, network) for network in networks)
        entries = self.state.entries
        for value in self._fields[fields]:  # noqa: SIM110 - as in _fails
            if (name, value) in entries:
                return True
        return False


@cache
def _jumps(family: Family, table: Table, hook: str) -> list[Jump]:
    """Return the jumps of *hook* in the order of its rules."""
    # Each is inserted above the last.
    jumps = reversed(kube_names.JUMPS)
    return [Jump(family, table, hook, target) for t, source, target, _ in jumps if (t, source) == (table, hook)]


@cache
def is_within(address: str, network: str) -> bool:
    return ip_address(address) in ip_network(network)


_Match = Callable[[_Walk], bool]


def _fails(matches: tuple[_Match, ...], walk: _Walk) -> bool:
    for match in matches:  # noqa: SIM110 - most of the time of a history is spent here
        if not match(walk):
            return True
    return False


@cache
def parse_chain(spec: ChainSpec) -> list[tuple[tuple[_Match, ...], str]]:
    return [parse_rule(rule) for rule in spec.rules]


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
            network = next(words)
            return lambda walk: is_within(walk.packet.source, network)
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


def fate(state: State, packet: Packet, *, is_bound: bool = False) -> Fate:
    """Return what happens to *packet* on a node with the rows of *state*; *is_bound*: as if its address were bound."""
    is_local = is_bound or packet.destination in NODE_ADDRESSES or Address(packet.destination) in state.rows
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
