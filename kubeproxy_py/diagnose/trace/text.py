"""A trace as text for an operator: one line for each step, the verdict last."""

from collections.abc import Iterable, Iterator

from kubeproxy_py.diagnose.trace.result import Branch, Outcome, RealServerChoice, Trace
from kubeproxy_py.diagnose.trace.way import Step
from kubeproxy_py.net import join_host_port

_REAL_SERVERS_MAX = 8
_DOUBTS_MAX = 5
_VERDICTS = {
    "served": "answered",
    "host": "this node",
    "refused": "refused",
    "rejected": "rejected",
    "dropped": "dropped",
    "forwarded": "not answered here",
    "unknown": "cannot tell",
}


def trace_text(trace: Trace) -> str:
    """Return the trace in lines."""
    return "".join(f"{line}\n" for line in _lines(trace))


def _lines(trace: Trace) -> Iterator[str]:
    packet, first = trace.packet, trace.outcomes[0]
    service = f": {trace.service}" if trace.service else ""
    yield f"{packet.protocol.lower()} from {packet.source} ({trace.sender}) to {packet.target}{service}"
    yield from (f"note: {note}" for note in trace.notes)
    yield from _step_lines(first.steps, "  ")
    for branch in first.branches:
        yield f"  to {_real_servers(branch.real_servers)}{f', by {branch.interface}' if branch.interface else ''}"
        yield from _step_lines(branch.steps, "    ")
        if branch.fate == "served":
            yield f"    {_source_text(trace, branch)}"
    if first.draining:
        yield f"  draining or set aside, for known clients only: {_real_servers(first.draining)}"
    if not trace.has_foreign:
        yield "  rules of other programs were not looked at (--kernel does)"
    yield from _verdict_lines(trace)


def _verdict_lines(trace: Trace) -> Iterator[str]:
    first, *others = trace.outcomes
    if not others:
        yield from _outcome_lines(first, _VERDICTS[first.fate])
        return
    yield "cannot tell, because of rules that may match:"
    yield from _outcome_lines(first, f"  unless one does, {_VERDICTS[first.fate]}")
    for outcome in others:
        rules = [f"{step.table} {step.chain} rule {step.number} ({step.rule})" for step in outcome.doubts[:_DOUBTS_MAX]]
        more = len(outcome.doubts) - len(rules)
        yield from _outcome_lines(
            outcome, f"  if {' and '.join(rules)}{f' and {more} more' if more else ''}: {_VERDICTS[outcome.fate]}"
        )


def _outcome_lines(outcome: Outcome, verdict: str) -> Iterator[str]:
    chain = f" by {outcome.steps[-1].chain}" if outcome.fate in ("dropped", "rejected") and _is_ours(outcome) else ""
    yield f"{verdict}{chain}: {outcome.reason}"
    for note in dict.fromkeys(outcome.notes):
        yield f"note: {note}"
    if outcome.remedy:
        yield f"look at: {outcome.remedy}"


def _is_ours(outcome: Outcome) -> bool:
    last = outcome.steps[-1]
    return last.kind == "rule" and not last.foreign


def _step_lines(steps: Iterable[Step], indent: str) -> Iterator[str]:
    for step in steps:
        place = f"{step.table} {step.chain}" if step.table else step.kind
        number = f" rule {step.number}" if step.number else ""
        what = step.rule if step.foreign and step.rule else step.because
        verb = step.effect if step.certain else f"may match ({step.because}); then {step.effect}"
        whose = " (of another program)" if step.foreign else ""
        yield f"{indent}{f'{place}{number}{whose}':34} {f'{what}: ' if what else ''}{verb}"


def _source_text(trace: Trace, branch: Branch) -> str:
    if branch.is_masqueraded is None:
        return "cannot tell whether it is masqueraded"
    if branch.is_masqueraded:
        return f"masqueraded: sees {branch.source or 'an address of this node'} as the source"
    return f"not masqueraded: sees {branch.source or trace.packet.source} as the source"


def _real_servers(choices: tuple[RealServerChoice, ...]) -> str:
    shown = [_real_server(choice) for choice in choices[:_REAL_SERVERS_MAX]]
    more = len(choices) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _real_server(choice: RealServerChoice) -> str:
    where = " (this node)" if choice.is_here else ""
    return f"{join_host_port(choice.address, choice.port)} weight {choice.weight}{where}"
