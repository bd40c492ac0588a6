"""Chains and jumps of legacy tables by python-iptables, in this process; opt-in, ``--iptables-backend=libiptc``.

Law: it is IptablesAdapter in all but the writing.  It is told the same text and reads by ``iptables-save``, so what
was written is judged by the tool that people judge it by.  A change costs no process, but for jumps, which are counted
first, and for a table with something that the library can't find, which goes by ``iptables-restore`` whole.

Nothing reaches the library that it might not survive: rules are ours to the word (rule_words.py), the sets that they
name are there, and iptables' own lock is held around refresh and commit.  python-iptables takes none, and under
contention half of its commits then fail, and those of other programs too.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from errno import EAGAIN, ENOENT
from pathlib import Path
from time import sleep

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipset.wire import encode_named, message_type
from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter
from kubeproxy_py.kernel.iptables.backend import Flavour, IptablesCommands
from kubeproxy_py.kernel.iptables.libiptc_table import IptcError, LegacyTable, MissingExtensionError, load_library
from kubeproxy_py.kernel.iptables.rule_parser import Line, restore_lines
from kubeproxy_py.kernel.iptables.text import restore_text
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, Socket, message
from kubeproxy_py.model.steps import Step

LOCK = Path("/run/xtables.lock")
_LOCK_WAIT_S = 5.0  # as iptables with -w 5
_LOCK_POLL_S = 0.02
_SET_HEADER = 12  # IPSET_CMD_HEADER, include/uapi/linux/netfilter/ipset/ip_set.h


class LibiptcAdapter(IptablesAdapter):
    """IptablesAdapter, writing by python-iptables.

    Raises KernelError if that can't be: the node uses nf_tables, or the extra isn't installed.
    """

    def __init__(self, programs: Iterable[IptablesCommands], flavour: Flavour) -> None:
        super().__init__(programs)
        if flavour != "legacy":  # it would succeed, and write where no packet comes by
            raise KernelError(
                "libiptc knows legacy tables alone, and this node uses nf_tables", hint="use --iptables-backend=restore"
            )
        self._iptc = load_library()

    def _restore(self, programs: IptablesCommands, steps: Sequence[Step]) -> str | None:
        """What the library complains of, or None if all was done."""
        try:
            text = restore_text(steps, self._jumps_present(programs, steps))
            tables = restore_lines(text, programs.family)
        except ValueError as error:
            return str(error)
        if absent := first_absent_set(_sets_named(tables.values())):
            return f"Set {absent} doesn't exist."
        try:
            with xtables_lock():
                for table, lines in tables.items():
                    LegacyTable(self._iptc, programs.family, table).commit(lines)
        except MissingExtensionError:
            return super()._restore(programs, steps)
        except IptcError as refused:
            return str(refused)
        return None


@contextmanager
def xtables_lock() -> Iterator[None]:
    """Hold the lock that each legacy iptables takes.  Raises KernelError EAGAIN if it isn't to be had within 5 s.

    Source: iptables/xshared.c, xtables_lock.
    """
    try:
        descriptor = os.open(LOCK, os.O_CREAT | os.O_RDONLY, 0o600)
    except OSError as error:
        raise KernelError(f"{LOCK}: {error.strerror}", errno=EAGAIN, hint="can it be written here?") from None
    try:
        _wait_for(descriptor)
        yield
    finally:
        os.close(descriptor)


def first_absent_set(names: Iterable[str]) -> str:
    """The first of the sets *names* that the kernel doesn't have; "" if it has all.  Raises KernelError."""
    netlink = Socket(NETLINK_NETFILTER)
    try:
        for name in names:
            netlink.ask(message(message_type(_SET_HEADER), 0, encode_named(name)))
    except KernelError as error:
        if error.errno == ENOENT:
            return name
        raise
    finally:
        netlink.close()
    return ""


def _sets_named(tables: Iterable[Sequence[Line]]) -> list[str]:
    return sorted({name for lines in tables for line in lines if line.rule for name in line.rule.sets()})


def _wait_for(descriptor: int) -> None:
    for _ in range(round(_LOCK_WAIT_S / _LOCK_POLL_S)):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sleep(_LOCK_POLL_S)
    raise KernelError(f"{LOCK} is held by another program", errno=EAGAIN, hint=f"waited {_LOCK_WAIT_S:g} s")
