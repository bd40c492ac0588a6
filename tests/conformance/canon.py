"""canon: what the tools print -> lines of which equal ones mean an equal kernel state.

Law: two texts have the same lines exactly if the states are the same but for what depends on the moment or the tool's
version: packet counters, comments, `initval` and `bucketsize` of a set.  Order counts inside a chain and nowhere else,
but for KUBE-IPVS-OUT-FILTER: kube-proxy writes its rules as it comes upon Services, in another order each time, and no
order makes a difference, since all of them DROP.

A recording may be torn: kube-proxy makes its chains one by one, then fills a table's all at once, and where that once
failed it does not try again before the next event or period.  Such a table has every chain of kube-proxy's and a rule
in none, which no settled state has (KUBE-FORWARD and KUBE-POSTROUTING are never empty).  What its chains should hold
was not recorded, so it is not compared; chains and jumps are, and whoever prints the result says so.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping

SYSCTLS = "sysctls.txt"
_COUNTERS = re.compile(r"\[\d+:\d+\]")
_UNORDERED = ("filter", "KUBE-IPVS-OUT-FILTER")
_VOLATILE_OF_SETS = re.compile(r" (initval|bucketsize) \S+")


def lines_of(file: str, text: str) -> list[str]:
    """The canonical lines of *text*, which is what *file* of a recording holds."""
    return _CANON[file](text)


def differences(expected: Mapping[str, list[str]], found: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """By file: `-` lines that only the recording has, `+` lines that only the kernel has.  Equal files are left out."""
    diffs = {}
    for file, lines in expected.items():
        not_recorded = tuple(f"{table} -A KUBE-" for table in torn_tables(file, lines))
        diffs[file] = _diff(lines, [line for line in found[file] if not line.startswith(not_recorded)])
    return {file: diff for file, diff in diffs.items() if diff}


def torn_tables(file: str, lines: list[str]) -> list[str]:
    """The tables that the recorded *lines* of *file* show with chains of kube-proxy's and no rule in any of them."""
    if _CANON[file] is not _rules:
        return []
    declared = {line.split()[0] for line in lines if ":KUBE-" in line}
    return sorted(table for table in declared if not any(line.startswith(f"{table} -A KUBE-") for line in lines))


def _diff(expected: list[str], found: list[str]) -> list[str]:
    diff = difflib.unified_diff(expected, found, lineterm="", n=0)
    return [line for line in list(diff)[2:] if not line.startswith("@@")]


def _sorted_lines(text: str) -> list[str]:
    return sorted(line.rstrip() for line in text.splitlines() if line.strip())


def _sets(text: str) -> list[str]:
    return sorted(_VOLATILE_OF_SETS.sub("", line) for line in _sorted_lines(text))


def _rules(text: str) -> list[str]:
    """Chains by table and name, each followed by its rules in their order; every line names its table."""
    chains: dict[tuple[str, str], list[str]] = {}
    for table, line in _with_table(text):
        chain = line[1:].split()[0] if line.startswith(":") else line.split()[1]
        chains.setdefault((table, chain), []).append(f"{table} {line}")
    return [line for key, lines in sorted(chains.items()) for line in (sorted(lines) if key == _UNORDERED else lines)]


def _with_table(text: str) -> Iterator[tuple[str, str]]:
    """The lines of iptables-save that declare chains or rules, each with the table it stands in."""
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith((":", "-A ")):
            yield table, _COUNTERS.sub("[0:0]", line.rstrip())


_CANON: dict[str, Callable[[str], list[str]]] = {
    "ipvsadm-save.txt": _sorted_lines,
    "ipset-save.txt": _sets,
    "iptables-save.txt": _rules,
    "ip6tables-save.txt": _rules,
    "addresses.txt": _sorted_lines,
    "timeouts.txt": _sorted_lines,
    SYSCTLS: _sorted_lines,
}
FILES = tuple(_CANON)
"""The files of a recording; the last is not recorded for steps."""
