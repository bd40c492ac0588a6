"""make_plan: desired rows against actual rows -> the least steps, in a safe order.

Law: every prefix is legal, and after it no packet meets half a Service.  So what a packet meets first is made last
(kinds in the order of BUILD_ORDER), what it meets first goes first (the reverse), and additions come before
deletions: a virtual server that changes its real servers always has one of them.

A chain that loses rules belongs to both halves: while the entries and servers that a rule speaks of still stand, the
rule must stand as well.  So it first gets what is new beside what is old, and is cut down at its turn to be deleted.
A set that is to hold less gets smaller when the entries that are too much have gone; one of another type, which
can't be changed while rules look at it, is made anew before all else (exchange.py).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from enum import Enum
from itertools import takewhile

from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import (
    DRAINING,
    Address,
    Chain,
    ChainSpec,
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Jump,
    Key,
    Link,
    RealServer,
    Rows,
    Spec,
    Sysctl,
    VirtualServer,
)
from kubeproxy_py.model.services import FAMILIES
from kubeproxy_py.model.steps import Plan, Step
from kubeproxy_py.plan.drain_policy import drains
from kubeproxy_py.plan.set_replacement import exchange, is_exchange

BUILD_ORDER: tuple[type[Key], ...] = (
    Sysctl,
    Link,
    Ipset,
    Chain,
    Jump,
    IpsetEntry,
    VirtualServer,
    RealServer,
    Address,
)


class _Missing(Enum):
    ROW = 0


_MISSING = _Missing.ROW
_MaybeSpec = Spec | _Missing

# Order within a kind, where it matters: a chain after those that it jumps to, jumps as each is put on top of the last,
# KUBE-IPVS-IPS (whose members are refused unless another set names them) after the other sets.
_RANKS: dict[Key | str, int] = {}
for _family in FAMILIES:
    _RANKS |= {chain: rank for rank, chain in enumerate(tables.chains(_family))}
    _RANKS |= {jump: rank for rank, jump in enumerate(tables.jumps(_family))}
    _RANKS |= {kind.name_in(_family): rank for rank, kind in enumerate(tables.SET_KINDS)}
_RANKED: dict[type[Key], Callable[[Step], int]] = {
    Chain: lambda step: _RANKS.get(step.key, 0),
    Jump: lambda step: _RANKS.get(step.key, 0),
    IpsetEntry: lambda step: _RANKS.get(step.key.set, 0),  # type: ignore[attr-defined]
}


def make_plan(desired: Rows, actual: Rows, keys: Collection[Key] | None = None) -> Plan:
    """The steps that make *actual* into *desired*, for *keys* alone if they are given.

    Both halves of a plan depend only on the arguments.  A TCP real server that leaves a virtual server which stays
    is not deleted but gets weight 0: drain.py says when it may go.
    """
    steps = _steps(desired, actual, keys)
    unlike = [step for step in _leading(steps) if is_exchange(step)]
    if not unlike:
        return Plan(tuple(steps))
    first, then = exchange(unlike, desired, actual, _steps)
    return Plan((*first, *_steps(desired, then, keys)))


def _leading(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps up to those on sets: where a plan would change the header of one."""
    last = BUILD_ORDER.index(Ipset)
    return takewhile(lambda step: step.verb != "delete" and BUILD_ORDER.index(type(step.key)) <= last, steps)


def _steps(desired: Rows, actual: Rows, keys: Iterable[Key] | None) -> list[Step]:
    make: dict[type[Key], list[Step]] = {kind: [] for kind in BUILD_ORDER}
    remove: dict[type[Key], list[Step]] = {kind: [] for kind in BUILD_ORDER}
    for key in _differing(desired, actual) if keys is None else keys:
        want, have = desired.get(key, _MISSING), actual.get(key, _MISSING)
        if want != have:
            _sort_in(key, want, have, desired, make[type(key)], remove[type(key)])
    steps: list[Step] = []
    for kind in BUILD_ORDER:
        steps += _ranked(kind, make[kind])
    for kind in reversed(BUILD_ORDER):
        steps += reversed(_ranked(kind, remove[kind]))
    return steps


def _differing(desired: Rows, actual: Rows) -> Iterable[Key]:
    yield from (key for key, spec in desired.items() if actual.get(key, _MISSING) != spec)
    yield from (key for key in actual if key not in desired)


def _sort_in(key: Key, want: _MaybeSpec, have: _MaybeSpec, desired: Rows, make: list[Step], remove: list[Step]) -> None:
    """Put the steps for one row where they belong: into what is made or into what is removed."""
    if isinstance(have, _Missing):
        if not isinstance(want, _Missing):
            make.append(Step("add", key, want))
    elif isinstance(want, _Missing):
        if isinstance(key, RealServer) and drains(key, desired):
            if have != DRAINING:
                remove.append(Step("update", key, DRAINING, have))
        elif not isinstance(key, Sysctl):  # settings stay as they are
            remove.append(Step("delete", key, None, have))
    elif isinstance(want, ChainSpec) and isinstance(have, ChainSpec):
        _sort_in_chain(key, want, have, make, remove)
    else:
        half = remove if isinstance(want, IpsetSpec) and _gets_smaller(want, have) else make
        half.append(Step("update", key, want, have))


def _gets_smaller(want: IpsetSpec, have: _MaybeSpec) -> bool:
    return isinstance(have, IpsetSpec) and want.is_like(have) and want.maxelem < have.maxelem


def _sort_in_chain(key: Key, want: ChainSpec, have: ChainSpec, make: list[Step], remove: list[Step]) -> None:
    both = ChainSpec(merged(want.rules, have.rules))
    if both != have:
        make.append(Step("update", key, both, have))
    if both != want:
        remove.append(Step("update", key, want, both))


def merged(new: Sequence[str], old: Sequence[str]) -> tuple[str, ...]:
    """Every rule of *new*, and those only in *old* at the place they had, before what followed them there."""
    result: list[str] = []
    wanted, rest = set(new), list(old)
    for rule in new:
        if rule in rest:
            at = rest.index(rule)
            result += [gone for gone in rest[:at] if gone not in wanted]
            del rest[: at + 1]
        result.append(rule)
    return (*result, *(gone for gone in rest if gone not in wanted))


def _ranked(kind: type[Key], steps: list[Step]) -> list[Step]:
    rank = _RANKED.get(kind)
    return sorted(steps, key=rank) if rank else steps
