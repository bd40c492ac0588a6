"""What happens to a packet, evaluated on rows alone: a small interpreter of the rules that this agent writes.

It shares no code with the planner, so that a law can compare what packets meet before, during and after a plan.
"""

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, Literal, NamedTuple, TypeVar

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
    Spec,
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
        self.sets: dict[str, frozenset[str]] = {}  # by entry: the sets that have it
        self._sources: dict[str, frozenset[tuple[str, str]]] = {}  # by frontend: sets and networks
        self._rules: dict[Family, _Rules] = {}  # which did not change since they were looked up
        for key in rows:
            self.follow(key)

    def follow(self, key: Key) -> None:
        """Take over the row *key* as it is now."""
        exists = key in self.rows
        match key:
            case RealServer():
                change = set.add if exists and self.rows[key] != DRAINING else set.discard
                change(self.endpoints[key.virtual_server], (key.address, key.port))
            case IpsetEntry() if key.entry.count(",") == 2:
                frontend, _, source = key.entry.rpartition(",")
                _change(self._sources, frontend, (key.set, source), exists=exists)
            case IpsetEntry():
                _change(self.sets, key.entry, key.set, exists=exists)
            case Chain() | Jump():
                self._rules.pop(key.family, None)
            case VirtualServer() if not exists:
                self.endpoints.pop(key, None)  # its real servers go with it

    def rules(self, family: Family) -> "_Rules":
        """Return the chains and jumps of *family*."""
        if family not in self._rules:
            keys = (*kube_names.chains(family), *kube_names.jumps(family))
            self._rules[family] = _rules(tuple((key, self.rows[key]) for key in keys if key in self.rows))
        return self._rules[family]

    def look(self, packet: Packet, *, is_local: bool, sets: frozenset[str] | None = None) -> "_Look":
        """Return what rules can tell of *packet*; *sets*: as if these had its address and port."""
        by_entry, (frontend, from_source) = self.sets, _entries_of(packet)
        return _Look(
            packet.source,
            packet.protocol,
            by_entry.get(frontend, _NONE) if sets is None else sets,
            by_entry.get(from_source, _NONE),
            by_entry.get(packet.destination, _NONE) | by_entry.get(str(packet.port), _NONE),
            self._sources.get(frontend, _NONE),
            is_local,
        )


_NONE: frozenset[Any] = frozenset()
_Item = TypeVar("_Item")


def _change(by_entry: dict[str, frozenset[_Item]], entry: str, item: _Item, *, exists: bool) -> None:
    items = by_entry.get(entry, _NONE)
    by_entry[entry] = items | {item} if exists else items - {item}


@cache
def _entries_of(packet: Packet) -> tuple[str, str]:
    """Return how sets name the destination of *packet*, and its source, both with the port."""
    port = f"{packet.protocol}:{packet.port}"
    return f"{packet.destination},{port}", f"{packet.source},{port}"


class _Look(NamedTuple):
    """All that rules can tell of a packet: much the same for many packets."""

    source: str
    protocol: str
    sets_of_destination: frozenset[str]  # with the port
    sets_of_source: frozenset[str]  # with the port
    sets_of_address_or_port: frozenset[str]  # of the destination
    sources: frozenset[tuple[str, str]]  # sets, and the networks that they admit to the destination
    is_local: bool

    def is_in(self, name: str, fields: str) -> bool:
        match fields:
            case "dst,dst":
                return name in self.sets_of_destination
            case "src,dst":
                return name in self.sets_of_source
            case "dst":
                return name in self.sets_of_address_or_port
            case "dst,dst,src":
                return any(is_within(self.source, network) for having, network in self.sources if having == name)
        raise AssertionError(fields)


class _Rules:
    """Chains and jumps of one family."""

    def __init__(self, rows: Iterable[tuple[Key, Spec]]) -> None:
        self.jumps: set[Jump] = set()
        self.chains: dict[tuple[Table, str], list[tuple[tuple[_Match, ...], str]]] = {}
        for key, spec in rows:
            match key:
                case Jump():
                    self.jumps.add(key)
                case Chain() if isinstance(spec, ChainSpec):
                    self.chains[key.table, key.name] = parse_chain(spec)


@lru_cache(maxsize=1000)
def _rules(rows: tuple[tuple[Key, Spec], ...]) -> _Rules:
    """Return the same object for the same *rows*, so that verdicts of it are found again."""
    return _Rules(rows)


@lru_cache(maxsize=100_000)
def _verdicts(rules: _Rules, family: Family, look: _Look) -> tuple[str, str]:
    """Return the verdicts on a packet that comes in, and on one that goes on to an endpoint."""
    walk = _Walk(rules, family, look)
    walk.passes("nat", "PREROUTING")
    return walk.passes("filter", "INPUT"), walk.passes("nat", "POSTROUTING")


class _Walk:
    """One packet on its way through chains."""

    def __init__(self, rules: _Rules, family: Family, look: _Look) -> None:
        self.look = look
        self.is_marked = False
        self._rules = rules
        self._family = family

    def passes(self, table: Table, hook: str) -> str:
        """Return the verdict of all jumps of *hook*; "" if none ends the walk."""
        for jump in _jumps(self._family, table, hook):
            if jump in self._rules.jumps:
                verdict = self._run(table, jump.target)
                if verdict in _ENDS:
                    return verdict
        return ""

    def _run(self, table: Table, name: str) -> str:
        for matches, target in self._rules.chains.get((table, name), ()):
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
            return lambda walk: is_within(walk.look.source, network)
        case "-p":
            protocol = next(words)
            return lambda walk: walk.look.protocol == protocol
        case "--match-set":
            name, fields = next(words), next(words)
            return lambda walk: walk.look.is_in(name, fields)
        case "--dst-type":
            next(words)
            return lambda walk: walk.look.is_local
        case "--src-type" | "--vproto" | "--vaddr" | "--vport":
            next(words)
            return lambda _: False  # the client is outside, and its packet does not come from IPVS
        case "--physdev-is-in":
            return lambda _: False
        case "--mark":
            next(words)
            return lambda walk: walk.is_marked
    raise AssertionError(word)


def fate(state: State, packet: Packet, *, is_bound: bool = False, sets: frozenset[str] | None = None) -> Fate:
    """Return what happens to *packet* on a node with the rows of *state*.

    Args:
        state: The rows.
        packet: The packet.
        is_bound: As if its address were bound.
        sets: As if these sets had its address and port.
    """
    is_local = is_bound or packet.destination in NODE_ADDRESSES or Address(packet.destination) in state.rows
    if not is_local:
        return Fate("elsewhere")
    family = packet.family
    on_arrival, on_leaving = _verdicts(state.rules(family), family, state.look(packet, is_local=is_local, sets=sets))
    if on_arrival in ("DROP", "REJECT"):
        return Fate("shut out")
    if packet.server not in state.rows:
        return Fate("host")
    endpoints = frozenset(state.endpoints.get(packet.server, ()))
    if not endpoints:
        return Fate("refused")
    return Fate("served", endpoints, masqueraded=on_leaving == "MASQUERADE")
