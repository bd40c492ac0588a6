"""Which steps wait for which rows: a failure affects only its row and the rows that depend on it.

A row can depend on another because the kernel refuses it otherwise (an entry on its set, a jump on its chain), or
because less than is configured would apply to a packet:

- An address is not bound, and a virtual server that can be reached is not created, before what protects it is in
  place: the chains and jumps of its family that masquerade and that hide host ports, its set entries with the rules
  that match on them, and with source ranges those of the firewall.  What exists already stays.
- A real server is not added while its frontend is exempt from masquerading and should not be, is open to clients to
  whom it should be closed, or lacks an entry that masquerades or what closes it: its virtual server may be one that
  stays while its frontend moves to another set or Service.  No frontend becomes exempt while real servers that should
  leave are still there.  At an address that is not bound yet it may, and the address waits for them.
- An address also waits for what concerns its ports as NodePorts: an exemption that is to go, and an entry that is to
  masquerade.  They apply to each address with a virtual server of that port.
- A chain gets no rule on a set of exemptions, on which it had none, while an entry is there that another program added
  and that should not be there, or not yet.
- What is reachable stays protected until it is deleted, or until the entry that is to protect it instead is there, and
  what exempted it from masquerading is gone.
- Source ranges let nobody else in while the virtual server is missing (another program deleted it, and it waits): it
  would be the host's own port that they open.
- At an address that is bound, a frontend that one set admits gets its virtual server, even if other entries are
  missing: without it packets would reach the host's own port.  So entries that admit need not wait for each other.

Invariants:
- The rows that are not as desired are those that failed, in this plan or an earlier one, and those that wait for
  them.  Without any, no step waits.
- Cost follows the number of these rows and of steps, not the number of rows.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import referenced_chains
from kubeproxy_py.model.rows import (
    IPVS_DEVICE,
    Address,
    Chain,
    ChainSpec,
    Ipset,
    IpsetEntry,
    Jump,
    Key,
    Link,
    MarkSpec,
    PolicyEntry,
    RealServer,
    Rows,
    VirtualServer,
    is_draining_spec,
    mark_server,
    referenced_sets,
)
from kubeproxy_py.model.steps import Plan, Step, StepFailure
from kubeproxy_py.net import FAMILIES, IP, Family, family_of
from kubeproxy_py.plan import set_roles
from kubeproxy_py.plan.set_roles import frontend_of, frontends_of, is_port, newly_matched_sets, port_of, server_of
from kubeproxy_py.plan.unfinished import Unfinished

_Candidates = Iterator[Key | None]


class Dependencies:
    """The steps that wait, while a plan is carried out, for rows that are not as desired (unfinished.py).

    Args:
        desired: All desired rows.
        actual: All actual rows before the plan.
        plan: The plan that is carried out.
        unfinished: The keys that are not as desired and that *plan* does not try, because they failed before.
    """

    def __init__(self, desired: Rows, actual: Rows, plan: Plan, unfinished: Iterable[Key] = ()) -> None:
        self._desired = desired
        self._actual = actual
        self._plan = plan
        self._under_way: set[Key] = set()  # have a step in this plan that has not ended
        self._rows = Unfinished(desired, actual, unfinished)
        self._served: set[IP] | None = None  # addresses with a virtual server; computed only if it is needed
        self._closed: defaultdict[IP, list[str]] | None = None  # frontends with source ranges; computed only if needed
        self._port_frontends: defaultdict[IP, list[str]] | None = None  # the same, of virtual servers by port only

    def record(self, step: Step, *, is_under_way: bool = False) -> None:
        """Record that *step* was refused, or waits, or is under way: then further steps on its row wait, too."""
        if is_under_way:
            self._under_way.add(step.key)
        if step.verb == "add":
            self._rows.absent.add(step.key)
        self._rows.note(step.key)
        if step.verb == "delete" and isinstance(step.key, IpsetEntry) and step.key.set in set_roles.EXEMPTS:
            self._rows.exemptions.setdefault(step.key.set, step.key)  # also one that is to come again

    def split(self, steps: Sequence[Step]) -> tuple[Sequence[Step], list[StepFailure]]:
        """Return the *steps* that can be tried, and as failures those that wait, which are recorded."""
        ready: list[Step] = []
        waiting: list[StepFailure] = []
        for step in steps:
            blocker = self.blocker(step)
            if blocker is None:
                ready.append(step)
            else:
                waiting.append(StepFailure(step, 0, f"waits for {type(blocker).__name__} {blocker}", blocker))
                self.record(step)
        return ready, waiting

    def blocker(self, step: Step) -> Key | None:
        """Return the row for which *step* must wait, if any."""
        if step.key in self._under_way:
            return step.key
        candidates = _WAITS.get((type(step.key), step.verb == "delete"))
        return next(filter(None, candidates(self, step)), None) if candidates else None

    def _if_absent(self, *keys: Key) -> _Candidates:
        return (key for key in keys if key in self._rows.absent)

    def _before_chain(self, step: Step) -> _Candidates:
        key, spec = step.key, step.spec
        assert isinstance(key, Chain)
        rules = spec.rules if isinstance(spec, ChainSpec) else ()
        yield from self._if_absent(*(Ipset(name) for name in sorted(referenced_sets(rules))))
        yield from self._if_absent(*(Chain(key.family, key.table, name) for name in sorted(referenced_chains(rules))))
        if self._rows.exemptions:  # which take effect with the rules
            yield from (self._rows.exemptions.get(name) for name in sorted(newly_matched_sets(step)))
        if self._rows.lingering_entries and isinstance(step.before, ChainSpec):
            dropped = [rule for rule in step.before.rules if rule not in rules]
            yield from (self._rows.lingering_entries.get(name) for name in sorted(referenced_sets(dropped)))

    def _before_jump(self, step: Step) -> _Candidates:
        key = step.key
        assert isinstance(key, Jump)
        return self._if_absent(Chain(key.family, key.table, key.target))

    def _before_entry(self, step: Step) -> _Candidates:
        key = step.key
        assert isinstance(key, IpsetEntry)
        yield from self._if_absent(Ipset(key.set))
        if key.set in set_roles.OPENS:
            yield self._missing_server(frontend_of(key))
        if key.set in set_roles.EXEMPTS:
            yield self._rows.forwarding.get(frontend_of(key))
            yield self._rows.unmasqueraded.get(frontend_of(key))
        if self._is_reachable(key.entry.partition(",")[0]):
            yield self._rows.unmatched_sets.get(key.set)
            if key.set in set_roles.ADMITS:
                # Its virtual server would wait for the same, and meanwhile packets would reach the host's own port.
                family = kube_names.family_of_set(key.set)
                yield from self._before_closed(key.entry, family)
                yield self._rows.base.get((family, "masquerading"))

    def _missing_server(self, frontend: str) -> Key | None:
        """Return the virtual server of *frontend*, which has an address, if it is missing and waits or was refused.

        Whom source ranges do not shut out any more would reach the host's own port.
        """
        server = server_of(frontend)
        if server not in self._desired or server in self._actual:
            return None
        waits = server in self._rows.absent or self.blocker(Step("add", server))
        return server if waits else None

    def _is_reachable(self, address: str) -> bool:
        """Return whether packets to *address* arrive here now; not before it is bound, if we are to bind it.

        What is no address (the entry of a set of ports) counts as reachable.
        """
        key = Address(address)
        return key not in self._desired or key in self._actual

    def _before_closed(self, frontend: str, family: Family) -> _Candidates:
        """Return what *frontend* waits for if it has source ranges: all that drops packets from elsewhere."""
        name = kube_names.LOAD_BALANCER_FW.name_in(family)
        if IpsetEntry(name, frontend) in self._desired:
            yield self._rows.unclosed.get(frontend)
            yield self._rows.unmatched_sets.get(name)
            yield self._rows.base.get((family, "firewall"))

    def _before_deleting_entry(self, step: Step) -> _Candidates:
        key = step.key
        assert isinstance(key, IpsetEntry)
        frontend = frontend_of(key)
        if key.set in set_roles.MASQUERADES | set_roles.CLOSES:
            yield self._rows.forwarding.get(frontend)
        if key.set in set_roles.CLOSES:
            yield self._missing_server(frontend)
        if key.set in set_roles.MASQUERADES | set_roles.ADMITS and self._stays(frontend):
            # Another entry may be to do the same for what stays.
            yield self._rows.unadmitted.get(frontend)
            yield self._rows.unmasqueraded.get(frontend)
            if key.set in set_roles.MASQUERADES:
                yield self._rows.exempt.get(frontend)
            by_port = self._rows.unmasqueraded_ports if is_port(frontend) else self._rows.unmasqueraded
            yield by_port.get(port_of(frontend))
        if key.set in set_roles.OPENS:
            firewall = kube_names.LOAD_BALANCER_FW.name_in(kube_names.family_of_set(key.set))
            yield from self._if_lingering(IpsetEntry(firewall, frontend))
        if key.set in set_roles.HIDES:
            yield from self._if_lingering(Address(key.entry))

    def _before_policy_entry(self, step: Step) -> _Candidates:
        """Yield what a mark needs so that clients are answered, and for what is dropped the marks of other clients."""
        key = step.key
        assert isinstance(key, PolicyEntry)
        family = kube_names.family_of_set(key.set)
        yield from self._if_absent(Ipset(key.set))
        if isinstance(step.spec, MarkSpec):
            yield from self._if_absent(mark_server(family, step.spec.mark), *_POLICY_MASQUERADING[family])
        else:
            marks = (PolicyEntry(each.name_in(family), key.entry) for each in kube_names.POLICY_MARK_DEFINITIONS)
            yield from self._if_absent(*marks)

    def _before_deleting_policy_entry(self, step: Step) -> _Candidates:
        key = step.key
        assert isinstance(key, PolicyEntry)
        if key.set in kube_names.POLICY_MARK_SETS:
            family = kube_names.family_of_set(key.set)
            yield from self._if_lingering(PolicyEntry(kube_names.POLICY_NO_LOCAL.name_in(family), key.entry))

    def _stays(self, frontend: str) -> bool:
        """Return whether *frontend* is to have a virtual server; of a port alone, whether it may have one."""
        return is_port(frontend) or server_of(frontend) in self._desired

    def _if_lingering(self, *keys: Key) -> _Candidates:
        return (key for key in keys if key in self._rows.lingering)

    def _before_server(self, step: Step) -> _Candidates:
        key = step.key
        assert isinstance(key, VirtualServer)
        frontends, family = frontends_of(key), family_of(key.address)
        is_reachable = self._is_reachable(key.address)
        yield from self._before_closed(frontends[0], family)
        if is_reachable:
            yield self._rows.base.get((family, "masquerading"))
        # What is admitted would reach the host's own port; real servers wait for what is missing.
        if not (is_reachable and self._is_admitted(frontends[0])):
            yield self._rows.unadmitted.get(frontends[0])
            yield from map(self._rows.unmasqueraded.get, frontends)

    def _is_admitted(self, frontend: str) -> bool:
        entries = (IpsetEntry(name, frontend) for name in set_roles.ADMITS)
        return any(entry in self._desired and entry not in self._rows.absent for entry in entries)

    def _before_deleting_server(self, step: Step) -> _Candidates:
        # An address that outlives its virtual servers delivers packets to the host's own ports.
        assert isinstance(step.key, VirtualServer)
        return self._if_lingering(Address(step.key.address))

    def _before_real_server(self, step: Step) -> _Candidates:
        key = step.key
        assert isinstance(key, RealServer)
        if is_draining_spec(step.spec) and step.verb == "update":
            return
        yield from self._if_absent(key.virtual_server)
        if self._rows.unmasqueraded or self._rows.exempt or self._rows.opened:
            frontends = frontends_of(key.virtual_server)
            yield from map(self._rows.unmasqueraded.get, frontends)
            yield from map(self._rows.exempt.get, frontends)
            yield self._rows.opened.get(frontends[0])
        family = family_of(key.virtual_server.address)
        if self._lacks_firewall(family):
            yield from self._before_closed(frontends_of(key.virtual_server)[0], family)

    def _before_address(self, step: Step) -> _Candidates:
        assert isinstance(step.key, Address)
        address, family = step.key.address, family_of(step.key.address)
        yield from self._if_absent(Link(IPVS_DEVICE), IpsetEntry(kube_names.IPVS_IPS.name_in(family), address))
        yield self._rows.base.get((family, "masquerading"))
        yield self._rows.base.get((family, "access filter"))
        yield self._rows.incomplete.get(family)
        yield self._rows.obsolete.get(address)
        yield self._unserved(address)
        # They masquerade what is met at the address only because its port is a NodePort, too.
        for port in self._ports().get(address, ()) if self._rows.exempt or self._rows.unmasqueraded_ports else ():
            yield self._rows.exempt.get(port)
            yield self._rows.unmasqueraded.get(port)
        # Its virtual servers may have been created before their source ranges were configured.
        for frontend in self._closed_frontends().get(address, ()) if self._lacks_firewall(family) else ():
            yield from self._before_closed(frontend, family)

    def _lacks_firewall(self, family: Family) -> bool:
        name = kube_names.LOAD_BALANCER_FW.name_in(family)
        return bool(self._rows.unclosed) or name in self._rows.unmatched_sets or (family, "firewall") in self._rows.base

    def _closed_frontends(self) -> Mapping[IP, list[str]]:
        if self._closed is None:
            self._closed = defaultdict(list)
            for key in self._desired:
                if isinstance(key, IpsetEntry) and key.set in set_roles.CLOSES:
                    self._closed[key.entry.partition(",")[0]].append(key.entry)
        return self._closed

    def _ports(self) -> Mapping[IP, list[str]]:
        """Return by address how set entries name its virtual servers by port only."""
        if self._port_frontends is None:
            self._port_frontends = defaultdict(list)
            for key in self._desired:
                if isinstance(key, VirtualServer):
                    self._port_frontends[key.address].append(frontends_of(key)[1])
        return self._port_frontends

    def _unserved(self, address: IP) -> Key | None:
        """Return a virtual server without which *address* must not be bound: one that waits, or any if there is none.

        Packets to an address without virtual servers would reach the host's own ports.
        """
        absent = self._rows.absent_servers.get(address)
        if not absent:
            return None
        if waiting := next((server for server in absent if self.blocker(Step("add", server))), None):
            return waiting
        return None if address in self._served_addresses() else absent[0]

    def _served_addresses(self) -> set[IP]:
        if self._served is None:
            created = (step.key for step in self._plan if step.verb == "add" and step.key not in self._rows.absent)
            self._served = {key.address for key in (*self._actual, *created) if isinstance(key, VirtualServer)}
        return self._served


def _policy_masquerading(family: Family) -> tuple[Key, ...]:
    name = kube_names.POLICY_POSTROUTING_CHAIN
    jumps = kube_names.jumps(family, policies=True)
    return (Chain(family, "nat", name), *(jump for jump in jumps if jump.target == name))


_POLICY_MASQUERADING = {family: _policy_masquerading(family) for family in FAMILIES}
"""The chain and the jump that masquerade what this node itself sends to a virtual server by mark."""


_WAITS: Mapping[tuple[type[Key], bool], Callable[[Dependencies, Step], _Candidates]] = {
    # By kind, and whether the row is deleted.
    (Chain, False): Dependencies._before_chain,
    (Jump, False): Dependencies._before_jump,
    (IpsetEntry, False): Dependencies._before_entry,
    (IpsetEntry, True): Dependencies._before_deleting_entry,
    (VirtualServer, False): Dependencies._before_server,
    (VirtualServer, True): Dependencies._before_deleting_server,
    (RealServer, False): Dependencies._before_real_server,
    (PolicyEntry, False): Dependencies._before_policy_entry,
    (PolicyEntry, True): Dependencies._before_deleting_policy_entry,
    (Address, False): Dependencies._before_address,
}
