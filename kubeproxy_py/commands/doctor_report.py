"""What doctor prints: text for people, JSON for programs."""

from collections import Counter
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from kubeproxy_py.checks.check import Diagnosis, State, worst
from kubeproxy_py.commands.exit_status import COULD_NOT_LOOK, SUCCESS, WRONG

FORMAT = 1
"""The version of the document; raised when the meaning of a field changes."""

_STATUS: dict[State, int] = {"ok": SUCCESS, "warning": SUCCESS, "unknown": COULD_NOT_LOOK, "error": WRONG}
_NAME_WIDTH = 18
_LABEL_WIDTH = 8


class Entry(Struct, frozen=True, gc=False, rename="camel"):
    """One finding of a check; or the check itself, if it found nothing."""

    check: str
    state: State
    reason: str  # of the finding; "": none
    cause: str  # what is so; of an unknown one, why it could not look
    effect: str
    remedy: str
    evidence: str  # what was seen


class Document(Struct, frozen=True, gc=False, rename="camel"):
    """What doctor prints as JSON."""

    version: int
    state: State  # the worst of all checks
    exit_status: int
    checks: tuple[Entry, ...]


def entries_of(diagnosis: Diagnosis) -> Iterator[Entry]:
    """Yield an entry for each finding, and one for what could not be looked at; or one that says that all is well."""
    name, seen = diagnosis.check.name, diagnosis.seen
    for finding in diagnosis.findings:
        cause = ": ".join(part for part in (finding.subject, finding.cause) if part)
        yield Entry(name, finding.severity, finding.reason, cause, finding.message, finding.hint, seen)
    if diagnosis.unread:
        yield Entry(name, "unknown", "", f"could not look: {diagnosis.unread}", "", "", seen)
    elif not diagnosis.findings:
        yield Entry(name, "ok", "", "", "", "", seen)


def text_of(diagnosis: Diagnosis) -> str:
    """Return the lines of one check."""
    return "".join(_text(entry) for entry in entries_of(diagnosis))


def _text(entry: Entry) -> str:
    first = entry.reason or entry.cause or entry.evidence
    lines = [f"{entry.state:{_LABEL_WIDTH}} {entry.check:{_NAME_WIDTH}} {first}".rstrip()]
    if entry.reason:
        parts = {"cause": entry.cause, "effect": entry.effect, "remedy": entry.remedy, "seen": entry.evidence}
        lines += [f"{'':{_LABEL_WIDTH}} {label:{_LABEL_WIDTH}} {text}" for label, text in parts.items() if text]
    return "".join(f"{line}\n" for line in lines)


def state_of(diagnoses: tuple[Diagnosis, ...]) -> State:
    """Return the worst state of *diagnoses*."""
    return worst(diagnosis.state for diagnosis in diagnoses)


def exit_status(diagnoses: tuple[Diagnosis, ...]) -> int:
    """Return SUCCESS, COULD_NOT_LOOK or WRONG; warnings are no failure."""
    return _STATUS[state_of(diagnoses)]


def summary_text(diagnoses: tuple[Diagnosis, ...]) -> str:
    """Return ``27 checks: 25 ok, 1 warning, 1 error``."""
    counts = Counter(diagnosis.state for diagnosis in diagnoses)
    parts = (f"{counts[state]} {state}" for state in _STATUS if counts[state])
    return f"{len(diagnoses)} checks: {', '.join(parts)}\n"


def report_json(diagnoses: tuple[Diagnosis, ...]) -> str:
    """Return the document, as indented JSON."""
    entries = tuple(entry for diagnosis in diagnoses for entry in entries_of(diagnosis))
    document = Document(FORMAT, state_of(diagnoses), exit_status(diagnoses), entries)
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
