"""Chains and jumps by ``iptables-restore`` and ``iptables-save``, one process a family and run.

Law: a table is committed as one or not at all, and a chain that is refused stays alone: where a restore fails, its
steps are halved until each that is at fault stands by itself, and all others are carried out.  Giving a step again
changes nothing (iptables_text.py), so what the failed restore had done already does no harm.

What is written is what ``iptables-save`` prints, so nothing is read after a normal write.  But should some iptables
print a rule in another way, then what is read differs from what is wanted, and is planned as an update whose
``before`` is not what we wrote.  Only then is the chain read back right after the write, and each rule that is
printed otherwise remembered: from then on ``read`` answers the rule as it was written.  So another printing costs
one rewrite, and tampering is never taken for it: it would have to happen between a write and its reading back.

A table whose mark (table_marks.py) is as it was is not printed again, and one without any chain of ours not at all.

The lock is iptables' own, waited for ``-w 5`` seconds.  Source: kube-proxy waits as long; iptables/xshared.c.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from errno import EAGAIN, EBUSY, EINVAL, ENOENT, EOPNOTSUPP, EPERM

from kubeproxy_py.kernel import Scope, table_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import Result, run
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.kernel.iptables.fingerprint import TableFingerprint, table_mark
from kubeproxy_py.kernel.iptables.text import TABLES, count_jumps, restore_text, saved_rows, what_concerns_us
from kubeproxy_py.model.rows import Chain, ChainSpec, Jump, Rows, Table
from kubeproxy_py.model.services import Family
from kubeproxy_py.model.steps import Step, StepFailure

_LOCK_WAIT_S = 5
_TIMEOUT_S = 30.0
_PRINTINGS_MAX = 65536  # rules that are printed in another way; beyond, begin anew rather than grow

_ERRNOS = (  # iptables tells no errno; the first that its words match
    (re.compile(r"Set \S+ doesn't exist"), EINVAL),
    (re.compile(r"Couldn't load match|not supported|missing kernel module"), EOPNOTSUPP),
    (re.compile(r"Couldn't load target|does not exist|No chain/target/match"), ENOENT),
    (re.compile(r"busy|Too many links|not empty"), EBUSY),
    (re.compile(r"Permission denied|be root"), EPERM),
)
_HINTS = {
    EAGAIN: "another program holds the lock of iptables, or it can't be opened for writing",
    EOPNOTSUPP: "a kernel module is missing: modprobe xt_set xt_ipvs xt_conntrack, ...",
    EPERM: "this needs the capability NET_ADMIN",
}
_LOCKED = re.compile(rb"xtables.lock")  # held by another, or /run/xtables.lock can't be opened: no step is at fault
_PASSED_OVER = re.compile(rb"# (Table `(?:nat|filter)' is incompatible)")  # iptables-nft-save, with exit code 0
_NOISE = re.compile(r"^ip6?tables\S* v\S+ \([^)]*\): |\s*Error occurred at line.*|\s*Try `.*")


class IptablesAdapter:
    """Chains and jumps of each family that *programs* name."""

    def __init__(self, programs: Iterable[IptablesCommands]) -> None:
        self._programs = {each.family: each for each in programs}
        self._written: dict[Chain, ChainSpec] = {}
        self._as_written: dict[str, str] = {}  # a rule as it is printed -> as we wrote it
        self._printed: dict[
            tuple[Family, Table], tuple[TableFingerprint, bytes]
        ] = {}  # what it said when it had that mark

    def scopes(self) -> list[Scope]:
        """nat and filter of each family."""
        return [table_scope(family, table) for family in self._programs for table in TABLES]

    def read(self, scope: Scope) -> Rows:
        """Our chains and jumps in the table of *scope*.  Raises KernelError."""
        family, table = next((f, t) for f in self._programs for t in TABLES if table_scope(f, t) == scope)
        rows = self._read_table(family, table)
        return {key: self._translated(spec) if isinstance(spec, ChainSpec) else spec for key, spec in rows.items()}

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Carry out Chain and Jump steps, each family by itself."""
        return [failed for programs in self._programs.values() for failed in self._apply_family(programs, steps)]

    def close(self) -> None:
        """Nothing to give back."""

    def _apply_family(self, programs: IptablesCommands, steps: Sequence[Step]) -> list[StepFailure]:
        mine = [s for s in steps if isinstance(s.key, Chain | Jump) and s.key.family == programs.family]
        try:
            return self._carry_out(programs, mine)
        except KernelError as error:
            return [StepFailure(step, error.errno, str(error)) for step in mine]

    def _carry_out(self, programs: IptablesCommands, steps: Sequence[Step]) -> list[StepFailure]:
        """Restore *steps*; halved where that fails.  Raises KernelError if no restore can succeed now."""
        complaint = self._restore(programs, steps)
        if complaint is None:
            self._remember(steps)
            return []
        if len(steps) == 1:
            return [_failed(steps[0], complaint)]
        half = len(steps) // 2
        return self._carry_out(programs, steps[:half]) + self._carry_out(programs, steps[half:])

    def _restore(self, programs: IptablesCommands, steps: Sequence[Step]) -> str | None:
        """What iptables-restore complains of, or None if all was done."""
        try:
            text = restore_text(steps, self._jumps_present(programs, steps))
        except ValueError as error:
            return str(error)
        if not text:
            return None
        result = run([*programs.restore, "--noflush", "-w", str(_LOCK_WAIT_S)], stdin=text, timeout_s=_TIMEOUT_S)
        if result.exit_code and _LOCKED.search(result.stderr):
            raise KernelError(_complaint(result), errno=EAGAIN, hint=_HINTS[EAGAIN])
        return _complaint(result) if result.exit_code else None

    def _jumps_present(self, programs: IptablesCommands, steps: Sequence[Step]) -> Counter[tuple[str, str, str]]:
        """How often each jump stands now; nobody is asked if no step is about jumps, which is nearly always.

        Table by table: which tables there are, as iptables-legacy-save asks without ``-t``, is told to root alone.
        """
        tables = dict.fromkeys(step.key.table for step in steps if isinstance(step.key, Jump))
        return count_jumps(b"".join(self._saved(programs, table) for table in tables))

    def _remember(self, steps: Sequence[Step]) -> None:
        """Note what was written; read back the tables in which something had been printed unexpectedly."""
        surprises: dict[tuple[Family, Table], list[Chain]] = {}
        for step in steps:
            if not isinstance(step.key, Chain):
                continue
            if step.verb == "update" and step.before != self._written.get(step.key):
                surprises.setdefault((step.key.family, step.key.table), []).append(step.key)
            if isinstance(step.spec, ChainSpec) and step.verb != "delete":
                self._written[step.key] = step.spec
            else:
                self._written.pop(step.key, None)
        for (family, table), chains in surprises.items():
            self._learn(self._read_table(family, table), chains)

    def _learn(self, printed: Rows, chains: Iterable[Chain]) -> None:
        """Remember how the rules of *chains*, written just now, are printed."""
        for chain in chains:
            ours, theirs = self._written.get(chain), printed.get(chain)
            if ours and isinstance(theirs, ChainSpec) and len(ours.rules) == len(theirs.rules):
                pairs = zip(theirs.rules, ours.rules, strict=True)
                self._as_written.update(pair for pair in pairs if pair[0] != pair[1])
        if len(self._as_written) > _PRINTINGS_MAX:
            self._as_written.clear()

    def _translated(self, spec: ChainSpec) -> ChainSpec:
        if not self._as_written:
            return spec
        return ChainSpec(tuple(self._as_written.get(rule, rule) for rule in spec.rules))

    def _read_table(self, family: Family, table: Table) -> Rows:
        return saved_rows(self._saved(self._programs[family], table), family, table)

    def _saved(self, programs: IptablesCommands, table: Table) -> bytes:
        """What iptables-save prints of *table*, as far as it concerns us; printed but once.  Raises KernelError."""
        family = programs.family
        mark = table_mark(programs.flavour, family, table)
        if mark and not mark.holds_ours:
            return b""
        known = self._printed.get((family, table))
        if mark and known and known[0] == mark:
            return known[1]
        text = what_concerns_us(_print([*programs.save, "-t", table]), table)
        if mark and mark == table_mark(programs.flavour, family, table):  # else it may be older than what was printed
            self._printed[family, table] = mark, text
        return text


def _print(argv: Sequence[str]) -> bytes:
    """What iptables-save prints.  Raises KernelError; also for a table that it passes over, for that isn't empty."""
    result = run(argv, timeout_s=_TIMEOUT_S)
    if result.exit_code:
        raise KernelError(_complaint(result), errno=_errno(result.complaint, EINVAL), hint="is the table usable?")
    if passed_over := _PASSED_OVER.search(result.stdout):
        raise KernelError(
            passed_over[1].decode(), errno=EINVAL, hint="nft has put rules there that iptables can't read"
        )
    return result.stdout


def _failed(step: Step, complaint: str) -> StepFailure:
    errno = _errno(complaint, EBUSY if step.verb == "delete" else EINVAL)
    hint = _HINTS.get(errno)
    return StepFailure(step, errno, f"{complaint} ({hint})" if hint else complaint)


def _errno(complaint: str, default: int) -> int:
    return next((errno for pattern, errno in _ERRNOS if pattern.search(complaint)), default)


def _complaint(result: Result) -> str:
    """The reason alone, without the program's name and its advice to read the manual."""
    return _NOISE.sub("", result.complaint) or result.complaint
