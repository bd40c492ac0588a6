"""Law 2 where others interfere: programs that change our rows, and a source that loses events or objects for a time.

Drift is found by the full compare, with which new objects are synced.  What packets meet is checked after every step,
as in test_every_prefix_is_legal.py, compared with what they met in the changed rows.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hypothesis import event, given
from hypothesis import strategies as st

from kubeproxy_py.kernel import MarkReader, Scope, scope_of
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.events import (
    NodeUpserted,
    ObjectEvent,
    ServiceDeleted,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
)
from kubeproxy_py.model.kube_names import server_entry
from kubeproxy_py.model.rows import (
    DRAINING,
    IPVS_DEVICE,
    SERVING,
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
    Sysctl,
    VirtualServer,
)
from kubeproxy_py.net import IP, Family, family_of
from kubeproxy_py.sources.decode.objects import Value
from kubeproxy_py.sources.object_cache import Identity, ObjectCache
from tests.laws.checking_kernels import CheckedAgent, Meeting, PacketKernel, failing, is_deleted_with
from tests.laws.histories import batches, edits
from tests.laws.packets import Fate, Packet, State
from tests.laws.test_every_prefix_is_legal import History, faults

Damage = Callable[[Rows, list[Key]], None]
"""What another program does to rows, of which it is given those of one kind, in any order."""


def delete(rows: Rows, keys: list[Key]) -> None:
    rows.pop(keys[0])
    for key in [key for key in rows if is_deleted_with(key, keys[0])]:
        del rows[key]


def _flush(rows: Rows, keys: list[Key]) -> None:
    """Delete the entries of a set, or the rules of a chain."""
    if isinstance(keys[0], Chain):
        rows[keys[0]] = ChainSpec(())
    for key in [key for key in rows if is_deleted_with(key, keys[0])]:
        del rows[key]


def _drain(rows: Rows, keys: list[Key]) -> None:
    rows[keys[0]] = DRAINING


def _add_real_server(rows: Rows, keys: list[Key]) -> None:
    server = keys[0]
    assert isinstance(server, VirtualServer)
    rows[RealServer(server, "fd00:10:244:2::99" if ":" in server.address else "10.244.2.99", 8080)] = SERVING


def bind(rows: Rows, keys: list[Key]) -> None:
    server = keys[0]
    assert isinstance(server, VirtualServer)
    if Link(IPVS_DEVICE) in rows:
        rows[Address(server.address)] = None


def exempt(rows: Rows, keys: list[Key]) -> None:
    server = keys[0]
    assert isinstance(server, VirtualServer)
    ipset = Ipset(kube_names.LOAD_BALANCER_LOCAL.name_in(family_of(server.address)))
    if ipset in rows:
        rows[IpsetEntry(ipset.name, server_entry(server))] = None


DAMAGES: tuple[tuple[type[Key], Damage], ...] = (
    *((Address, delete), (Link, delete), (VirtualServer, delete), (RealServer, delete), (RealServer, _drain)),
    *((IpsetEntry, delete), (IpsetEntry, delete), (Ipset, _flush), (Chain, _flush), (Jump, delete)),
    *((Sysctl, delete), (VirtualServer, _add_real_server), (VirtualServer, bind), (VirtualServer, exempt)),
)

damages = st.lists(
    st.lists(st.tuples(st.integers(0, len(DAMAGES) - 1), st.integers(0, 99)), max_size=3), min_size=5, max_size=5
)
"""Before each sync: which damage is done, and to which row of its kind."""


class DamagedKernel(PacketKernel):
    """Checks only packets that meet what is the agent's.

    That is not a family in which another program changed rules, before these are as they were; nor an address that
    another program bound while it waited for rules, which were refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.may_refuse = True
        self._changed_rules: set[Family] = set()
        self._bound_early: set[IP] = set()

    def mark_readers(self) -> Sequence[MarkReader]:
        return MemoryKernel.mark_readers(self)

    def scopes(self) -> Sequence[Scope]:
        """Return also the scopes that have lost all rows, as Linux does."""
        return list(dict.fromkeys((*super().scopes(), *map(scope_of, self.desired))))

    def suffer(self, number: int, pick: int) -> None:
        """Have another program do the damage *number* to the row *pick* of its kind, if there is one."""
        kind, damage = DAMAGES[number]
        keys = [key for key in self.rows if isinstance(key, kind)]
        if not keys:
            return
        event(f"{damage.__name__} {kind.__name__}")
        pick %= len(keys)
        self.damage(damage, [*keys[pick:], *keys[:pick]])

    def damage(self, damage: Damage, keys: list[Key]) -> None:
        """Have another program do *damage* to the first of *keys*, which are of one kind."""
        chosen = keys[0]
        bound = {key.address for key in self.rows if isinstance(key, Address)}
        entries = {key for key in self.rows if isinstance(key, IpsetEntry)}
        damage(self.rows, keys)
        self.unbound |= {address for address in bound if Address(address) not in self.rows}
        if self.refused:
            self._bound_early |= {key.address for key in self.rows if isinstance(key, Address)} - bound
        self.lost_entries |= entries - self.rows.keys()
        if isinstance(chosen, Chain | Jump):
            self._changed_rules.add(chosen.family)
        self.state = State(self.rows)

    def check_packet(self, packet: Packet, meeting: Meeting, found: Fate) -> None:
        if packet.family not in self._changed_rules and packet.destination not in self._bound_early:
            super().check_packet(packet, meeting, found)

    def end_sync(self) -> None:
        self.unbound = {address for address in self.unbound if Address(address) not in self.rows}
        self.lost_entries -= self.rows.keys()
        if not self.refused:
            self._bound_early.clear()
            self.lost_entries &= self.desired.keys()
        rules = {key: spec for key, spec in self.desired.items() if isinstance(key, Chain | Jump)}
        self._changed_rules -= {
            family
            for family in tuple(self._changed_rules)
            if all(self.rows.get(key) == spec for key, spec in rules.items() if key.family == family)
        }
        super().end_sync()


@given(history=batches | edits, damaged_by=damages, failing_in=faults)
def test_no_packet_meets_an_incomplete_service_while_drift_is_repaired(
    history: History, damaged_by: list[list[tuple[int, int]]], failing_in: list[list[str]]
) -> None:
    kernel = DamagedKernel()
    checked = CheckedAgent(kernel)
    for batch, damage, patterns in zip(history, damaged_by, failing_in, strict=False):
        checked.handle(batch)
        for number, pick in damage:
            kernel.suffer(number, pick)
        kernel.fault = failing(patterns)
        checked.advance(31.0)
        checked.sync()
    checked.settle()


class Server:
    """The objects of an API server, and what is known of them to one who watches and lists.

    The events and lists are those of a watch that was accepted; ListWatch decides that (tests/sources).
    """

    def __init__(self) -> None:
        self._objects: dict[Identity, Value] = {}
        self._known = ObjectCache()

    def change(self, change: ObjectEvent) -> list[ObjectEvent]:
        """Change an object; return what a watch sends."""
        identity, value = _identity_of(change)
        if identity is None:
            return [change]
        self._objects.pop(identity, None)
        if value is not None:
            self._objects[identity] = value
        return [change]

    def relist(self, vanished: frozenset[int]) -> Iterator[ObjectEvent]:
        """Return the differences of a list, from which the objects of the numbers *vanished* are missing."""
        listed = {identity: value for n, (identity, value) in enumerate(self._objects.items()) if n not in vanished}
        for identity, value in listed.items():
            yield from self._known.update(identity, (value,))
        yield from self._known.retain_only(listed)

    def watch(self, change: ObjectEvent) -> Iterator[ObjectEvent]:
        """Return what one who watches learns of *change*."""
        identity, value = _identity_of(change)
        if identity is None:
            yield change
        else:
            yield from self._known.update(identity, () if value is None else (value,))


def _identity_of(change: ObjectEvent) -> tuple[Identity | None, Value | None]:
    match change:
        case ServiceUpserted(service=value):
            return ("Service", value.name), value
        case ServiceDeleted(name=name):
            return ("Service", name), None
        case SliceUpserted(slice=value):
            return ("EndpointSlice", value.name), value
        case SliceDeleted(name=name):
            return ("EndpointSlice", name), None
        case NodeUpserted(node=value):
            return ("Node", value.name), value  # type: ignore[return-value]
    return None, None


class Connection(NamedTuple):
    """How the source is during one batch: whether its events are lost, and which objects the next list lacks."""

    is_lost: bool
    vanished: frozenset[int]


connections = st.lists(
    st.builds(Connection, st.booleans(), st.frozensets(st.integers(0, 12), max_size=12)), min_size=5, max_size=5
)


@given(history=batches | edits, during=connections, failing_in=faults)
def test_no_packet_meets_an_incomplete_service_when_a_source_loses_objects(
    history: History, during: list[Connection], failing_in: list[list[str]]
) -> None:
    """A watch that breaks loses events; the list after it has the differences, or lacks objects until the next one."""
    checked, server = CheckedAgent(PacketKernel()), Server()
    for batch, connection, patterns in zip(history, during, failing_in, strict=False):
        for change in batch:
            server.change(change)
            if not connection.is_lost:
                checked.handle(server.watch(change))
        if connection.is_lost:
            checked.handle(server.relist(connection.vanished))
        checked.kernel.fault = failing(patterns)
        checked.sync()
        checked.advance(0.1)
    checked.handle(server.relist(frozenset()))
    checked.settle()
