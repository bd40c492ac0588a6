"""Compare desired with actual rows and return the least steps that change one into the other, in a safe order.

Invariants:
- Every prefix of a plan is legal in the kernel, and after it no packet reaches an incomplete Service.  So kinds of rows
  are created in BUILD_ORDER, in which what a packet traverses first comes last, and deleted in the reverse order.
- Additions precede deletions: a virtual server whose real servers change always has one of them.  Entries that exempt a
  frontend from masquerading are the exception: they go before real servers come, and come after real servers went.  So
  do source ranges go that the frontend has no more, while it has others (set_roles.py).
- A rule exists while any entry or virtual server that it refers to exists.  So a chain that loses rules is updated
  twice: among the additions to the union of old and new rules, and among the deletions to the new rules only.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from itertools import chain

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import (
    Address,
    Chain,
    ChainSpec,
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Jump,
    Key,
    Link,
    LoopbackPath,
    PolicyEntry,
    RealServer,
    ReturnTunnel,
    Rows,
    Spec,
    Sysctl,
    VirtualServer,
    drained,
    is_draining_spec,
)
from kubeproxy_py.model.steps import Plan, Step
from kubeproxy_py.net import FAMILIES, IP, Family, family_of
from kubeproxy_py.plan.drain_policy import must_drain
from kubeproxy_py.plan.set_replacement import is_replacement, replace_sets
from kubeproxy_py.plan.set_roles import (
    ALLOWS,
    ENTRY_ORDER,
    EXEMPTS,
    OPENS,
    frontend_of,
    frontends_of,
    is_closed,
    newly_matched_sets,
)

BUILD_ORDER: tuple[type[Key], ...] = (
    Sysctl,
    Link,
    Ipset,
    Chain,
    Jump,
    IpsetEntry,
    VirtualServer,
    RealServer,
    PolicyEntry,
    LoopbackPath,
    ReturnTunnel,
    Address,
)


class _Missing(Enum):
    ROW = 0


_MISSING = _Missing.ROW
_StepsByKind = defaultdict[type[Key], list[Step]]
_UP_TO_SETS = BUILD_ORDER[: BUILD_ORDER.index(Ipset) + 1]


def _ranks() -> dict[Key | str, int]:
    """Return the order within a kind, where it matters.

    A chain comes after those that it jumps to, and jumps in the order in which each is inserted above the last.
    """
    ranks: dict[Key | str, int] = {}
    for family in FAMILIES:
        ranks |= {chain: rank for rank, chain in enumerate(kube_names.chains(family, policies=True))}
        ranks |= {jump: rank for rank, jump in enumerate(kube_names.jumps(family, policies=True))}
        ranks |= {definition.name_in(family): rank for rank, definition in enumerate(ENTRY_ORDER)}
        # Pods of this node are led elsewhere before all others are dropped.
        policy_sets = enumerate(kube_names.POLICY_IPSET_DEFINITIONS)
        ranks |= {definition.name_in(family): rank for rank, definition in policy_sets}
    return ranks


_RANKS: Mapping[Key | str, int] = _ranks()
_RANKED_KINDS: Mapping[type[Key], Callable[[Step], int]] = {
    Chain: lambda step: _RANKS.get(step.key, 0),
    Jump: lambda step: _RANKS.get(step.key, 0),
    IpsetEntry: lambda step: _RANKS.get(step.key.set, 0),  # type: ignore[attr-defined]
    PolicyEntry: lambda step: _RANKS.get(step.key.set, 0),  # type: ignore[attr-defined]
}


def make_plan(desired: Rows, actual: Rows, keys: Collection[Key] | None = None) -> Plan:
    """Return the steps that change *actual* into *desired*.

    A TCP real server that leaves a virtual server which stays is not deleted but gets weight 0 (drain_policy.py).

    Args:
        desired: All desired rows.
        actual: All actual rows.
        keys: The keys to plan; None: all.
    """
    steps = _steps(desired, actual, keys)
    replacements = _replacements(steps)
    if not replacements:
        return Plan(tuple(steps))
    first, actual_then = replace_sets(replacements, desired, actual, _steps)
    return Plan((*first, *_steps(desired, actual_then, keys)))


def _replacements(steps: Iterable[Step]) -> list[Step]:
    """Return the steps that give a set another type or family, which are among the first of *steps*."""
    found: list[Step] = []
    for step in steps:
        if step.verb == "delete" or type(step.key) not in _UP_TO_SETS:
            break
        if is_replacement(step):
            found.append(step)
    return found


def _steps(desired: Rows, actual: Rows, keys: Iterable[Key] | None) -> list[Step]:
    builds, teardowns = _by_kind(desired, actual, _all_keys(desired, actual) if keys is None else keys)
    premature = _pop_premature(builds, teardowns, desired, actual) if Chain in builds else []

    def allows_too_much(key: IpsetEntry) -> bool:
        return _exempts(key) or (key.set in OPENS and is_closed(frontend_of(key), desired))

    removed_early = _pop_entries(teardowns.get(IpsetEntry), builds.get(RealServer), allows_too_much)
    # Besides what goes before real servers come, which is earlier.
    obsolete = _pop_obsolete(builds[Address], teardowns) if Address in builds else []
    added_late = _pop_entries(builds.get(IpsetEntry), teardowns.get(RealServer), _exempts)
    first = {kind: _ranked(kind, unordered) for kind, unordered in builds.items()}
    last = {kind: _ranked(kind, unordered)[::-1] for kind, unordered in teardowns.items()}
    if obsolete:
        first[Address] = [*obsolete, *first[Address]]
    if removed_early:
        first[IpsetEntry] = [*first.get(IpsetEntry, ()), *removed_early]
    if added_late:
        last[IpsetEntry] = [*added_late, *last.get(IpsetEntry, ())]
    steps: list[Step] = premature
    for kind in sorted(first, key=BUILD_ORDER.index):
        steps += first[kind]
    for kind in sorted(last, key=BUILD_ORDER.index, reverse=True):
        steps += last[kind]
    return steps


def _by_kind(desired: Rows, actual: Rows, keys: Iterable[Key]) -> tuple[_StepsByKind, _StepsByKind]:
    """Return the steps for *keys* among the additions, and those among the deletions, by the kind of row."""
    builds: _StepsByKind = defaultdict(list)
    teardowns: _StepsByKind = defaultdict(list)
    for key in keys:
        want, have = desired.get(key, _MISSING), actual.get(key, _MISSING)
        if have is _MISSING:  # most steps of a large plan are additions
            if want is not _MISSING:
                builds[type(key)].append(Step("add", key, want))
        elif want is _MISSING:
            if step := _removal(key, have, desired):
                teardowns[type(key)].append(step)
        elif want != have:
            build, teardown = _updates(key, want, have)
            if build:
                builds[type(key)].append(build)
            if teardown:
                teardowns[type(key)].append(teardown)
    return builds, teardowns


def _pop_entries(
    entry_steps: list[Step] | None, real_server_steps: Sequence[Step] | None, is_meant: Callable[[IpsetEntry], bool]
) -> list[Step]:
    """Remove from *entry_steps*, and return, those *is_meant* on entries of a frontend of *real_server_steps*."""
    if not entry_steps or not real_server_steps:
        return []
    meant = [step for step in entry_steps if isinstance(step.key, IpsetEntry) and is_meant(step.key)]
    if not meant:
        return []
    servers = {step.key.virtual_server for step in real_server_steps if isinstance(step.key, RealServer)}
    changing = {frontend for server in servers for frontend in frontends_of(server)}
    popped = [step for step in meant if isinstance(step.key, IpsetEntry) and frontend_of(step.key) in changing]
    _remove(entry_steps, popped)
    return popped


def _pop_premature(
    builds: dict[type[Key], list[Step]], teardowns: dict[type[Key], list[Step]], desired: Rows, actual: Rows
) -> list[Step]:
    """Remove from *teardowns*, and return, what goes before chains get rules on sets of exemptions that had none.

    Only another program adds entries to such sets.  They would take effect with the rules: those of no Service, and
    those that a Service is to have after its endpoints on other nodes went, which come again (*builds*).
    """
    names = {name for step in builds[Chain] for name in newly_matched_sets(step)} & EXEMPTS
    entries = [key for key in actual if isinstance(key, IpsetEntry) and key.set in names] if names else []
    if not entries:
        return []
    surplus = [key for key, spec in actual.items() if isinstance(key, RealServer) and key not in desired]
    forwarding = {frontend for key in surplus for frontend in frontends_of(key.virtual_server)}
    premature = [key for key in entries if key not in desired or frontend_of(key) in forwarding]
    _remove(teardowns[IpsetEntry], [Step("delete", key) for key in premature])
    builds[IpsetEntry] += [Step("add", key, desired[key]) for key in premature if key in desired]
    return [Step("delete", key, None, actual[key]) for key in premature]


def _exempts(key: IpsetEntry) -> bool:
    return key.set in EXEMPTS


def _pop_obsolete(new_addresses: Iterable[Step], teardowns: Mapping[type[Key], list[Step]]) -> list[Step]:
    """Remove from *teardowns*, and return, what goes before *new_addresses* are bound.

    No packet reaches virtual and real servers, or matches set entries, at an address that is not bound yet; what is
    obsolete must be deleted before one can.  A port that is exempt from masquerading is so at all addresses.
    """
    unbound = {step.key.address for step in new_addresses if isinstance(step.key, Address)}
    unbound |= {family_of(address) for address in unbound}
    obsolete: list[Step] = []
    for kind in (PolicyEntry, RealServer, VirtualServer, IpsetEntry):
        popped = [step for step in teardowns[kind] if _place_of(step.key) in unbound]
        _remove(teardowns[kind], popped)
        obsolete += popped
    return obsolete


def _place_of(key: Key) -> IP | Family | None:
    """Return the address at which *key* serves, or allows more than without it; None if it does neither.

    Of a port that is exempt from masquerading it is the family: it is so at all addresses of that.
    """
    if isinstance(key, RealServer):
        return key.virtual_server.address
    if isinstance(key, IpsetEntry):
        leads = key.set in ALLOWS or isinstance(key, PolicyEntry)
        return frontend_of(key).partition(",")[0] if leads else None
    return key.address if isinstance(key, VirtualServer) else None


def _remove(steps: list[Step], popped: Iterable[Step]) -> None:
    if keys := {step.key for step in popped}:
        steps[:] = [step for step in steps if step.key not in keys]


def _all_keys(desired: Rows, actual: Rows) -> Iterable[Key]:
    return chain(desired, [key for key in actual if key not in desired])


def _updates(key: Key, want: Spec, have: Spec) -> tuple[Step | None, Step | None]:
    """Return the step for *key* among the additions and the one among the deletions; None where there is none."""
    if isinstance(want, ChainSpec) and isinstance(have, ChainSpec):
        return _chain_updates(key, want, have)
    update = Step("update", key, want, have)
    # A set shrinks after its surplus entries were deleted.
    return (None, update) if isinstance(want, IpsetSpec) and _shrinks(want, have) else (update, None)


def _removal(key: Key, have: Spec, desired: Rows) -> Step | None:
    if isinstance(key, RealServer) and must_drain(key, desired):
        return None if is_draining_spec(have) else Step("update", key, drained(have), have)
    # Sysctls are never reset.
    return None if isinstance(key, Sysctl) else Step("delete", key, None, have)


def _shrinks(want: IpsetSpec, have: Spec) -> bool:
    return isinstance(have, IpsetSpec) and want.can_swap_with(have) and want.maxelem < have.maxelem


def _chain_updates(key: Key, want: ChainSpec, have: ChainSpec) -> tuple[Step | None, Step | None]:
    both = ChainSpec(merge_rules(want.rules, have.rules))
    return (
        Step("update", key, both, have) if both != have else None,
        Step("update", key, want, both) if both != want else None,
    )


def merge_rules(new: Sequence[str], old: Sequence[str]) -> tuple[str, ...]:
    """Return every rule of *new*, with the rules only in *old* before the common rule that they preceded in *old*."""
    result: list[str] = []
    wanted, remaining = set(new), list(old)
    for rule in new:
        if rule in remaining:
            index = remaining.index(rule)
            result += [obsolete for obsolete in remaining[:index] if obsolete not in wanted]
            del remaining[: index + 1]
        result.append(rule)
    return (*result, *(obsolete for obsolete in remaining if obsolete not in wanted))


def _ranked(kind: type[Key], steps: list[Step]) -> list[Step]:
    rank = _RANKED_KINDS.get(kind)
    return sorted(steps, key=rank) if rank else steps
