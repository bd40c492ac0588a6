"""Canonical lines: what the tools print, as lines that are equal exactly if the kernel states are equal.

Ignored is what depends on the time or on the version of a tool: packet counters, comments, `initval` and `bucketsize`
of a set.  The order of lines counts only within a chain, except in KUBE-IPVS-OUT-FILTER: kube-proxy writes its rules in
the order in which it processes Services, which varies, and all of them DROP.

A recording may be incomplete: kube-proxy creates its chains one by one, then fills all chains of a table at once.
Where that failed, it does not retry before the next event or period.  Such a table has every chain of kube-proxy but no
rule in any, which no settled state has (KUBE-FORWARD and KUBE-POSTROUTING are never empty).  What its chains should
contain was not recorded, so their rules are not compared; chains and jumps are, and the verdict mentions it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping

SYSCTLS = "sysctls.txt"
_COUNTERS = re.compile(r"\[\d+:\d+\]")
_UNORDERED = ("filter", "KUBE-IPVS-OUT-FILTER")
_VOLATILE_SET_OPTIONS = re.compile(r" (initval|bucketsize) \S+")


def canonical_lines(file: str, text: str) -> list[str]:
    """The canonical lines of *text*, the contents of *file* of a recording."""
    return _CANONICALIZERS[file](text)


def differences(expected: Mapping[str, list[str]], actual: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """By file: `-` lines that only the recording has, `+` lines that only the kernel has.  Equal files are omitted."""
    diffs = {}
    for file, lines in expected.items():
        not_recorded = tuple(f"{table} -A KUBE-" for table in incomplete_tables(file, lines))
        diffs[file] = _diff(lines, [line for line in actual[file] if not line.startswith(not_recorded)])
    return {file: diff for file, diff in diffs.items() if diff}


def incomplete_tables(file: str, lines: list[str]) -> list[str]:
    """The tables that have KUBE-* chains, but no rule in any of them, in the recorded *lines* of *file*."""
    if _CANONICALIZERS[file] is not _rules:
        return []
    declared = {line.split()[0] for line in lines if ":KUBE-" in line}
    return sorted(table for table in declared if not any(line.startswith(f"{table} -A KUBE-") for line in lines))


def _diff(expected: list[str], actual: list[str]) -> list[str]:
    diff = difflib.unified_diff(expected, actual, lineterm="", n=0)
    return [line for line in list(diff)[2:] if not line.startswith("@@")]


def _sorted_lines(text: str) -> list[str]:
    return sorted(line.rstrip() for line in text.splitlines() if line.strip())


def _sets(text: str) -> list[str]:
    return sorted(_VOLATILE_SET_OPTIONS.sub("", line) for line in _sorted_lines(text))


def _rules(text: str) -> list[str]:
    """Chains by table and name, each followed by its rules in order; every line begins with its table."""
    chains: dict[tuple[str, str], list[str]] = {}
    for table, line in _with_table(text):
        chain = line[1:].split()[0] if line.startswith(":") else line.split()[1]
        chains.setdefault((table, chain), []).append(f"{table} {line}")
    return [line for key, lines in sorted(chains.items()) for line in (sorted(lines) if key == _UNORDERED else lines)]


def _with_table(text: str) -> Iterator[tuple[str, str]]:
    """The lines of iptables-save that declare chains or rules, each with its table."""
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith((":", "-A ")):
            yield table, _COUNTERS.sub("[0:0]", line.rstrip())


_CANONICALIZERS: dict[str, Callable[[str], list[str]]] = {
    "ipvsadm-save.txt": _sorted_lines,
    "ipset-save.txt": _sets,
    "iptables-save.txt": _rules,
    "ip6tables-save.txt": _rules,
    "addresses.txt": _sorted_lines,
    "timeouts.txt": _sorted_lines,
    SYSCTLS: _sorted_lines,
}
FILES = tuple(_CANONICALIZERS)
"""The files of a recording; steps have no sysctls.txt, the last."""
