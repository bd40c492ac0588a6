"""Plans as text, as a diff or as JSON, for ``kubeproxy-py plan``, the log and golden tests."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from kubeproxy_py.model.rows import (
    SERVING,
    Chain,
    ChainSpec,
    Ipset,
    Jump,
    Key,
    Link,
    LoopbackPath,
    PolicyEntry,
    ReturnTunnel,
    Spec,
    Sysctl,
    server_of,
)
from kubeproxy_py.model.steps import Plan, Step, Verb

Owners = Callable[[Key], Sequence[str]]
"""Returns the names of the Services that a row is for, none if it is for none."""

Paint = Callable[[str, str], str]
"""Returns a line in the colour of its sign: ``+``, ``~``, ``-``, ``=`` for a heading, ``@`` for a place in a diff."""

Group = tuple[str, list[Step]]
"""A heading, and the steps below it."""

_SIGNS = {"add": "+", "update": "~", "delete": "-"}
_TO_DO: tuple[tuple[Verb, str], ...] = (("add", "add"), ("update", "change"), ("delete", "delete"))
_KIND_WIDTH = len("VirtualServer")
_OF_ALL_SERVICES = (Sysctl, Link, Ipset, Chain, Jump, LoopbackPath, ReturnTunnel)
_OWNERS_NAMED_MAX = 3
_ALL, _NONE = "All Services", "No Service"
_FORMER_POLICY = "Exact policies of Services that do not ask for them any more, or are gone"
_ORDER = {_ALL: 1, _FORMER_POLICY: 2, _NONE: 3}  # after those of Services


def _no_paint(_sign: str, line: str) -> str:
    return line


def plan_text(plan: Iterable[Step], paint: Paint = _no_paint) -> str:
    """Return one line for each step, ``+`` added, ``~`` updated, ``-`` deleted, with changed rules below a chain."""
    return "".join(f"{line}\n" for step in plan for line in step_lines(step, paint))


def grouped_text(groups: Iterable[Group], paint: Paint = _no_paint) -> str:
    """Return the steps of each group as `plan_text`, below its heading."""
    return "\n".join(f"{paint('=', heading)}\n{plan_text(steps, paint)}" for heading, steps in groups)


def to_do_text(plan: Plan) -> str:
    """Return how much a sync would change: ``12 to add, 3 to change, 0 to delete``, or ``nothing to change``."""
    if not plan.steps:
        return "nothing to change"
    counts = Counter(step.verb for step in plan)
    return ", ".join(f"{counts[verb]:,} to {word}" for verb, word in _TO_DO)


def plan_diff(groups: Iterable[Group], paint: Paint = _no_paint) -> str:
    """Return a unified diff of the rows of each group, from what the kernel has to what a sync would leave there."""
    lines = (line for heading, steps in groups for line in _diff_lines(heading, steps))
    return "".join(f"{paint(_diff_sign(line), line)}\n" for line in lines)


def plan_json(plan: Plan, owners: Owners = lambda _key: ()) -> bytes:
    """Return a JSON list of ``{"verb", "kind", "key", "spec", "before", "services"}`` in the order of a sync.

    Specs are text, or null if there is none.
    """
    return msgspec.json.encode([{**_as_dict(step), "services": list(owners(step.key))} for step in plan])


def group_by_service(plan: Iterable[Step], owners: Owners) -> list[Group]:
    """Return the steps of *plan* by Service, each group in the order of the plan, those of no Service last."""
    groups: dict[str, list[Step]] = {}
    for step in plan:
        groups.setdefault(_heading(step.key, owners(step.key)), []).append(step)
    return sorted(groups.items(), key=lambda group: (_ORDER.get(group[0], 0), group[0]))


def _heading(key: Key, owners: Sequence[str]) -> str:
    if not owners:
        return _heading_without_owner(key)
    if len(owners) == 1:
        return f"Service {owners[0]}"
    named = ", ".join(owners[:_OWNERS_NAMED_MAX])
    more = len(owners) - _OWNERS_NAMED_MAX
    return f"Services {named}{f' and {more} more' if more > 0 else ''}"


def _heading_without_owner(key: Key) -> str:
    if isinstance(key, _OF_ALL_SERVICES):
        return _ALL
    server = server_of(key)
    return _FORMER_POLICY if isinstance(key, PolicyEntry) or (server and server.mark) else _NONE


def step_lines(step: Step, paint: Paint = _no_paint) -> Iterator[str]:
    """Yield the line of *step*, and those of the rules that it changes."""
    detail = ""
    if step.verb == "update" and not isinstance(step.spec, ChainSpec):
        detail = f"  (was {step.before})" if step.spec is None else f"  ({step.before} -> {step.spec})"
    elif step.spec is not None and step.spec != SERVING:
        detail = f"  ({step.spec})"
    sign = _SIGNS[step.verb]
    yield paint(sign, f"{sign} {type(step.key).__name__:{_KIND_WIDTH}} {step.key}{detail}")
    if isinstance(step.spec, ChainSpec):
        before = step.before.rules if isinstance(step.before, ChainSpec) else ()
        yield from (paint("-", f"    - {rule}") for rule in before if rule not in step.spec.rules)
        yield from (paint("+", f"    + {rule}") for rule in step.spec.rules if rule not in before)


def _diff_lines(heading: str, steps: Iterable[Step]) -> Iterator[str]:
    """Yield the unified diff of the rows that *steps* change; several steps on a row are one change."""
    from difflib import unified_diff  # not needed where plans are only logged

    by_key: dict[Key, list[Step]] = {}
    for step in steps:
        by_key.setdefault(step.key, []).append(step)
    before: list[str] = []
    after: list[str] = []
    for key, changes in by_key.items():
        if changes[0].verb != "add":
            before += _row_lines(key, changes[0].before)
        if changes[-1].verb != "delete":
            after += _row_lines(key, changes[-1].spec)
    yield from unified_diff(before, after, f"kernel: {heading}", f"after a sync: {heading}", lineterm="")


def _row_lines(key: Key, spec: Spec) -> Iterator[str]:
    row = f"{type(key).__name__:{_KIND_WIDTH}} {key}"
    yield row if spec is None or isinstance(spec, ChainSpec) else f"{row}  ({spec})"
    if isinstance(spec, ChainSpec):
        yield from (f"    {rule}" for rule in spec.rules)


def _diff_sign(line: str) -> str:
    return "=" if line.startswith(("--- ", "+++ ")) else line[0]


def _as_dict(step: Step) -> dict[str, str | None]:
    return {
        "verb": step.verb,
        "kind": type(step.key).__name__,
        "key": str(step.key),
        "spec": None if step.spec is None else str(step.spec),
        "before": None if step.before is None else str(step.before),
    }
