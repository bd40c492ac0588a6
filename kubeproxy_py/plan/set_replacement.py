"""Recreate a set that exists with another type or family, while rules refer to it.

Linux neither swaps nor renames sets of different types, and does not destroy a set that a rule refers to
(net/netfilter/ipset/ip_set_core.c).  So the set is replaced in two halves:

1. A placeholder set of the right type gets the entries, and the rules are changed to refer to it.
2. The old set, to which no rule refers now, is recreated with its entries, the rules are changed back, and the
   placeholder is deleted.

Invariants:
- No packet traverses a rule without its set, or a set without its entries.
- Each half is an ordinary plan, so each prefix of both is as legal as that of any plan.
- A process that is killed in between leaves a placeholder.  It is read as a row that is not desired, and is deleted as
  soon as no rule refers to it.

A rule of another program that refers to the old set cannot be changed: then the kernel refuses to destroy the set,
which is reported as the failure of its row.
"""

from collections.abc import Callable, Iterable, Mapping

from kubeproxy_py.model.kube_names import PLACEHOLDER_SET
from kubeproxy_py.model.rows import Chain, ChainSpec, Ipset, IpsetEntry, IpsetSpec, Key, Rows, referenced_sets
from kubeproxy_py.model.steps import Step

Planner = Callable[[Rows, Rows, Iterable[Key]], list[Step]]
"""Returns the ordered steps from actual to desired rows, for some keys."""

_PLACEHOLDER = Ipset(PLACEHOLDER_SET)


def is_replacement(step: Step) -> bool:
    """Return whether *step* gives a set another type or family."""
    have, want = step.before, step.spec
    return isinstance(want, IpsetSpec) and isinstance(have, IpsetSpec) and not want.can_swap_with(have)


def replace_sets(
    replacements: Iterable[Step], desired: Rows, actual: Rows, planner: Planner
) -> tuple[list[Step], Rows]:
    """Return the steps that recreate the sets of *replacements* with their entries, and the actual rows after them.

    The sets are replaced one after the other, with the same placeholder.
    """
    steps: list[Step] = []
    for step in replacements:
        replacing, actual = _recreate(step, desired, actual, planner)
        steps += replacing
    return steps, actual


def _recreate(step: Step, desired: Rows, actual: Rows, planner: Planner) -> tuple[list[Step], Rows]:
    """Return the steps for the set of *step*, and the actual rows after them.

    There are no steps if another set's placeholder is left over.  Then the kernel refuses to change the set, the other
    steps of the plan delete the placeholder, and the retry succeeds.
    """
    assert isinstance(step.key, Ipset)
    name = step.key.name
    old_entries, new_entries = _entries(name, actual), _entries(name, desired)
    leftover = _leftover_placeholder(actual)
    if leftover and not _is_placeholder_for(step, new_entries, leftover):
        return [], actual
    chains = _referencing_chains(name, actual)
    substitute: Rows = {}
    if chains:
        substitute = {
            _PLACEHOLDER: step.spec,
            **_renamed(new_entries, PLACEHOLDER_SET),
            **_redirected(chains, name, PLACEHOLDER_SET),
        }
    first_half = planner(substitute, {**old_entries, **leftover, **chains}, [*substitute, *old_entries, *leftover])
    final = {**new_entries, **_redirected(chains, PLACEHOLDER_SET, name)}
    second_half = planner(final, substitute, [*final, *substitute])
    after = {key: spec for key, spec in actual.items() if key not in old_entries and key not in leftover}
    return [*first_half, step, *second_half], {**after, step.key: step.spec, **final}


def _leftover_placeholder(actual: Rows) -> Rows:
    """Return the placeholder of a process that was killed, with its entries; empty if there is none."""
    return {_PLACEHOLDER: actual[_PLACEHOLDER], **_entries(PLACEHOLDER_SET, actual)} if _PLACEHOLDER in actual else {}


def _is_placeholder_for(step: Step, new_entries: Rows, leftover: Rows) -> bool:
    """Return whether *leftover* can serve as the placeholder of the set of *step*."""
    entries = leftover.keys() - {_PLACEHOLDER}
    return leftover[_PLACEHOLDER] == step.spec and entries <= _renamed(new_entries, PLACEHOLDER_SET).keys()


def _entries(name: str, rows: Rows) -> Rows:
    return {key: spec for key, spec in rows.items() if isinstance(key, IpsetEntry) and key.set == name}


def _renamed(entries: Rows, name: str) -> Rows:
    return {IpsetEntry(name, key.entry): spec for key, spec in entries.items() if isinstance(key, IpsetEntry)}


def _referencing_chains(name: str, rows: Rows) -> dict[Key, ChainSpec]:
    """Return the chains of *rows* that match on the set *name* or on its placeholder."""
    return {key: spec for key, spec in rows.items() if isinstance(spec, ChainSpec) and _references(name, key, spec)}


def _references(name: str, key: Key, spec: ChainSpec) -> bool:
    return isinstance(key, Chain) and not {name, PLACEHOLDER_SET}.isdisjoint(referenced_sets(spec.rules))


def _redirected(chains: Mapping[Key, ChainSpec], old: str, new: str) -> Rows:
    """Return *chains* with the set *old* replaced by *new* in their rules; a rule that is there with both, once."""
    return {
        key: ChainSpec(tuple(dict.fromkeys(rule.replace(f" {old} ", f" {new} ") for rule in spec.rules)))
        for key, spec in chains.items()
    }
