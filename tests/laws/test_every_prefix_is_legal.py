"""Law 2: after any step of any plan the kernel accepts its state, and no packet meets an incomplete Service.

A crash there is repaired by planning again.  The kernel is MemoryKernel, which refuses what Linux refuses.  After every
single step the rows are compared with those desired before and after the plan, and the process may die before any step.
Any kind of step may also fail until further notice; what packets meet is evaluated by packets.py, which knows nothing
of the planner.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from errno import ENOMEM
from functools import cache

from hypothesis import event, given, note
from hypothesis import strategies as st

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel.memory import MemoryKernel, SimulatedCrash
from kubeproxy_py.model.events import Feed, ObjectEvent, Synced
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
    VirtualServer,
)
from kubeproxy_py.model.steps import Outcome, Plan, Step, StepFailure
from kubeproxy_py.net import family_of
from kubeproxy_py.plan.drain_policy import is_draining
from kubeproxy_py.reconcile.agent import Agent
from tests.laws.histories import batches, edits, known, moves
from tests.laws.packets import NODE_ADDRESSES, Fate, Packet, State, fate
from tests.laws.test_path_does_not_matter import compiler as new_compiler


class CheckingKernel(MemoryKernel):
    """Checks the state between any two steps against the law, and fails if a step is refused that is not to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Rows = {}
        self.desired: Rows = {}
        self.now_s = 0.0
        self.steps_seen = 0

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
            is_expected = bool(failures) or self.fault(step)
            assert is_expected or not outcome.failures, f"Linux would refuse {outcome.failures[0]}"
            failures += outcome.failures
            self.steps_seen += 1
            self.check(step)
        return Outcome(tuple(failures))

    def check(self, _step: Step) -> None:
        """Check the rows of now, after a step."""
        check_no_incomplete_service(self.before, self.desired, self.rows)


def check_no_incomplete_service(before: Rows, desired: Rows, now: Rows) -> None:
    """Check what must be true after every step on the way from *before* to *desired*."""
    for key in before.keys() & desired.keys():
        if before[key] == desired[key]:
            assert key in now, f"{key} was right and was deleted"
            if not isinstance(before[key], ChainSpec):
                assert now[key] == desired[key], f"{key} was right and was changed"
    for key in now:
        if isinstance(key, Address):
            check_address(key.address, before, desired, now)
        if isinstance(key, VirtualServer) and key in before and key in desired:
            check_never_empty(key, before, desired, now)
    check_rules_exist(before, desired, now)


def check_address(address: str, before: Rows, desired: Rows, now: Rows) -> None:
    """While an address that is added or deleted is bound, all rows of it exist."""
    is_bound, is_wanted = Address(address) in before, Address(address) in desired
    if is_bound and is_wanted:
        return
    for key, spec in (before if is_bound else desired).items():
        if belongs(key, address) and not is_replaced_at_a_kept_server(key, before, desired):
            # At an address that goes, what stays may have changed already.
            specs = (spec, desired.get(key, spec))
            assert now.get(key, "missing") in specs, f"{address} is bound while {key} is {now.get(key, 'missing')}"


def is_replaced_at_a_kept_server(key: Key, before: Rows, desired: Rows) -> bool:
    """Return whether *key* exempts a frontend from masquerading that is to be masqueraded: then it goes at once."""
    if not isinstance(key, IpsetEntry) or "LOCAL" not in key.set or key in desired:
        return False
    address, _, protocol_port = key.entry.partition(",")
    protocol, _, port = protocol_port.partition(":")
    server = VirtualServer(address, int(port), protocol.upper())  # type: ignore[arg-type]
    return server in before and server in desired


def belongs(key: Key, address: str) -> bool:
    match key:
        case VirtualServer():
            return key.address == address
        case RealServer():
            return key.virtual_server.address == address
        case IpsetEntry():
            return key.entry.split(",")[0] == address and "LOOP-BACK" not in key.set
    return False


def check_never_empty(server: VirtualServer, before: Rows, desired: Rows, now: Rows) -> None:
    """Check that a virtual server which has endpoints before and after always has some."""

    def has_serving(rows: Rows) -> bool:
        return any(
            isinstance(key, RealServer) and key.virtual_server == server and spec != DRAINING
            for key, spec in rows.items()
        )

    if has_serving(before) and has_serving(desired):
        assert has_serving(now), f"{server} has no serving real server"


def check_rules_exist(before: Rows, desired: Rows, now: Rows) -> None:
    """Check that rules on a set exist while the set has entries that are desired or not yet all deleted."""
    used_now, used = sets_with_entries(now), [(rows, sets_with_entries(rows)) for rows in (before, desired)]
    for key in now:
        if not isinstance(key, Chain):
            continue
        present = now[key]
        assert isinstance(present, ChainSpec)
        for rows, used_sets in used:
            spec = rows.get(key)
            for rule in spec.rules if isinstance(spec, ChainSpec) else ():
                sets = referenced_sets(rule)
                if sets and sets <= used_sets and sets <= used_now and not is_removed(rule, key, used, sets):
                    assert rule in present.rules, f"{key} lacks {rule} while its sets have entries"


def sets_with_entries(rows: Rows) -> set[str]:
    return {key.set for key in rows if isinstance(key, IpsetEntry)}


@cache
def referenced_sets(rule: str) -> frozenset[str]:
    return frozenset(re.findall(r"--match-set (\S+)", rule))


def is_removed(rule: str, chain: Chain, states: list[tuple[Rows, set[str]]], sets: frozenset[str]) -> bool:
    """Whether *rule* is in one only, though *sets* have entries in both (a new detectLocalMode replaces such rules)."""
    return any(
        sets <= used_sets and not (isinstance(spec := rows.get(chain), ChainSpec) and rule in spec.rules)
        for rows, used_sets in states
    )


def agent_on(kernel: CheckingKernel, compiler: Compiler) -> Agent:
    agent = Agent(kernel, compiler, clock=lambda: kernel.now_s)
    feeds: tuple[Feed, ...] = ("services", "slices", "node")
    for feed in feeds:
        agent.handle_event(Synced(feed), 0.0)
    return agent


def wanted(rows: Rows, desired: Rows) -> Rows:
    """*rows* without draining real servers."""
    return {key: spec for key, spec in rows.items() if not is_draining(key, spec, desired)}


@given(history=batches, crashes=st.lists(st.integers(min_value=0, max_value=60), min_size=5, max_size=5))
def test_crash_before_any_step_is_repaired_by_planning_again(
    history: list[list[ObjectEvent]], crashes: list[int]
) -> None:
    kernel, happened = CheckingKernel(), list[ObjectEvent]()
    agent = agent_on(kernel, new_compiler())
    for batch, steps in zip(history, crashes, strict=False):
        happened += batch
        for object_event in batch:
            agent.handle_event(object_event, 0.0)
        kernel.steps_until_crash = steps if steps < 60 else None
        try:
            sync(agent, kernel, happened)
        except SimulatedCrash:
            event("died during a plan")
            kernel.steps_until_crash = None
            agent = started_agent(kernel, happened)
            sync(agent, kernel, happened)
        desired = agent.compiler.desired.rows
        assert desired == kernel.desired
        assert wanted(kernel.rows, desired) == desired
        assert kernel.rows == agent.state.rows
    note(f"{kernel.steps_seen} steps")


@given(history=batches)
def test_second_sync_has_nothing_to_do(history: list[list[ObjectEvent]]) -> None:
    kernel, happened = CheckingKernel(), [object_event for batch in history for object_event in batch]
    sync(started_agent(kernel, happened), kernel, happened)
    kernel.applied.clear()
    sync(started_agent(kernel, happened), kernel, happened)
    assert kernel.applied == []


def started_agent(kernel: CheckingKernel, history: list[ObjectEvent]) -> Agent:
    """An agent that starts after the events *history*."""
    agent = agent_on(kernel, new_compiler())
    for object_event in known(history):
        agent.handle_event(object_event, 0.0)
    return agent


def sync(agent: Agent, kernel: CheckingKernel, history: list[ObjectEvent], now_s: float = 0.0) -> None:
    """Do what is due; the kernel gets the rows that will be desired beforehand."""
    probe = new_compiler()
    for object_event in known(history):
        probe.handle_event(object_event)
    probe.compile()
    kernel.begin_sync(dict(probe.desired.rows))
    kernel.now_s = now_s
    for _ in range(10):
        if agent.due_s() > now_s:
            break
        agent.run_due(now_s)
    kernel.end_sync()


OUTSIDE_CLIENTS = ("198.51.100.77", "203.0.113.250", "2001:db8:1::77", "2001:db8:ffff::77")
"""Of each family one that the source ranges of histories.py may allow, and one that they never do."""

PODS_HERE = ("10.244.1.", "fd00:10:244:1:")
"""Pods of this node answer through it, whether or not their client was masqueraded."""

HOST_PORT = 22
"""A port of the host that no Service has."""


class PacketKernel(CheckingKernel):
    """Checks what packets meet after every step, compared with what they meet before the sync and what they should."""

    def __init__(self) -> None:
        super().__init__()
        self.idempotent = True  # what failed in part may be done already
        self.refused: dict[Key, str] = {}  # by a fault, and not carried out since; with the verb

    def begin_sync(self, desired: Rows) -> None:
        super().begin_sync(desired)
        self.packets = list(probes({**self.before, **desired}))
        before, after = State(self.before), State(desired)
        self.fates_before = {packet: fate(before, packet) for packet in self.packets}
        self.fates_after = {packet: fate(after, packet) for packet in self.packets}
        self.unmasqueraded: dict[VirtualServer, set[tuple[str, int]]] = {}  # endpoints that some client meets so
        for fates in (self.fates_before, self.fates_after):
            for packet, its_fate in fates.items():
                if not its_fate.masqueraded:
                    self.unmasqueraded.setdefault(packet.server, set()).update(its_fate.endpoints)

    def end_sync(self) -> None:
        """Check what must be true when a sync is over."""
        now = State(self.rows)
        for packet in self.packets:
            if packet.destination in NODE_ADDRESSES:
                continue  # where a port without a virtual server is the host's
            if fate(now, packet).result == "host" and not self.is_refused(packet):
                assert "host" in self.results_around(packet), f"{packet} reaches a port of the host after the sync"

    def check(self, step: Step) -> None:
        if self.fault(step):
            self.refused[step.key] = step.verb
        else:
            self.refused.pop(step.key, None)
        concerned = [packet for packet in self.packets if is_concerned(packet, step.key)]
        now = State(self.rows if concerned else {})
        for packet in concerned:
            before, after, found = self.fates_before[packet], self.fates_after[packet], fate(now, packet)
            if not self.is_range_refused(packet):
                check_still_served(packet, before, found, after)
            if found.result == "served" and not found.masqueraded:
                unanswered = {endpoint for endpoint in found.endpoints if not endpoint[0].startswith(PODS_HERE)}
                lost = unanswered - self.unmasqueraded.get(packet.server, set())
                assert not lost, f"{packet} meets {lost} without being masqueraded"
            # A virtual server that goes may be met until it is gone, and for a moment the host's port in its place.
            is_going = packet.port != HOST_PORT and packet.server not in self.desired
            is_hosts = packet.destination in NODE_ADDRESSES
            may_reach_host = is_going or is_hosts or Address(packet.destination) in self.before
            if found.result == "served" or (found.result == "host" and not may_reach_host):
                # "refused": the rules admit the client, before or after the sync, and there is no endpoint.
                is_admitted = found.result == "served" and "refused" in self.results_around(packet)
                is_known = is_admitted or found.result in self.results_around(packet)
                is_known |= found.result == "host" and self.is_refused(packet)
                assert is_known, f"{packet} is {found.result}, neither before nor after"
            self.check_source_ranges(packet, before, found, after)

    def results_around(self, packet: Packet) -> set[str]:
        return {self.fates_before[packet].result, self.fates_after[packet].result}

    def check_source_ranges(self, packet: Packet, before: Fate, found: Fate, after: Fate) -> None:
        """Check that who is shut out before or after the sync meets no endpoint that is only there for others."""
        if found.result != "served" or before.result == after.result:
            return
        closing = [
            IpsetEntry(name, frontend_of(packet)) for name in ("KUBE-LOAD-BALANCER-FW", "KUBE-6-LOAD-BALANCER-FW")
        ]
        was_closed, is_closed = (any(key in rows for key in closing) for rows in (self.before, self.desired))
        if was_closed != is_closed and "served" in (before.result, after.result):
            strangers = found.endpoints - (before.endpoints | after.endpoints)
            assert not strangers, f"{packet} meets {strangers}, to which it is closed"

    def is_range_refused(self, packet: Packet) -> bool:
        """Return whether a fault refused a source range of the frontend of *packet*: then its clients are shut out."""
        frontend = f"{frontend_of(packet)},"
        return any(
            isinstance(key, IpsetEntry) and key.entry.startswith(frontend) and verb == "add"
            for key, verb in self.refused.items()
        )

    def is_refused(self, packet: Packet) -> bool:
        """Return whether a fault refused the virtual server of *packet*, or that what admits packets to it goes."""
        frontend = frontend_of(packet)
        return packet.server in self.refused or any(
            isinstance(key, IpsetEntry) and key.entry == frontend and verb == "delete"
            for key, verb in self.refused.items()
        )


def frontend_of(packet: Packet) -> str:
    return f"{packet.destination},{packet.protocol}:{packet.port}"


def probes(rows: Rows) -> Iterator[Packet]:
    """Yield packets to every virtual server of *rows*, and to a port of the host.

    They come from every client where source ranges may differ between them, and else from the first of its family.
    """
    frontends = {(key.address, key.port, key.protocol.lower()) for key in rows if isinstance(key, VirtualServer)}
    frontends |= {(address, HOST_PORT, "tcp") for address, _, _ in frontends}
    closed = {key.entry for key in rows if isinstance(key, IpsetEntry) and "-FW" in key.set}
    for address, port, protocol in sorted(frontends):
        clients = [client for client in OUTSIDE_CLIENTS if family_of(client) == family_of(address)]
        for client in clients if f"{address},{protocol}:{port}" in closed else clients[:1]:
            yield Packet(client, address, port, protocol)


def is_concerned(packet: Packet, key: Key) -> bool:
    """Return whether what *packet* meets can depend on the row *key*."""
    match key:
        case Chain(family=family) | Jump(family=family):
            return packet.family == family
        case IpsetEntry(entry=entry):
            address = entry.partition(",")[0]
            return address == packet.destination or ("." not in address and ":" not in address)
        case VirtualServer(address=address) | RealServer(virtual_server=VirtualServer(address=address)):
            return address == packet.destination
        case Address(address=address):
            return address == packet.destination
    return False


def check_still_served(packet: Packet, before: Fate, now: Fate, after: Fate) -> None:
    """Check that *now*, between *before* and *after*, a client that is served in both is served."""
    if before.result == after.result == "served" and before.endpoints & after.endpoints:
        assert now.result == "served", f"{packet} is {now.result}"
        assert now.endpoints & before.endpoints & after.endpoints, f"{packet} lost the endpoints that it keeps"


FAULTS = (
    *("add Ipset .*LOOP-BACK", "add Ipset .*-CLUSTER-IP", "add Ipset .*EXTERNAL-IP", "add Ipset .*LOAD-BALANCER$"),
    *("add Ipset .*SOURCE", "add Ipset .*-FW", "add Ipset .*IPVS-IPS", "add Ipset .*NODE-PORT", "add Ipset .*LOCAL"),
    *("(add|update) Chain IPv4 nat", "(add|update) Chain .* filter", "(add|update) Chain .*SERVICES"),
    *("(add|update) Chain .*POSTROUTING", "(add|update) Chain .*MARK-MASQ", "(add|update) Chain .*LOAD-BALANCER"),
    *("(add|update) Chain .*IPVS-FILTER", "(add|update) Chain .*FIREWALL", "(add|update) Chain .*OUT-FILTER"),
    *("update Chain", "add Chain", "add Jump", "add Jump .*INPUT", "add Jump .* nat", "add Jump .*FIREWALL"),
    *("add IpsetEntry", "delete IpsetEntry", "add IpsetEntry .*LOCAL", "delete IpsetEntry .*LOCAL"),
    *("add IpsetEntry .*EXTERNAL-IP ", "delete IpsetEntry .*EXTERNAL-IP ", "add IpsetEntry .*-FW"),
    *("add IpsetEntry .*LOAD-BALANCER ", "delete IpsetEntry .*LOAD-BALANCER ", "delete IpsetEntry .*-FW"),
    *("add IpsetEntry .*-CLUSTER-IP", "add IpsetEntry .*NODE-PORT", "delete IpsetEntry .*SOURCE"),
    *("add IpsetEntry .*SOURCE", "add IpsetEntry .*IPVS-IPS", "delete IpsetEntry .*IPVS-IPS"),
    *("add VirtualServer", "update VirtualServer", "delete VirtualServer", "add VirtualServer .*:80/TCP"),
    *("add RealServer", "update RealServer", "delete RealServer", "add Address", "delete Address"),
)
"""Patterns of what fails: verb, kind and key of steps."""


def failing(patterns: Iterable[str]) -> Callable[[Step], int]:
    """Return a fault of MemoryKernel that refuses the steps that match one of *patterns*."""
    compiled = [re.compile(pattern) for pattern in patterns]

    def fault(step: Step) -> int:
        text = f"{step.verb} {type(step.key).__name__} {step.key}"
        return ENOMEM if any(pattern.match(text) for pattern in compiled) else 0

    return fault


faults = st.lists(st.lists(st.sampled_from(FAULTS), max_size=2), min_size=5, max_size=5)
"""What fails during each sync."""

pauses = st.lists(st.sampled_from([0.1, 61.0]), min_size=5, max_size=5)
"""Seconds after each sync: too few or enough for another try of what failed."""


@given(history=batches, failing_in=faults, pauses_s=pauses)
def test_no_packet_meets_an_incomplete_service_whatever_fails(
    history: list[list[ObjectEvent]], failing_in: list[list[str]], pauses_s: list[float]
) -> None:
    sync_with_faults(history, failing_in, pauses_s)


@given(history=moves)
def test_no_client_meets_a_gap_when_a_frontend_moves(history: list[list[ObjectEvent]]) -> None:
    sync_with_faults(history, [[]] * len(history), [0.1] * len(history))


@given(history=edits, failing_in=faults, pauses_s=pauses)
def test_no_client_of_a_service_meets_a_gap_when_it_is_edited_whatever_fails(
    history: list[list[ObjectEvent]], failing_in: list[list[str]], pauses_s: list[float]
) -> None:
    sync_with_faults(history, failing_in, pauses_s)


@given(history=edits)
def test_no_client_of_a_service_meets_a_gap_when_it_is_edited(history: list[list[ObjectEvent]]) -> None:
    sync_with_faults(history, [[]] * len(history), [0.1] * len(history))


def sync_with_faults(history: list[list[ObjectEvent]], failing_in: list[list[str]], pauses_s: list[float]) -> None:
    """Sync after each batch of *history* while some steps fail, then until everything is done."""
    kernel, happened, now_s = PacketKernel(), list[ObjectEvent](), 0.0
    agent = agent_on(kernel, new_compiler())
    for batch, patterns, pause_s in zip(history, failing_in, pauses_s, strict=False):
        happened += batch
        kernel.fault = failing(patterns)
        for object_event in batch:
            agent.handle_event(object_event, now_s)
        sync(agent, kernel, happened, now_s)
        now_s += pause_s
    kernel.fault = lambda _step: 0
    for _ in range(6):
        now_s += 31.0
        sync(agent, kernel, happened, now_s)
    desired = agent.compiler.desired.rows
    assert wanted(kernel.rows, desired) == desired
    assert not agent.state.pending.keys
