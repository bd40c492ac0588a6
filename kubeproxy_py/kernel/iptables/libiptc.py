"""Chains and jumps of legacy tables by python-iptables, within this process; opt-in, ``--iptables-backend=libiptc``.

Invariants:
- It differs from IptablesAdapter only in how it writes.  It commits the same restore text and reads by
  ``iptables-save``, so what was written is checked with the tool that people check it with.
- Nothing reaches the library that could crash it: rules are checked to be ours word by word (rule_parser.py), the sets
  that they name exist, and iptables' own lock is held during refresh and commit.  python-iptables does not lock, and
  under contention half of its commits then fail, and those of other programs too.

A change starts no process, with two exceptions: jumps, which are counted first, and a table that needs an extension
which the library cannot find, or must not look for, which is written by ``iptables-restore`` entirely.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from errno import ENOENT
from time import sleep

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipset.constants import IPSET_CMD_HEADER
from kubeproxy_py.kernel.ipset.encode import encode_set_name, message_type
from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter
from kubeproxy_py.kernel.iptables.backend import LOCK_WAIT_S, Backend, IptablesCommands
from kubeproxy_py.kernel.iptables.errors import LOCK, lock_held_error, lock_open_error
from kubeproxy_py.kernel.iptables.libiptc_table import IptcError, LegacyTable, MissingExtensionError, load_library
from kubeproxy_py.kernel.iptables.rule_parser import Line, parse_restore
from kubeproxy_py.kernel.iptables.text import TABLES, restore_text
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, Socket, message
from kubeproxy_py.model.rows import Table
from kubeproxy_py.model.steps import Step

_LOCK_POLL_S = 0.02


class LibiptcAdapter(IptablesAdapter):
    """IptablesAdapter that writes by python-iptables.

    Raises:
        KernelError: The node uses nf_tables, or the extra ``[libiptc]`` is not installed.
    """

    def __init__(
        self, commands: Iterable[IptablesCommands], backend: Backend, tables: Sequence[Table] = TABLES
    ) -> None:
        super().__init__(commands, tables)
        if backend != "legacy":  # writes would succeed, in tables that no packet passes
            raise KernelError(
                "libiptc supports legacy tables only, and this node uses nf_tables",
                hint="use --iptables-backend=restore",
            )
        self._iptc = load_library()

    def _restore(self, commands: IptablesCommands, steps: Sequence[Step]) -> str | None:
        """Apply *steps* by the library; return the error text, or None on success."""
        try:
            text = restore_text(steps, self._jump_counts(commands, steps))
            tables = parse_restore(text, commands.family)
        except ValueError as error:
            return str(error)
        if missing := first_missing_set(_set_names(tables.values())):
            return f"Set {missing} doesn't exist."  # in iptables' words, by which adapter.py finds the errno
        try:
            with xtables_lock():
                for table, lines in tables.items():
                    LegacyTable(self._iptc, commands.family, table).commit(lines)
        except MissingExtensionError:
            return super()._restore(commands, steps)
        except IptcError as error:
            return str(error)
        return None


@contextmanager
def xtables_lock() -> Iterator[None]:
    """Hold the lock that every legacy iptables takes.

    Source: iptables/xshared.c, xtables_lock.

    Raises:
        KernelError: EAGAIN; another program held the lock for LOCK_WAIT_S, or the lock file cannot be opened.
    """
    try:
        descriptor = os.open(LOCK, os.O_CREAT | os.O_RDONLY, 0o600)
    except OSError as error:
        raise lock_open_error(LOCK, error.errno or 0, error.strerror or str(error)) from None
    try:
        _acquire(descriptor)
        yield
    finally:
        os.close(descriptor)


def first_missing_set(names: Iterable[str]) -> str:
    """Return the first of *names* that is not a set of the kernel; "" if all exist.  Raises KernelError."""
    with closing(Socket(NETLINK_NETFILTER)) as netlink:
        for name in names:
            try:
                netlink.request(message(message_type(IPSET_CMD_HEADER), 0, encode_set_name(name)))
            except KernelError as error:
                if error.errno == ENOENT:
                    return name
                raise
    return ""


def _set_names(tables: Iterable[Sequence[Line]]) -> list[str]:
    return sorted({name for lines in tables for line in lines if line.rule for name in line.rule.set_names()})


def _acquire(descriptor: int) -> None:
    for _ in range(round(LOCK_WAIT_S / _LOCK_POLL_S)):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sleep(_LOCK_POLL_S)
    raise lock_held_error()
