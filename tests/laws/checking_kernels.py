"""Kernels that check law 2 after every step, and an agent on one, for the tests of random histories.

The kernel is MemoryKernel, which refuses what Linux refuses.  Only what a step can have changed is checked after it,
because a history has a thousand steps.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import ENOMEM
from functools import cache
from typing import NamedTuple

from hypothesis import event as note_event

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel import MarkReader
from kubeproxy_py.kernel.memory import MemoryKernel, SimulatedCrash
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.conditions import EndpointFailures, EndpointSteps
from kubeproxy_py.model.events import Feed, ObjectEvent, Synced
from kubeproxy_py.model.rows import (
    Address,
    Chain,
    ChainSpec,
    Ipset,
    IpsetEntry,
    Jump,
    Key,
    Link,
    RealServer,
    Rows,
    VirtualServer,
    referenced_sets,
)
from kubeproxy_py.model.steps import Outcome, Plan, Step, StepFailure
from kubeproxy_py.net import FAMILIES, IP, Family, family_of
from kubeproxy_py.plan.drain_policy import is_draining
from kubeproxy_py.reconcile.agent import Agent
from tests.laws.compilers import compiler as new_compiler
from tests.laws.histories import known
from tests.laws.packets import NODE_ADDRESSES, Fate, Packet, State, fate


class CheckedKernel(MemoryKernel):
    """Calls `check` between any two steps, and fails if a step is refused that is not to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Rows = {}
        self.desired: Rows = {}
        self.state = State(self.rows)  # follows the rows
        self.now_s = 0.0
        self.steps_seen = 0
        self.may_refuse = False  # because rows are not as the agent knows them

    def mark_readers(self) -> Sequence[MarkReader]:
        """Return none: nobody else changes rows."""
        return ()

    def begin_sync(self, desired: Rows) -> None:
        """Take the rows of now as those before the next sync, and *desired* as those after it."""
        self.before, self.desired = dict(self.rows), desired

    def end_sync(self) -> None:
        """Check what must be true when a sync is over."""

    def apply(self, plan: Plan) -> Outcome:
        failures: list[StepFailure] = []
        for step in plan:
            outcome = super().apply(Plan((step,)))
            # Steps that are sent together with one that fails are refused with it, if they depend on it.
            is_expected = failures or self.fault(step) or self.may_refuse
            assert is_expected or not outcome.failures, f"Linux would refuse {outcome.failures[0]}"
            failures += outcome.failures
            self.steps_seen += 1
            self.note_outcome(step, is_refused=bool(outcome.failures))
            self.follow(step)
            self.check(step)
        return Outcome(tuple(failures))

    def note_outcome(self, step: Step, *, is_refused: bool) -> None:
        """Note whether *step* was carried out."""

    def follow(self, step: Step) -> None:
        """Have the state follow the rows that *step* may have changed."""
        if isinstance(step.key, Ipset | Link) and step.verb != "add":  # with its entries or addresses
            self.state = State(self.rows)
        else:
            self.state.follow(step.key)

    def check(self, step: Step) -> None:
        """Check the rows of now, after *step*."""


class RowKernel(CheckedKernel):
    """Compares the rows after every step with those desired before and after the plan."""

    def begin_sync(self, desired: Rows) -> None:
        super().begin_sync(desired)
        states = (self.state, State(desired))
        self._never_empty = {
            server for server, endpoints in states[0].endpoints.items() if endpoints and states[1].endpoints.get(server)
        }
        self._whole: dict[IP, Rows] = {}  # by address that comes or goes: the rows that exist while it is bound
        for rows, others in ((self.before, desired), (desired, self.before)):
            addresses = {key.address for key in rows if isinstance(key, Address) and key not in others}
            self._whole |= {address: {} for address in addresses}
            for key, spec in rows.items() if addresses else ():
                address = address_of(key)
                if address in addresses and not is_replaced_at_a_kept_server(key, self.before, desired):
                    self._whole[address][key] = spec
        self._rules = list(needed_rules(self.before, desired))
        self._entry_counts = Counter(key.set for key in self.rows if isinstance(key, IpsetEntry))

    def check(self, step: Step) -> None:
        key = step.key
        contents = () if step.verb == "add" else (k for k in self.before if is_deleted_with(k, key))
        for changed in (key, *contents):
            self._check_right_row(changed)
        address = key.address if isinstance(key, Address) else address_of(key)
        if address in self._whole and Address(address) in self.rows:
            self._check_whole(address)
        server = key.virtual_server if isinstance(key, RealServer) else key
        if server in self._never_empty and server in self.rows:
            assert self.state.endpoints[server], f"{server} has no serving real server"
        if isinstance(key, IpsetEntry):
            self._entry_counts[key.set] += {"add": 1, "delete": -1}.get(step.verb, 0)
        elif isinstance(key, Ipset) and step.verb != "add":
            self._entry_counts = Counter(k.set for k in self.rows if isinstance(k, IpsetEntry))
        if isinstance(key, Chain | IpsetEntry):
            self._check_rules()

    def _check_right_row(self, key: Key) -> None:
        """Check that a row that was right stays; more rules may be in a chain."""
        if key in self.before and key in self.desired and self.before[key] == self.desired[key]:
            assert key in self.rows, f"{key} was right and was deleted"
            if not isinstance(key, Chain):
                assert self.rows[key] == self.desired[key], f"{key} was right and was changed"

    def _check_whole(self, address: IP) -> None:
        """Check that while an address that is added or deleted is bound, all rows of it exist."""
        for key, spec in self._whole[address].items():
            # At an address that goes, what stays may have changed already.
            specs = (spec, self.desired.get(key, spec))
            found = self.rows.get(key, "missing")
            assert found in specs, f"{address} is bound while {key} is {found}"

    def _check_rules(self) -> None:
        """Check that rules on a set exist while the set has entries that are desired or not yet all deleted."""
        for chain, rule, sets in self._rules:
            present = self.rows.get(chain)
            if isinstance(present, ChainSpec) and all(self._entry_counts[name] for name in sets):
                assert rule in present.rules, f"{chain} lacks {rule} while its sets have entries"


def is_replaced_at_a_kept_server(key: Key, before: Rows, desired: Rows) -> bool:
    """Return whether *key* exempts a frontend from masquerading that is to be masqueraded: then it goes at once."""
    if not isinstance(key, IpsetEntry) or "LOCAL" not in key.set or key in desired:
        return False
    address, _, protocol_port = key.entry.partition(",")
    protocol, _, port = protocol_port.partition(":")
    server = VirtualServer(address, int(port), protocol.upper())  # type: ignore[arg-type]
    return server in before and server in desired


def address_of(key: Key) -> IP | None:
    """Return the address that *key* belongs to, if any."""
    match key:
        case VirtualServer():
            return key.address
        case RealServer():
            return key.virtual_server.address
        case IpsetEntry() if "LOOP-BACK" not in key.set:
            return key.entry.partition(",")[0]
    return None


def is_deleted_with(key: Key, container: Key) -> bool:
    match container:
        case Ipset():
            return isinstance(key, IpsetEntry) and key.set == container.name
        case VirtualServer():
            return isinstance(key, RealServer) and key.virtual_server == container
        case Link():
            return isinstance(key, Address)
    return False


def needed_rules(before: Rows, desired: Rows) -> Iterator[tuple[Chain, str, frozenset[str]]]:
    """Yield each rule on sets that is needed while these have entries, and that is not to be replaced."""
    states = [(rows, sets_with_entries(rows)) for rows in (before, desired)]
    for rows, used in states:
        for chain, spec in rows.items():
            if not isinstance(chain, Chain) or not isinstance(spec, ChainSpec):
                continue
            for rule in spec.rules:
                sets = sets_of(rule)
                if sets and sets <= used and not is_removed(rule, chain, states, sets):
                    yield chain, rule, sets


def sets_with_entries(rows: Rows) -> set[str]:
    return {key.set for key in rows if isinstance(key, IpsetEntry)}


@cache
def sets_of(rule: str) -> frozenset[str]:
    return frozenset(referenced_sets([rule]))


def is_removed(rule: str, chain: Chain, states: list[tuple[Rows, set[str]]], sets: frozenset[str]) -> bool:
    """Whether *rule* is in one only, though *sets* have entries in both (a new detectLocalMode replaces such rules)."""
    return any(
        sets <= used_sets and not (isinstance(spec := rows.get(chain), ChainSpec) and rule in spec.rules)
        for rows, used_sets in states
    )


OUTSIDE_CLIENTS = ("198.51.100.77", "203.0.113.250", "2001:db8:1::77", "2001:db8:ffff::77")
"""Of each family one that the source ranges of histories.py may allow, and one that they never do."""

PODS_HERE = ("10.244.1.", "fd00:10:244:1:")
"""Pods of this node answer through it, whether or not their client was masqueraded."""

HOST_PORT = 22
"""A port of the host that no Service has."""


class Meeting(NamedTuple):
    """What a packet meets before and after a sync."""

    before: Fate
    after: Fate

    @property
    def results(self) -> tuple[str, str]:
        return self.before.result, self.after.result


class PacketKernel(CheckedKernel):
    """Checks what packets meet after every step, compared with what they meet before the sync and what they should."""

    def __init__(self) -> None:
        super().__init__()
        self.idempotent = True  # what failed in part may be done already
        self.refused: dict[Key, str] = {}  # by a fault, and not carried out since; with the verb
        self._lacked_firewall: set[Family] = set()
        self.unbound: set[IP] = set()  # addresses that another program deleted
        self.lost_entries: set[IpsetEntry] = set()  # that another program deleted
        self._shut_out_by_loss: dict[Packet, Fate] = {}  # what they would meet, because source ranges admit them
        self.meetings: dict[Packet, Meeting] = {}
        self._ranges: set[tuple[str, str]] = set()  # sets that are to have source ranges, and of which frontends
        self._by_address: defaultdict[IP, list[Packet]] = defaultdict(list)
        self._by_family: defaultdict[Family, list[Packet]] = defaultdict(list)
        self._unmasqueraded: defaultdict[VirtualServer, set[tuple[str, int]]] = defaultdict(set)
        self._unmasqueraded_with_rules: defaultdict[VirtualServer, set[tuple[str, int]]] = defaultdict(set)

    def begin_sync(self, desired: Rows) -> None:
        kept_back = {key.address for key in self.desired if isinstance(key, Address) and key not in self.rows}
        super().begin_sync(desired)
        self._lacked_firewall = {family for family in FAMILIES if lacks_firewall(self.before, family)}
        before, after = self.state, State(desired)
        self.meetings = {
            packet: Meeting(fate(before, packet), fate(after, packet)) for packet in probes(self.before, desired)
        }
        self._by_address.clear()
        self._by_family.clear()
        self._unmasqueraded.clear()  # endpoints that some client meets so
        self._shut_out_by_loss.clear()
        entries = (key for key in desired if isinstance(key, IpsetEntry))
        self._ranges = {(key.set, key.entry.rpartition(",")[0]) for key in entries if "-SOURCE-" in key.set}
        # An entry that comes back, or another in its place, may admit clients again before obsolete endpoints go.
        lost = frozenset(self.lost_entries)
        returning = lost & desired.keys()
        for packet, meeting in self.meetings.items():
            self._by_address[packet.destination].append(packet)
            self._by_family[packet.family].append(packet)
            # While an address that goes is still bound, what is behind it may be as desired already.
            is_unbound = meeting.after.result == "elsewhere"
            if meeting.before.result == "shut out" and (served := served_with(before, packet, lost)):
                self._shut_out_by_loss[packet] = served
            was_unbound = packet.destination in self.unbound
            for its_fate in (
                meeting.before,  # as the other program left it, also where lost entries would change it
                fate_if_open(before, packet, meeting.before, is_bound=was_unbound, lost=returning),
                fate_if_open(after, packet, meeting.after, is_bound=is_unbound),
            ):
                if its_fate.endpoints and not its_fate.masqueraded:
                    self._unmasqueraded[packet.server].update(its_fate.endpoints)
        self._note_kept_back(kept_back)

    def _note_kept_back(self, addresses: set[IP]) -> None:
        """Note which endpoints clients of *addresses* would meet unmasqueraded if these were bound already.

        They were to be, and are not because rules were refused: as if they had them now.
        """
        self._unmasqueraded_with_rules.clear()
        if not (addresses and self.refused):
            return
        rules: Rows = {key: spec for key, spec in self.desired.items() if isinstance(key, Chain | Jump)}
        state = State({**self.before, **rules})
        for packet in (packet for address in addresses for packet in self._by_address[address]):
            would_meet = fate(state, packet, is_bound=True)
            if not would_meet.masqueraded:
                self._unmasqueraded_with_rules[packet.server].update(would_meet.endpoints)

    def end_sync(self) -> None:
        for packet, meeting in self.meetings.items():
            if packet.destination in NODE_ADDRESSES:
                continue  # where a port without a virtual server is the host's
            if "host" not in meeting.results and fate(self.state, packet).result == "host":
                assert self.is_refused(packet), f"{packet} reaches a port of the host after the sync"

    def note_outcome(self, step: Step, *, is_refused: bool) -> None:
        if is_refused:
            self.refused[step.key] = step.verb
        else:
            self.refused.pop(step.key, None)

    def check(self, step: Step) -> None:
        for packet in self._concerned(step.key):
            self.check_packet(packet, self.meetings[packet], fate(self.state, packet))

    def _concerned(self, key: Key) -> Iterable[Packet]:
        """Return the packets of which what they meet can depend on the row *key*."""
        match key:
            case Chain(family=family) | Jump(family=family):
                return self._by_family[family]
            case VirtualServer(address=address) | RealServer(virtual_server=VirtualServer(address=address)):
                return self._by_address[address]
            case Address(address=address):
                return self._by_address[address]
            case IpsetEntry(set=name, entry=entry):
                address = entry.partition(",")[0]
                if "." in address or ":" in address:
                    return self._by_address[address]
                return self._by_family["IPv6" if "-6-" in name else "IPv4"]
        return ()

    def check_packet(self, packet: Packet, meeting: Meeting, found: Fate) -> None:
        before, after = meeting
        if not self.is_range_refused(packet) and not self._was_open_by_fault(packet):
            check_still_served(packet, before, found, after)
        if found.result == "served" and not found.masqueraded:
            unanswered = {endpoint for endpoint in found.endpoints if not endpoint[0].startswith(PODS_HERE)}
            lost = unanswered - self._unmasqueraded[packet.server] - self._left_by_fault(packet.server)
            assert not lost, f"{packet} meets {lost} without being masqueraded"
        # A virtual server that goes may be met until it is gone, and for a moment the host's port in its place.
        is_going = packet.port != HOST_PORT and packet.server not in self.desired
        is_hosts = packet.destination in NODE_ADDRESSES
        may_reach_host = is_going or is_hosts or Address(packet.destination) in self.before
        if found.result == "served" or (found.result == "host" and not may_reach_host):
            # "refused": the rules admit the client, before or after the sync, and there is no endpoint.
            # A virtual server that comes while its address goes is what the Service wants; the address is still bound.
            address = Address(packet.destination)
            comes_late = packet.server in self.desired and address in self.before and address not in self.desired
            is_admitted_again = packet in self._shut_out_by_loss
            is_admitted = found.result == "served" and ("refused" in meeting.results or comes_late or is_admitted_again)
            is_known = is_admitted or found.result in meeting.results
            is_known = is_known or (found.result == "host" and self.is_refused(packet))
            assert is_known, f"{packet} is {found.result}, neither before nor after"
        self._check_source_ranges(packet, before, found, after)

    def _check_source_ranges(self, packet: Packet, before: Fate, found: Fate, after: Fate) -> None:
        """Check that who is shut out before or after the sync meets no endpoint that is only there for others.

        Where source ranges take the place of others, clients of the new ones may meet former endpoints for a moment:
        clients of both must not meet a gap.
        """
        before = self._shut_out_by_loss.get(packet, before)  # it is admitted again, until the ranges are others
        if found.result != "served" or before.result == after.result or "served" not in (before.result, after.result):
            return
        closing = closing_entries(packet)
        was_closed, is_closed = (any(key in rows for key in closing) for rows in (self.before, self.desired))
        if before.result == "shut out" and not was_closed:
            return  # because an entry was missing that admits it
        if was_closed != is_closed or (is_closed and after.result != "served"):
            strangers = found.endpoints - (before.endpoints | after.endpoints)
            if before.result == "elsewhere" and not was_closed:
                # All would have met them, had the address been bound; it does not wait for them to go.
                strangers -= self._not_removed(packet.server)
            assert not strangers, f"{packet} meets {strangers}, to which it is closed"

    def _left_by_fault(self, server: VirtualServer) -> set[tuple[str, int]]:
        """Return the former endpoints of *server*, met unmasqueraded all the same, that a fault refused to remove."""
        return self._unmasqueraded_with_rules[server] & self._not_removed(server)

    def _not_removed(self, server: VirtualServer) -> set[tuple[str, int]]:
        """Return the former endpoints of *server* that a fault refused to remove."""
        return {
            (key.address, key.port)
            for key, verb in self.refused.items()
            if isinstance(key, RealServer) and key.virtual_server == server and verb in {"delete", "update"}
        }

    def _was_open_by_fault(self, packet: Packet) -> bool:
        """Return whether source ranges closed the frontend of *packet* before the sync, but rules were missing."""
        return packet.family in self._lacked_firewall and any(k in self.before for k in closing_entries(packet))

    def is_range_refused(self, packet: Packet) -> bool:
        """Return whether a fault refused a source range of the frontend of *packet*, or what it needs.

        That is the set that is to have it, or the rules on this set.  Then its clients are shut out: an entry needs its
        set, and rules on it, and what closes a frontend does not wait for what opens it to some.  Who asks for source
        ranges is rather not served than served to all.
        """
        if not self.refused:
            return False
        frontend = frontend_of(packet)
        sets = {name for name, its_frontend in self._ranges if its_frontend == frontend}
        return any(
            verb != "delete"
            and (
                (isinstance(key, IpsetEntry) and key.entry.startswith(f"{frontend},"))
                or (isinstance(key, Ipset) and key.name in sets)
                or (bool(sets) and isinstance(key, Chain) and not sets.isdisjoint(self._lacking_sets(key)))
            )
            for key, verb in self.refused.items()
        )

    def _lacking_sets(self, chain: Chain) -> set[str]:
        """Return the sets on which *chain* is to have rules, and has none."""
        wanted, found = (rows.get(chain) for rows in (self.desired, self.rows))
        rules = [spec.rules if isinstance(spec, ChainSpec) else () for spec in (wanted, found)]
        return referenced_sets(rules[0]) - referenced_sets(rules[1])

    def is_refused(self, packet: Packet) -> bool:
        """Return whether a fault refused the virtual server of *packet*, or that what admits packets to it goes."""
        frontend = frontend_of(packet)
        return packet.server in self.refused or any(
            isinstance(key, IpsetEntry) and key.entry == frontend and verb == "delete"
            for key, verb in self.refused.items()
        )


def fate_if_open(
    state: State, packet: Packet, found: Fate, *, is_bound: bool, lost: frozenset[IpsetEntry] = frozenset()
) -> Fate:
    """Return what would happen to *packet* on a node with the rows of *state* if source ranges closed nothing to it.

    *found* is what does; *is_bound*: as if its address were bound; *lost*: as if it had these entries.
    """
    frontend = frontend_of(packet)
    has = state.sets.get(frontend, frozenset())
    sets = (has - {key.set for key in closing_entries(packet)}) | {key.set for key in lost if key.entry == frontend}
    return fate(state, packet, is_bound=is_bound, sets=sets) if is_bound or sets != has else found


def served_with(state: State, packet: Packet, lost: frozenset[IpsetEntry]) -> Fate | None:
    """Return what would happen to *packet* in *state* if it had the entries *lost*; None if it would not be served."""
    again = {key.set for key in lost if key.entry == frontend_of(packet)}
    has = state.sets.get(frontend_of(packet), frozenset())
    would_meet = fate(state, packet, sets=has | again) if again else None
    return would_meet if would_meet and would_meet.result == "served" else None


def lacks_firewall(rows: Rows, family: Family) -> bool:
    """Return whether a chain or jump of the firewall is missing in *rows*, or has no rule."""
    chains = [rows.get(chain) for chain in kube_names.chains(family) if "FIREWALL" in chain.name]
    jumps = [jump for jump in kube_names.jumps(family) if "FIREWALL" in jump.target]
    return not all(isinstance(spec, ChainSpec) and spec.rules for spec in chains) or any(j not in rows for j in jumps)


def closing_entries(packet: Packet) -> list[IpsetEntry]:
    return [IpsetEntry(name, frontend_of(packet)) for name in ("KUBE-LOAD-BALANCER-FW", "KUBE-6-LOAD-BALANCER-FW")]


def frontend_of(packet: Packet) -> str:
    return f"{packet.destination},{packet.protocol}:{packet.port}"


def probes(*states: Rows) -> Iterator[Packet]:
    """Yield packets to every virtual server of *states*, and to a port of the host.

    They come from every client where source ranges may differ between them, and else from the first of its family.
    """
    frontends: set[tuple[IP, int, str]] = set()
    closed: set[str] = set()
    for rows in states:
        for key in rows:
            if isinstance(key, VirtualServer):
                frontends.add((key.address, key.port, key.protocol.lower()))
            elif isinstance(key, IpsetEntry) and "-FW" in key.set:
                closed.add(key.entry)
    frontends |= {(address, HOST_PORT, "tcp") for address, _, _ in frontends}
    for address, port, protocol in sorted(frontends):
        clients = [client for client in OUTSIDE_CLIENTS if family_of(client) == family_of(address)]
        for client in clients if f"{address},{protocol}:{port}" in closed else clients[:1]:
            yield Packet(client, address, port, protocol)


def check_still_served(packet: Packet, before: Fate, now: Fate, after: Fate) -> None:
    """Check that *now*, between *before* and *after*, a client that is served in both is served."""
    if before.result == after.result == "served" and before.endpoints & after.endpoints:
        assert now.result == "served", f"{packet} is {now.result}"
        assert now.endpoints & before.endpoints & after.endpoints, f"{packet} lost the endpoints that it keeps"


def failing(patterns: Iterable[str]) -> Callable[[Step], int]:
    """Return a fault of MemoryKernel that refuses the steps that match one of *patterns*."""
    compiled = [re.compile(pattern) for pattern in patterns]
    if not compiled:
        return lambda _step: 0

    def fault(step: Step) -> int:
        text = f"{step.verb} {type(step.key).__name__} {step.key}"
        return ENOMEM if any(pattern.match(text) for pattern in compiled) else 0

    return fault


class CheckedAgent:
    """An agent on a kernel that checks every step, which is told events and the time.

    A second compiler is told the same events, to know what will be desired before the agent acts.  After a restart
    the agent is told of the objects that exist.
    """

    def __init__(self, kernel: CheckedKernel, make_compiler: Callable[[], Compiler] = new_compiler) -> None:
        self.kernel = kernel
        self.happened: list[ObjectEvent] = []
        self._make_compiler = make_compiler
        self._oracle = make_compiler()
        self.agent = self._start()

    def _start(self) -> Agent:
        agent = Agent(self.kernel, self._make_compiler(), clock=lambda: self.kernel.now_s)
        feeds: tuple[Feed, ...] = ("services", "slices", "node")
        for feed in feeds:
            agent.handle_event(Synced(feed), 0.0)
        return agent

    def restart(self) -> None:
        """Start another agent, which knows nothing but the objects that exist."""
        self.agent = self._start()
        for event in known(self.happened):
            self.agent.handle_event(event, self.kernel.now_s)

    def sync_through_crash(self, steps: int | None) -> None:
        """Sync; die after so many *steps* of the plan (None: do not), and then restart and sync again."""
        self.kernel.steps_until_crash = steps
        try:
            self.sync()
        except SimulatedCrash:
            note_event("died during a plan")
            self.kernel.steps_until_crash = None
            self.restart()
            self.sync()

    def handle(self, events: Iterable[ObjectEvent]) -> None:
        """Tell the agent of *events*, but of none that it observes itself before its first sync: it does so later."""
        for event in events:
            if isinstance(event, EndpointFailures | EndpointSteps) and not self.agent.state.is_adopted:
                continue
            self.happened.append(event)
            self._oracle.handle_event(event)
            self.agent.handle_event(event, self.kernel.now_s)

    def advance(self, seconds: float) -> None:
        self.kernel.now_s += seconds

    def sync(self) -> None:
        """Do what is due."""
        now_s = self.kernel.now_s
        if self.agent.due_s() > now_s:
            return
        for _ in range(10):
            self._oracle.compile()
            self.kernel.begin_sync(self._oracle.desired.rows)
            self.agent.run_due(now_s)
            self._oracle.end_rest(lambda server: bool(self.kernel.state.endpoints.get(server)) or self._drains(server))
            if self.agent.due_s() > now_s:
                break
        self.kernel.end_sync()

    def _drains(self, server: VirtualServer) -> bool:
        return any(isinstance(key, RealServer) and key.virtual_server == server for key in self.kernel.rows)

    def settle(self) -> None:
        """Let time pass until what failed was tried again, then check that everything is as desired."""
        self.kernel.fault = lambda _step: 0
        for _ in range(12):
            self.advance(31.0)
            self.sync()
            if not self.agent.state.pending.keys:
                break
        self.check_desired()

    def check_desired(self) -> None:
        """Check that the kernel has the desired rows, besides draining real servers."""
        desired = self.agent.compiler.desired.rows
        assert not self.agent.state.pending.keys
        assert desired == self._oracle.desired.rows
        assert {k: spec for k, spec in self.kernel.rows.items() if not is_draining(k, spec, desired)} == desired
