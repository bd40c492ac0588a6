"""Check: what a check of this host is, and what comes of one.

Invariants:
- What a check needs and could not be read makes it unknown, not well; what it finds all the same counts.
- A check that had nothing to compare with has a reason for that (``blind``), and is unknown, too.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from msgspec import Struct

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.host_facts import Part

State = Literal["ok", "warning", "error", "unknown"]
"""What came of a check; *unknown*: it could not look."""

_ORDER: tuple[State, ...] = ("ok", "warning", "unknown", "error")


def _nothing(_situation: Situation) -> str:
    return ""


class Check(Struct, frozen=True, gc=False, kw_only=True):
    """One check of this host."""

    name: str
    about: str  # what is looked at, as a question
    find: Callable[[Situation], Iterator[Finding]]
    reasons: tuple[str, ...]  # of its findings
    needs: tuple[Part, ...] = ()  # parts of the facts, without which it cannot say that all is well
    blind: Callable[[Situation], str] = _nothing  # why nothing was compared, although no part is unread; "": it was
    seen: Callable[[Situation], str] = _nothing  # what was seen, where all is well
    is_resident: bool = False  # whether the running agent reports it, too


class Diagnosis(Struct, frozen=True, gc=False):
    """What came of one check."""

    check: Check
    state: State
    findings: tuple[Finding, ...] = ()
    unread: str = ""  # why it could not look, or not everywhere
    seen: str = ""


def diagnose(check: Check, situation: Situation) -> Diagnosis:
    """Return what comes of *check*."""
    findings = tuple(check.find(situation))
    missing = dict.fromkeys(f"{part}: {situation.unread[part]}" for part in check.needs if part in situation.unread)
    unread = "; ".join(missing) or check.blind(situation)
    states: list[State] = [finding.severity for finding in findings]
    if unread:
        states.append("unknown")
    return Diagnosis(check, worst(states), findings, unread, check.seen(situation))


def worst(states: Iterable[State]) -> State:
    """Return the worst of *states*; what is wrong is worse than what is not known."""
    return max(states, key=_ORDER.index, default="ok")
