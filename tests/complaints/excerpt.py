"""The part of an output that is about a complaint, without what differs from run to run.

Invariants:
  - Lines are left out only where `...` stands, or where they are other lines of a log or other checks of doctor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_LEFT_OUT = "  ..."
_KLOG = re.compile(r"^([IWEF])\d{4} \S+ +\d+ \S+\] ")
_VOLATILE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)"), "2026-01-02T03:04:05Z"),
    (re.compile(r"\(pid \d+\)"), "(pid 4711)"),
    (re.compile(r"\bLinux \d+\.\d+;"), "Linux 6.12;"),
    (re.compile(r"(seen +)Linux \d+\.\d+\b"), r"\1Linux 5.10"),
    (re.compile(r"\b\d+ of \d+ connections are tracked"), "130000 of 131072 connections are tracked"),
    (re.compile(r"\b[\d.]+ ms\b"), "5.0 ms"),
    (re.compile(r"(_ms=)[\d.]+"), r"\g<1>5.0"),
    (re.compile(r"(  -> \S+:\d+  .*  \d+)  \d+  \d+(  serving)"), r"\1  0  0\2"),
    (re.compile(r"(  -> \S+:\d+  .*  \d+  \d+)  \d+(  draining)"), r"\1  0\2"),
)


def excerpt(command: str, output: str, pick: str) -> str:
    """Return the lines of *output* of *command* that *pick* is about: a reason of doctor, a word of the log."""
    return normalized("".join(f"{line}\n" for line in _PARTS[command.split()[0] if command else ""](output, pick)))


def normalized(text: str) -> str:
    """Return *text* with one value for all times, pids, versions and durations."""
    for pattern, value in _VOLATILE:
        text = pattern.sub(value, text)
    return text


def _all(output: str, _pick: str) -> Iterable[str]:
    return output.splitlines()


def _log(output: str, pick: str) -> Iterable[str]:
    """The first line with *pick*, without time, pid and source."""
    return [_KLOG.sub(r"\1 ", line) for line in output.splitlines() if pick in line][:1]


def _doctor(output: str, pick: str) -> list[str]:
    """The check or the finding *pick*."""
    lines = output.splitlines()
    found = [number for number, line in enumerate(lines) if re.match(rf"\w+ +(\S+ +)?{re.escape(pick)}( |$)", line)]
    if not found:
        return []
    first = found[0]
    rest = next((n for n in range(first + 1, len(lines)) if not lines[n].startswith(" ")), len(lines))
    return lines[first:rest]


def _explain(output: str, _pick: str) -> list[str]:
    """What is wrong, the remedy, and the Service with its real servers."""
    head, separator, _ = output.partition("\nEndpoints")
    return [*head.splitlines(), _LEFT_OUT] if separator else output.splitlines()


def _trace(output: str, _pick: str) -> list[str]:
    """The packet, and what becomes of it."""
    lines = output.splitlines()
    first_step = next((number for number, line in enumerate(lines) if line.startswith("  ")), 1)
    last_step = max((number for number, line in enumerate(lines) if line.startswith("  ")), default=0)
    return [*lines[:first_step], _LEFT_OUT, *lines[last_step + 1 :]]


_PARTS: dict[str, Callable[[str, str], Iterable[str]]] = {
    "": _log,
    "doctor": _doctor,
    "explain": _explain,
    "trace": _trace,
    "status": _all,
    "check": _all,
}
