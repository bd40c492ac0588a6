"""The laws with exact policies: marks are sticky and never shared, and on or off no packet is led to nowhere."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import ObjectEvent, Synced
from kubeproxy_py.model.kube_names import ACCESS_FILTER_CHAIN, POLICY_MARK_SETS, SERVICES_CHAIN, family_of_set
from kubeproxy_py.model.rows import (
    Chain,
    ChainSpec,
    Connections,
    Key,
    MarkSpec,
    PolicyEntry,
    RealServer,
    Rows,
    Spec,
    VirtualServer,
    mark_server,
)
from kubeproxy_py.model.steps import Step
from kubeproxy_py.plan.drain_policy import is_draining
from kubeproxy_py.reconcile.agent import Agent, Settings
from tests.laws.checking_kernels import CheckedAgent, CheckedKernel, failing
from tests.laws.compilers import compiler, exact_compiler, make_exact_context, make_usual_context
from tests.laws.histories import batches, known

History = list[list[ObjectEvent]]
LONG_S = 100.0  # in which everything drains


class PolicyKernel(CheckedKernel):
    """Checks after every step that each entry with a mark leads to a virtual server."""

    def check(self, step: Step) -> None:
        if isinstance(step.key, PolicyEntry | VirtualServer | RealServer):
            check_marks(self.rows)


def marks_in(rows: Rows) -> dict[VirtualServer, set[str]]:
    """Return the frontends that are led to each virtual server by mark."""
    found: defaultdict[VirtualServer, set[str]] = defaultdict(set)
    for key, spec in rows.items():
        if isinstance(key, PolicyEntry) and isinstance(spec, MarkSpec):
            found[mark_server(family_of_set(key.set), spec.mark)].add(key.entry)
    return found


def check_marks(rows: Rows) -> None:
    for server, entries in marks_in(rows).items():
        assert server in rows, f"{entries} are led to {server}, which does not exist"
        assert len({entry.partition(",")[2].partition(":")[0] for entry in entries}) == 1, "of several protocols"


def is_policy(key: Key) -> bool:
    server = key.virtual_server if isinstance(key, RealServer) else key
    names = (getattr(key, name, "") for name in ("name", "set", "target"))
    return (isinstance(server, VirtualServer) and bool(server.mark)) or any("-PY-" in name for name in names)


def without_policies(rows: Rows) -> Rows:
    """Return *rows* without those of policies, and with the rules that policies change as in kube-proxy."""
    return {key: _as_usual(key, spec) for key, spec in rows.items() if not is_policy(key)}


def _as_usual(key: Key, spec: Spec) -> Spec:
    if not isinstance(spec, ChainSpec) or not isinstance(key, Chain):
        return spec
    if key.name == SERVICES_CHAIN:
        return ChainSpec(node_ports_before_accepts(spec.rules))
    if key.name != ACCESS_FILTER_CHAIN:
        return spec
    rules = (rule.replace("NEW,UNTRACKED", "NEW").removeprefix("-p tcp -m set") for rule in spec.rules)
    return ChainSpec(tuple(f"-m set{rule}" if rule.startswith(" --match-set") else rule for rule in rules))


def node_ports_before_accepts(rules: tuple[str, ...]) -> tuple[str, ...]:
    """Return *rules* of KUBE-SERVICES in kube-proxy's order: what accepts by a set alone is last."""
    return tuple(sorted(rules, key=lambda rule: rule.startswith("-m set") and rule.endswith("dst,dst -j ACCEPT")))


def renamed(rows: Rows) -> set[tuple[object, ...]]:
    """Return the rows of policies with the frontends that a mark has in its place."""
    names = {server: tuple(sorted(entries)) for server, entries in marks_in(rows).items()}
    found: set[tuple[object, ...]] = set()
    for key, spec in rows.items():
        match key:
            case RealServer(virtual_server=server) if server.mark:
                found.add(("real server", names.get(server), key.address, key.port, spec))
            case VirtualServer(mark=mark) if mark:
                found.add(("virtual server", names.get(key), spec))
            case PolicyEntry():
                found.add((key.set, key.entry))
    return found


@given(history=batches)
def test_policies_only_add_rows_to_those_of_kube_proxy(history: History) -> None:
    exact, usual = exact_compiler(), compiler()
    for batch in history:
        for object_event in batch:
            exact.handle_event(object_event)
            usual.handle_event(object_event)
        exact.compile()
        usual.compile()
        assert without_policies(exact.desired.rows) == usual.desired.rows


@given(history=batches)
def test_every_front_with_a_policy_of_local_has_what_it_needs_and_no_other_has(history: History) -> None:
    exact = exact_compiler()
    for number, batch in enumerate(history, 1):
        for object_event in batch:
            exact.handle_event(object_event)
        exact.compile()
        exact.end_rest(lambda _server: False)
        exact.compile()
        fresh = exact_compiler()
        for object_event in known(each for done in history[:number] for each in done):
            fresh.handle_event(object_event)
        fresh.compile()
        assert renamed(exact.desired.rows) == renamed(fresh.desired.rows)
        check_marks(exact.desired.rows)


@given(history=batches)
def test_a_mark_is_kept_while_its_service_port_needs_one(history: History) -> None:
    exact = exact_compiler()
    before: dict[str, VirtualServer] = {}
    for batch in history:
        for object_event in batch:
            exact.handle_event(object_event)
        exact.compile()
        owners = {server: exact.marks.owner_of(server) for server in marks_in(exact.desired.rows)}
        now = {str(owner): server for server, owner in owners.items()}
        assert len(now) == len(owners)
        assert all(server == before.get(owner, server) for owner, server in now.items())
        before |= now


@given(history=batches, crashes=st.lists(st.integers(min_value=0, max_value=80), min_size=5, max_size=5))
def test_crash_before_any_step_is_repaired_by_planning_again(history: History, crashes: list[int]) -> None:
    kernel = PolicyKernel()
    checked = CheckedAgent(kernel, exact_compiler)
    for batch, steps in zip(history, crashes, strict=False):
        checked.handle(batch)
        checked.sync_through_crash(steps if steps < 80 else None)
        desired = checked.agent.compiler.desired.rows
        undrained = {key: spec for key, spec in kernel.rows.items() if not is_draining(key, spec, desired)}
        assert undrained == desired
        assert kernel.rows == checked.agent.state.rows


FAULTS = (
    *("add Ipset .*PY-INSIDE", "add Ipset .*NO-LOCAL", "(add|update) Chain .*PY-", "add Jump .*PY-"),
    *("add PolicyEntry", "delete PolicyEntry", "update PolicyEntry"),
    *("add PolicyEntry .*NO-LOCAL", "delete PolicyEntry .*INSIDE", "delete IpsetEntry", "update VirtualServer"),
    *("add VirtualServer .*fwmark", "delete VirtualServer .*fwmark", "add RealServer .*fwmark"),
    *("delete RealServer .*fwmark", "update RealServer", "add RealServer"),
)
faults = st.lists(st.lists(st.sampled_from(FAULTS), max_size=2), min_size=5, max_size=5)


class FaultyKernel(PolicyKernel):
    """Checks also that pods are led elsewhere wherever all others are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.idempotent = True

    def check(self, step: Step) -> None:
        super().check(step)
        if (
            isinstance(step.key, PolicyEntry)
            and "NO-LOCAL" in step.key.set
            and step.key in self.rows
            and step.verb == "add"
        ):
            leading = PolicyEntry(step.key.set.replace("NO-LOCAL", "INSIDE"), step.key.entry)
            assert leading in self.rows or leading not in self.desired, f"{step.key} before {leading}"


@given(history=batches, failing_in=faults, pauses_s=st.lists(st.sampled_from([0.1, 61.0]), min_size=5, max_size=5))
def test_nobody_is_led_to_nowhere_whatever_fails(
    history: History, failing_in: list[list[str]], pauses_s: list[float]
) -> None:
    checked = CheckedAgent(FaultyKernel(), exact_compiler)
    for batch, patterns, pause_s in zip(history, failing_in, pauses_s, strict=False):
        checked.kernel.fault = failing(patterns)
        checked.handle(batch)
        checked.sync()
        checked.advance(pause_s)
    checked.kernel.fault = failing(())
    for _ in range(14):
        checked.advance(61.0)
        checked.sync()
    desired = checked.agent.compiler.desired.rows
    assert {key: spec for key, spec in checked.kernel.rows.items() if not is_draining(key, spec, desired)} == desired


@given(history=batches)
def test_restart_keeps_the_marks(history: History) -> None:
    checked = CheckedAgent(PolicyKernel(), exact_compiler)
    checked.handle(object_event for batch in history for object_event in batch)
    checked.restart()
    checked.sync()
    # As if the names had got other numbers: what the kernel has counts.
    checked.kernel.rows = other_numbers(checked.kernel.rows)
    before = marks_in(checked.kernel.rows)
    checked.restart()
    checked.kernel.applied.clear()
    checked.sync()
    assert checked.kernel.applied == []
    assert marks_in(checked.kernel.rows) == before


def other_numbers(rows: Rows) -> Rows:
    """Return *rows* with each mark but one bit the same."""
    return {other_key(key): other_spec(spec) for key, spec in rows.items()}


def other_spec(spec: Spec) -> Spec:
    return MarkSpec(spec.mark ^ 1) if isinstance(spec, MarkSpec) else spec


def other_key(key: Key) -> Key:
    match key:
        case RealServer(virtual_server=server) if server.mark:
            return RealServer(replace(server, mark=server.mark ^ 1), key.address, key.port)
        case VirtualServer(mark=mark) if mark:
            return replace(key, mark=mark ^ 1)
    return key


@given(history=batches, switched=st.lists(st.booleans(), min_size=5, max_size=5))
def test_switched_on_and_off_leaves_what_kube_proxy_has_and_breaks_no_connection(
    history: History, switched: list[bool]
) -> None:
    kernel = MemoryKernel(idempotent=True)
    clock = [0.0]
    agent = started(kernel, clock)
    usual = compiler()
    for batch, is_exact in zip(history, switched, strict=False):
        for object_event in batch:
            agent.handle_event(object_event, clock[0])
            usual.handle_event(object_event)
        usual.compile()
        # Every TCP real server by mark has a connection now, which must not lose it.
        busy = {key for key in kernel.rows if isinstance(key, RealServer) and drains(key, kernel.rows)}
        kernel.open_connections = dict.fromkeys(busy, Connections(1))
        make_context = make_exact_context if is_exact else make_usual_context
        agent.reconfigure(Settings(make_context), clock[0])
        work(agent, clock)
        assert busy <= kernel.rows.keys()
        check_marks(kernel.rows)
        kernel.open_connections = {}
        work(agent, clock)
        assert without_policies(kernel.rows) == usual.desired.rows
        if not is_exact:
            assert kernel.rows == usual.desired.rows


def drains(key: RealServer, rows: Rows) -> bool:
    spec = rows[key.virtual_server]
    return bool(key.virtual_server.mark) and not getattr(spec, "flags", 0) & 0x20


def started(kernel: MemoryKernel, clock: list[float]) -> Agent:
    agent = Agent(kernel, compiler(), clock=lambda: clock[0])
    for feed in ("services", "slices", "node"):
        agent.handle_event(Synced(feed), 0.0)
    return agent


def work(agent: Agent, clock: list[float]) -> None:
    """Do what is due until everything drained."""
    until_s = clock[0] + LONG_S
    while clock[0] < until_s:
        for _ in range(5):
            agent.run_due(clock[0])
        clock[0] += 10.0


def test_the_sets_with_marks_are_those_of_each_family() -> None:
    names = ("INSIDE", "OUTSIDE", "ROUTED")
    assert sorted(POLICY_MARK_SETS) == [f"KUBE-{family}PY-{name}" for family in ("6-", "") for name in names]
