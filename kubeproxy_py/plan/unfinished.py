"""The rows that are not as desired while a plan is carried out, found by what waits for them.

Invariants:
- They are those that failed, in this plan or an earlier one, and those that wait for them.
- Cost follows their number, not the number of rows.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from kubeproxy_py.model.rows import (
    Chain,
    ChainSpec,
    IpsetEntry,
    Jump,
    Key,
    RealServer,
    Rows,
    VirtualServer,
    is_draining_spec,
    referenced_sets,
)
from kubeproxy_py.net import IP, Family
from kubeproxy_py.plan import set_roles
from kubeproxy_py.plan.protection import Group, protecting_group
from kubeproxy_py.plan.set_roles import frontend_of, frontends_of, port_of


class Unfinished:
    """The rows that are not as desired; of several that something waits for, the first that was recorded.

    Args:
        desired: All desired rows.
        actual: All actual rows before the plan.
        keys: The rows that the plan does not try, because they failed before.
    """

    def __init__(self, desired: Rows, actual: Rows, keys: Iterable[Key]) -> None:
        self._desired = desired
        self._actual = actual
        self.absent: set[Key] = set()  # not created
        self.base: dict[tuple[Family, Group], Key] = {}  # a chain or jump that is missing, or lacks a fixed rule
        self.incomplete: dict[Family, Key] = {}  # a chain that lacks a rule on a set which every address may need
        self.unmatched_sets: dict[str, Key] = {}  # by set: a chain that lacks a rule that matches on it
        self.unmasqueraded: dict[str, Key] = {}  # by frontend: an entry of MASQUERADES that is missing
        self.unmasqueraded_ports: dict[str, Key] = {}  # the same, by port
        self.unclosed: dict[str, Key] = {}  # by frontend: an entry of CLOSES that is missing
        self.unadmitted: dict[str, Key] = {}  # by frontend: an entry of ADMITS that is missing
        self.absent_servers: defaultdict[IP, list[VirtualServer]] = defaultdict(list)
        # Not desired any more, but still there:
        self.lingering: set[Key] = set()
        self.exempt: dict[str, Key] = {}  # by frontend: an entry of EXEMPTS
        self.exemptions: dict[str, Key] = {}  # by set: the same
        self.opened: dict[str, Key] = {}  # by frontend that is to be closed to others: an entry of OPENS
        self.lingering_entries: dict[str, Key] = {}  # by set: an entry
        self.forwarding: dict[str, Key] = {}  # by frontend: a virtual server, or a real server with weight
        # By address: a virtual server, an entry of ALLOWS, or a real server whose frontend is exempt from masquerading.
        self.obsolete: dict[IP, Key] = {}
        for key in keys:
            if key in desired and key not in actual:
                self.absent.add(key)
            self.note(key)

    def note(self, key: Key) -> None:
        """Record that *key* is not as desired."""
        is_wanted, exists = key in self._desired, key in self._actual
        if exists and not is_wanted:
            self.lingering.add(key)
        note = _NOTES.get(type(key))
        if note and (is_wanted or exists):
            note(self, key, is_wanted=is_wanted, is_missing=not exists)

    def _note_chain(self, key: Chain, *, is_wanted: bool, is_missing: bool) -> None:
        spec, present = self._desired.get(key), self._actual.get(key)
        if not isinstance(spec, ChainSpec):
            return
        rules = present.rules if isinstance(present, ChainSpec) else ()
        lacking = [rule for rule in spec.rules if rule not in rules]
        for name in referenced_sets(lacking):
            self.unmatched_sets.setdefault(name, key)
            if name in set_roles.NEEDED_BY_ADDRESSES:
                self.incomplete.setdefault(key.family, key)
        if is_missing or any(not referenced_sets([rule]) for rule in lacking):
            self._note_base(key)

    def _note_jump(self, key: Jump, *, is_wanted: bool, is_missing: bool) -> None:
        if is_wanted and (is_missing or self._desired[key] != self._actual[key]):
            self._note_base(key)

    def _note_base(self, key: Chain | Jump) -> None:
        if group := protecting_group(key):
            self.base.setdefault((key.family, group), key)

    def _note_entry(self, key: IpsetEntry, *, is_wanted: bool, is_missing: bool) -> None:
        name, frontend = key.set, frontend_of(key)
        if not is_wanted:
            self.lingering_entries.setdefault(name, key)
            if name in set_roles.EXEMPTS:
                self.exempt.setdefault(frontend, key)
                self.exemptions.setdefault(name, key)
            if set_roles.is_closed(frontend, self._desired) and name in set_roles.OPENS:
                self.opened.setdefault(frontend, key)
            if name in set_roles.ALLOWS:
                self.obsolete.setdefault(frontend.partition(",")[0], key)
        elif is_missing:
            for names, by_frontend in (
                (set_roles.MASQUERADES, self.unmasqueraded),
                (set_roles.CLOSES, self.unclosed),
                (set_roles.ADMITS, self.unadmitted),
            ):
                if name in names:
                    by_frontend.setdefault(frontend, key)
            if name in set_roles.MASQUERADES:
                self.unmasqueraded_ports.setdefault(port_of(frontend), key)

    def _note_server(self, key: VirtualServer, *, is_wanted: bool, is_missing: bool) -> None:
        if not is_wanted:
            for frontend in frontends_of(key):
                self.forwarding.setdefault(frontend, key)
            self.obsolete.setdefault(key.address, key)
        elif is_missing:
            self.absent_servers[key.address].append(key)

    def _note_real_server(self, key: RealServer, *, is_wanted: bool, is_missing: bool) -> None:
        # With its virtual server it goes in any case.
        if not is_wanted and not is_draining_spec(self._actual[key]) and key.virtual_server in self._desired:
            for frontend in frontends_of(key.virtual_server):
                self.forwarding.setdefault(frontend, key)
                if set_roles.is_exempt(frontend, self._desired):
                    self.obsolete.setdefault(key.virtual_server.address, key)


_NOTES: Mapping[type[Key], Callable[..., None]] = {
    Chain: Unfinished._note_chain,
    Jump: Unfinished._note_jump,
    IpsetEntry: Unfinished._note_entry,
    VirtualServer: Unfinished._note_server,
    RealServer: Unfinished._note_real_server,
}
