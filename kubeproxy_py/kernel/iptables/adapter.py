"""Chains and jumps by ``iptables-restore`` and ``iptables-save``, one process per family and run of steps.

Invariants:
- A table is committed atomically.
- One rejected step does not prevent the others.
- Applying a step again changes nothing (text.py), so what a failed restore had done already is harmless.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from kubeproxy_py.kernel import Scope, table_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import run
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.kernel.iptables.errors import lock_error, reason, step_failure, unsupported_steps
from kubeproxy_py.kernel.iptables.fingerprint import TableFingerprint, table_fingerprint
from kubeproxy_py.kernel.iptables.read import UnprintableTableError, read_by_chain, save_table
from kubeproxy_py.kernel.iptables.text import TABLES, count_jumps, is_move, our_lines, restore_text, saved_rows
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.rows import Chain, ChainSpec, Jump, JumpSpec, Key, Rows, Table
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.net import Family

log = logging.getLogger(__name__)

_PRINTED_FORMS_MAX = 65536  # rules that iptables prints differently; beyond, forget all rather than grow


class IptablesAdapter:
    """Reads and writes the chains and jumps of each family in *commands*, in *tables*.

    A normal write is not read back, because rules are written as ``iptables-save`` prints them.  A version of iptables
    may print a rule differently, though.  Then the rows read differ from the desired ones and an update is planned
    whose ``before`` is not what was written.  Only in this case the chain is read back right after the write, and the
    printed form of each rule is remembered: from then on ``read`` returns the rule as it was written.  So a different
    printed form costs one rewrite, and tampering is not mistaken for it: it would have to happen between the write
    and the read-back.
    """

    def __init__(self, commands: Iterable[IptablesCommands], tables: Sequence[Table] = TABLES) -> None:
        self._tables = tables
        self._commands = {family_commands.family: family_commands for family_commands in commands}
        self._written: dict[Chain, ChainSpec] = {}
        self._written_forms: dict[str, str] = {}  # rule as iptables-save prints it -> rule as we wrote it
        self._saved_texts: dict[tuple[Family, Table], tuple[TableFingerprint, bytes]] = {}  # our lines at a fingerprint
        self._moves: Counter[Jump] = Counter()  # how often each jump was moved up
        self._unprintable: set[tuple[Family, Table]] = set()  # tables that iptables-save cannot print, as logged

    def scopes(self) -> list[Scope]:
        """Return the tables of each family."""
        return [table_scope(family, table) for family in self._commands for table in self._tables]

    def read(self, scope: Scope) -> Rows:
        """Return our chains and jumps in the table of *scope*.  Raises KernelError."""
        family, table = next((f, t) for f in self._commands for t in self._tables if table_scope(f, t) == scope)
        rows = self._read_table(family, table)
        return {key: self._as_written(spec) if isinstance(spec, ChainSpec) else spec for key, spec in rows.items()}

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Apply Chain and Jump steps, each family separately; return those that failed."""
        return [failure for commands in self._commands.values() for failure in self._apply_family(commands, steps)]

    def close(self) -> None:
        """Do nothing; no resource is kept open."""

    def _apply_family(self, commands: IptablesCommands, steps: Sequence[Step]) -> list[StepFailure]:
        family_steps = [s for s in steps if isinstance(s.key, Chain | Jump) and s.key.family == commands.family]
        failures = self._uncountable_jumps(commands, family_steps)
        ready = [step for step in family_steps if step.key not in failures]
        try:
            return [*failures.values(), *(self._apply_together(commands, ready) if ready else ())]
        except KernelError as error:
            return [*failures.values(), *(StepFailure(step, error.errno, str(error)) for step in ready)]

    def _uncountable_jumps(self, commands: IptablesCommands, steps: Sequence[Step]) -> dict[Key, StepFailure]:
        """Return a failure for each jump in a table that cannot be read; chains are written without reading."""
        failures: dict[Key, StepFailure] = {}
        jumps = [(step, step.key) for step in steps if isinstance(step.key, Jump)]
        for table in dict.fromkeys(jump.table for _, jump in jumps):
            try:
                self._saved(commands, table)
            except KernelError as error:
                failures |= {
                    jump: StepFailure(step, error.errno, str(error)) for step, jump in jumps if jump.table == table
                }
        return failures

    def _apply_together(self, commands: IptablesCommands, steps: Sequence[Step]) -> list[StepFailure]:
        """Restore *steps*; if that fails, set those aside that need what the kernel lacks, and bisect the rest.

        Those set aside are tried once more by themselves: the result of iptables-restore is authoritative, not the
        capability probe.

        Raises:
            KernelError: No restore can succeed now.
        """
        error = self._write(commands, steps)
        if error is None:
            return []
        unsupported = unsupported_steps(commands.backend, steps)
        if not unsupported:
            return self._halve(commands, steps, error)
        aside = [failure.step for failure in unsupported]
        others = [step for step in steps if step not in aside]
        failures = self._apply_or_halve(commands, others) if others else []
        if others and self._write(commands, aside) is None:
            return failures
        return failures + unsupported

    def _apply_or_halve(self, commands: IptablesCommands, steps: Sequence[Step]) -> list[StepFailure]:
        """Restore *steps*; if that fails, restore each half, until every rejected step is isolated.

        Raises:
            KernelError: No restore can succeed now.
        """
        error = self._write(commands, steps)
        return [] if error is None else self._halve(commands, steps, error)

    def _halve(self, commands: IptablesCommands, steps: Sequence[Step], error: str) -> list[StepFailure]:
        """Restore each half of *steps*, which failed together with *error*."""
        if len(steps) == 1:
            return [step_failure(steps[0], error)]
        half = len(steps) // 2
        return self._apply_or_halve(commands, steps[:half]) + self._apply_or_halve(commands, steps[half:])

    def _write(self, commands: IptablesCommands, steps: Sequence[Step]) -> str | None:
        """Apply *steps* in one restore and record them; return the error text, or None on success.

        Raises:
            KernelError: No restore can succeed now.
        """
        error = self._restore(commands, steps)
        if error is None:
            self._record_written(steps)
        return error

    def _restore(self, commands: IptablesCommands, steps: Sequence[Step]) -> str | None:
        """Apply *steps* in one restore; return the error text, or None on success.

        Raises:
            KernelError: No restore can succeed now.
        """
        try:
            text = restore_text(steps, self._jump_counts(commands, steps))
        except ValueError as error:
            return str(error)
        if not text:
            return None
        result = run(commands.restore_argv(), stdin=text)
        if not result.exit_code:
            return None
        if not_locked := lock_error(result.error_text):
            raise not_locked
        return reason(result)

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
                self._log_move(step)
                continue
            if step.verb == "update" and step.before != self._written.get(step.key):
                unexpected.setdefault((step.key.family, step.key.table), []).append(step.key)
            if isinstance(step.spec, ChainSpec) and step.verb != "delete":
                self._written[step.key] = step.spec
            else:
                self._written.pop(step.key, None)
        for (family, table), chains in unexpected.items():
            self._record_printed_forms(self._read_table(family, table), chains)

    def _log_move(self, step: Step) -> None:
        """Log that a jump was moved up: the first time, and then whenever the number of times has doubled."""
        if not isinstance(step.key, Jump) or not isinstance(step.before, JumpSpec) or not is_move(step):
            return
        self._moves[step.key] += 1
        times = self._moves[step.key]
        if times & (times - 1) == 0:
            log.warning(
                "Moved our jump above a jump of another program that takes packets to all local addresses, Service "
                "addresses included; if this repeats, that program moves its own jump as well: have it append instead",
                extra=values(jump=step.key, behind=step.before.behind, times=times),
            )

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
        text = self._list(commands, table)
        # If the fingerprint has changed meanwhile, it may be older than the text.
        if fingerprint and fingerprint == table_fingerprint(commands.backend, family, table):
            self._saved_texts[family, table] = fingerprint, text
        return text

    def _list(self, commands: IptablesCommands, table: Table) -> bytes:
        """Return our lines of *table*, as iptables-save prints them.  Raises KernelError."""
        try:
            return our_lines(save_table(commands, table), table)
        except UnprintableTableError as error:
            try:
                lines = read_by_chain(commands, table)
            except KernelError:
                raise error from None
            if (commands.family, table) not in self._unprintable:
                self._unprintable.add((commands.family, table))
                log.warning(
                    "iptables cannot print a table, because of a rule of another program; our own chains are read one "
                    "by one, and kept",
                    extra=values(family=commands.family, table=table, err=error),
                )
            return lines
