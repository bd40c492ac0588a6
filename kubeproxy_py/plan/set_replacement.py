"""exchange: a set of ours exists with another type or family -> the steps that make it anew under the rules that look.

Law: no packet meets a rule without its set, or a set without its entries.  Linux neither swaps nor renames sets of
different kinds, and destroys none that a rule looks at (net/netfilter/ipset/ip_set_core.c).  So a stand-in of the right
kind gets the entries, the rules come to look at it, the old set is replaced while nobody looks, and the rules come
back.  Each half is an ordinary plan, so each prefix of the whole is as legal as theirs; a process that is killed in
between leaves a stand-in, which is read as a row that nobody wants and goes once no rule looks at it.

A rule of somebody else's that looks at the old set can't be moved: then the kernel refuses to destroy it, which is told
as the failure of its row.
"""

from collections.abc import Callable, Iterable, Mapping

from kubeproxy_py.model.kube_names import PLACEHOLDER_SET
from kubeproxy_py.model.rows import Chain, ChainSpec, Ipset, IpsetEntry, IpsetSpec, Key, Rows, named_sets
from kubeproxy_py.model.steps import Step

Steps = Callable[[Rows, Rows, Iterable[Key]], list[Step]]


def is_exchange(step: Step) -> bool:
    """Whether *step* gives a set another type or family."""
    have, want = step.before, step.spec
    return isinstance(want, IpsetSpec) and isinstance(have, IpsetSpec) and not want.is_like(have)


def exchange(unlike: Iterable[Step], desired: Rows, actual: Rows, plan: Steps) -> tuple[list[Step], Rows]:
    """The steps that make each set of *unlike* anew, with its entries, and the rows after them.

    *plan* orders steps between two sets of rows.  One stand-in serves the sets one after the other.
    """
    steps: list[Step] = []
    now = dict(actual)
    for step in unlike:
        assert isinstance(step.key, Ipset)
        steps += _make_anew(step, step.key.name, desired, now, plan)
    return steps, now


def _make_anew(step: Step, name: str, desired: Rows, now: Rows, plan: Steps) -> list[Step]:
    """The steps for one set; *now* is changed to what is then.  None if the stand-in of another is in the way.

    Then the kernel refuses the set as it stands, the rest of the plan has that stand-in go, and the retry succeeds.
    """
    wrong, right = _entries(name, now), _entries(name, desired)
    left = _left_behind(now)
    if left and (
        left[_STAND_IN] != step.spec or not left.keys() - {_STAND_IN} <= _renamed(right, PLACEHOLDER_SET).keys()
    ):
        return []
    lookers = {key: spec for key, spec in now.items() if isinstance(spec, ChainSpec) and _looks_at(name, key, spec)}
    instead: Rows = {}
    if lookers:
        instead = {
            _STAND_IN: step.spec,
            **_renamed(right, PLACEHOLDER_SET),
            **_looking_at(PLACEHOLDER_SET, name, lookers),
        }
    there = plan(instead, {**wrong, **left, **lookers}, [*instead, *wrong, *left])
    settled = {**right, **_looking_at(name, PLACEHOLDER_SET, lookers)}
    back = plan(settled, instead, [*settled, *instead])
    for key in (*wrong, *left):
        del now[key]
    now |= {step.key: step.spec, **settled}
    return [*there, step, *back]


_STAND_IN = Ipset(PLACEHOLDER_SET)


def _left_behind(now: Rows) -> Rows:
    """The stand-in that a process left which was killed, with its entries."""
    return {_STAND_IN: now[_STAND_IN], **_entries(PLACEHOLDER_SET, now)} if _STAND_IN in now else {}


def _entries(name: str, rows: Rows) -> Rows:
    return {key: None for key in rows if isinstance(key, IpsetEntry) and key.set == name}


def _renamed(entries: Rows, name: str) -> Rows:
    return {IpsetEntry(name, key.entry): None for key in entries if isinstance(key, IpsetEntry)}


def _looks_at(name: str, key: Key, spec: ChainSpec) -> bool:
    return isinstance(key, Chain) and not {name, PLACEHOLDER_SET}.isdisjoint(named_sets(spec.rules))


def _looking_at(new: str, old: str, lookers: Mapping[Key, ChainSpec]) -> Rows:
    """*lookers* with their rules on *old* on *new* instead; one that stands on both, once."""
    return {
        key: ChainSpec(tuple(dict.fromkeys(rule.replace(f" {old} ", f" {new} ") for rule in spec.rules)))
        for key, spec in lookers.items()
    }
