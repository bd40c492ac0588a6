"""Chains and jumps by ``iptables-restore`` and ``iptables-save``, one process per family and run of steps.

Invariants:
- A table is committed atomically.
- One rejected step does not prevent the others.
- Applying a step again changes nothing (text.py), so what a failed restore had done already is harmless.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from errno import EAGAIN, EBUSY, EINVAL, ENOENT, EOPNOTSUPP, EPERM

from kubeproxy_py.kernel import Scope, table_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import Result, run
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.kernel.iptables.fingerprint import TableFingerprint, table_fingerprint
from kubeproxy_py.kernel.iptables.text import TABLES, count_jumps, our_lines, restore_text, saved_rows
from kubeproxy_py.model.rows import Chain, ChainSpec, Jump, Rows, Table
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.net import Family

_PRINTED_FORMS_MAX = 65536  # rules that iptables prints differently; beyond, forget all rather than grow

_ERRNOS = (  # iptables prints no errno: the first whose pattern matches its error text
    (re.compile(r"Set \S+ doesn't exist"), EINVAL),
    (re.compile(r"Couldn't load match|not supported|missing kernel module"), EOPNOTSUPP),
    (re.compile(r"Couldn't load target|does not exist|No chain/target/match"), ENOENT),
    (re.compile(r"busy|Too many links|not empty"), EBUSY),
    (re.compile(r"Permission denied|be root"), EPERM),
)
_HINTS = {
    EAGAIN: "another program holds the iptables lock, or the lock file cannot be opened for writing",
    EOPNOTSUPP: "a kernel module is missing: modprobe xt_set xt_ipvs xt_conntrack, ...",
    EPERM: "this needs the capability NET_ADMIN",
}
# The lock is held by another program, or /run/xtables.lock cannot be opened; no step is the cause.
_LOCK_ERROR = re.compile(rb"xtables.lock")
_SKIPPED_TABLE = re.compile(rb"# (Table `(?:nat|filter)' is incompatible)")  # iptables-nft-save, with exit code 0
# The program's name and its advice to read the manual.
_NOISE = re.compile(r"^ip6?tables\S* v\S+ \([^)]*\): |\s*Error occurred at line.*|\s*Try `.*")


class IptablesAdapter:
    """Reads and writes the chains and jumps of each family in *commands*.

    A normal write is not read back, because rules are written as ``iptables-save`` prints them.  A version of iptables
    may print a rule differently, though.  Then the rows read differ from the desired ones and an update is planned
    whose ``before`` is not what was written.  Only in this case the chain is read back right after the write, and the
    printed form of each rule is remembered: from then on ``read`` returns the rule as it was written.  So a different
    printed form costs one rewrite, and tampering is not mistaken for it: it would have to happen between the write
    and the read-back.
    """

    def __init__(self, commands: Iterable[IptablesCommands]) -> None:
        self._commands = {family_commands.family: family_commands for family_commands in commands}
        self._written: dict[Chain, ChainSpec] = {}
        self._written_forms: dict[str, str] = {}  # rule as iptables-save prints it -> rule as we wrote it
        self._saved_texts: dict[tuple[Family, Table], tuple[TableFingerprint, bytes]] = {}  # our lines at a fingerprint

    def scopes(self) -> list[Scope]:
        """Return the nat and filter tables of each family."""
        return [table_scope(family, table) for family in self._commands for table in TABLES]

    def read(self, scope: Scope) -> Rows:
        """Return our chains and jumps in the table of *scope*.  Raises KernelError."""
        family, table = next((f, t) for f in self._commands for t in TABLES if table_scope(f, t) == scope)
        rows = self._read_table(family, table)
        return {key: self._as_written(spec) if isinstance(spec, ChainSpec) else spec for key, spec in rows.items()}

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Apply Chain and Jump steps, each family separately; return those that failed."""
        return [failure for commands in self._commands.values() for failure in self._apply_family(commands, steps)]

    def close(self) -> None:
        """Do nothing; no resource is kept open."""

    def _apply_family(self, commands: IptablesCommands, steps: Sequence[Step]) -> list[StepFailure]:
        family_steps = [s for s in steps if isinstance(s.key, Chain | Jump) and s.key.family == commands.family]
        try:
            return self._apply_or_halve(commands, family_steps)
        except KernelError as error:
            return [StepFailure(step, error.errno, str(error)) for step in family_steps]

    def _apply_or_halve(self, commands: IptablesCommands, steps: Sequence[Step]) -> list[StepFailure]:
        """Restore *steps*; if that fails, restore each half, until every rejected step is isolated.

        Raises:
            KernelError: no restore can succeed now.
        """
        error = self._restore(commands, steps)
        if error is None:
            self._record_written(steps)
            return []
        if len(steps) == 1:
            return [_step_failure(steps[0], error)]
        half = len(steps) // 2
        return self._apply_or_halve(commands, steps[:half]) + self._apply_or_halve(commands, steps[half:])

    def _restore(self, commands: IptablesCommands, steps: Sequence[Step]) -> str | None:
        """Apply *steps* in one restore; return the error text, or None on success.

        Raises:
            KernelError: no restore can succeed now.
        """
        try:
            text = restore_text(steps, self._jump_counts(commands, steps))
        except ValueError as error:
            return str(error)
        if not text:
            return None
        result = run(commands.restore_argv(), stdin=text)
        if result.exit_code and _LOCK_ERROR.search(result.stderr):
            raise KernelError(_reason(result), errno=EAGAIN, hint=_HINTS[EAGAIN])
        return _reason(result) if result.exit_code else None

    def _jump_counts(self, commands: IptablesCommands, steps: Sequence[Step]) -> Counter[tuple[str, str, str]]:
        """Return how often each jump exists now; nothing is read if no step is a Jump, which is nearly always.

        Each table is read with ``-t``, because without it iptables-legacy-save reads the list of tables in /proc, which
        only root can.
        """
        tables = dict.fromkeys(step.key.table for step in steps if isinstance(step.key, Jump))
        return count_jumps(b"".join(self._saved(commands, table) for table in tables))

    def _record_written(self, steps: Sequence[Step]) -> None:
        """Record what was written; read back the tables whose rules were printed unexpectedly before."""
        unexpected: dict[tuple[Family, Table], list[Chain]] = {}
        for step in steps:
            if not isinstance(step.key, Chain):
                continue
            if step.verb == "update" and step.before != self._written.get(step.key):
                unexpected.setdefault((step.key.family, step.key.table), []).append(step.key)
            if isinstance(step.spec, ChainSpec) and step.verb != "delete":
                self._written[step.key] = step.spec
            else:
                self._written.pop(step.key, None)
        for (family, table), chains in unexpected.items():
            self._record_printed_forms(self._read_table(family, table), chains)

    def _record_printed_forms(self, printed_rows: Rows, chains: Iterable[Chain]) -> None:
        """Record how the rules of *chains*, which were written just now, are printed."""
        for chain in chains:
            written, printed = self._written.get(chain), printed_rows.get(chain)
            if written and isinstance(printed, ChainSpec) and len(written.rules) == len(printed.rules):
                pairs = zip(printed.rules, written.rules, strict=True)
                self._written_forms.update(pair for pair in pairs if pair[0] != pair[1])
        if len(self._written_forms) > _PRINTED_FORMS_MAX:
            self._written_forms.clear()

    def _as_written(self, spec: ChainSpec) -> ChainSpec:
        if not self._written_forms:
            return spec
        return ChainSpec(tuple(self._written_forms.get(rule, rule) for rule in spec.rules))

    def _read_table(self, family: Family, table: Table) -> Rows:
        return saved_rows(self._saved(self._commands[family], table), family, table)

    def _saved(self, commands: IptablesCommands, table: Table) -> bytes:
        """Return our lines of what iptables-save prints for *table*.  Raises KernelError.

        iptables-save is not run again while the table's fingerprint is unchanged, and not at all while the table has no
        chain of ours.
        """
        family = commands.family
        fingerprint = table_fingerprint(commands.backend, family, table)
        if fingerprint and not fingerprint.has_kube_chains:
            return b""
        known = self._saved_texts.get((family, table))
        if fingerprint and known and known[0] == fingerprint:
            return known[1]
        text = our_lines(_run_save([*commands.save, "-t", table]), table)
        # If the fingerprint has changed meanwhile, it may be older than the text.
        if fingerprint and fingerprint == table_fingerprint(commands.backend, family, table):
            self._saved_texts[family, table] = fingerprint, text
        return text


def _run_save(argv: Sequence[str]) -> bytes:
    """Return the output of iptables-save.

    Raises:
        KernelError: it failed, or it skipped the table as incompatible; such a table is not empty.
    """
    result = run(argv)
    if result.exit_code:
        raise KernelError(
            _reason(result), errno=_errno(result.error_text, EINVAL), hint="check that the table can be listed by hand"
        )
    if skipped := _SKIPPED_TABLE.search(result.stdout):
        raise KernelError(
            skipped[1].decode(), errno=EINVAL, hint="nft has added rules there that iptables cannot represent"
        )
    return result.stdout


def _step_failure(step: Step, error_text: str) -> StepFailure:
    errno = _errno(error_text, EBUSY if step.verb == "delete" else EINVAL)
    hint = _HINTS.get(errno)
    return StepFailure(step, errno, f"{error_text} ({hint})" if hint else error_text)


def _errno(error_text: str, default: int) -> int:
    return next((errno for pattern, errno in _ERRNOS if pattern.search(error_text)), default)


def _reason(result: Result) -> str:
    """Return only the reason: without the program's name and its advice to read the manual."""
    return _NOISE.sub("", result.error_text) or result.error_text
