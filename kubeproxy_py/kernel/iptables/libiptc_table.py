"""One legacy table by python-iptables: lines of a restore -> one commit.

Law: a table is committed as one or not at all, and nothing of the library's own habits is left to chance.  What
python-iptables 1.2 would do to us, and what keeps it from it:

- When libxtables complains, it throws past Python's frames, so that the interpreter crashes, or counts them for ever
  and after a thousand has no depth left to call anything.  Rules are checked before they come here; should one still
  be refused, as when its set went just now, the throw stays within C (``_let_c_throw``).
- ``append_rule`` has each match print itself on this process's descriptor 1 and reads that back, so lines that other
  threads write meanwhile are lost: entries are put together here and given to libiptc directly.
- To know a chain from a target it opens all five tables, which makes them: our rules know the table at hand alone.
- An interface of an IPv6 rule gets a mask of bytes 0x01, so that others match too: it is set here.
- libxtables keeps of libxt_NAT.so only what is for the family that asked first: with iptables 1.8.9 IPv6 rules have no
  MASQUERADE then.  That is told by MissingExtensionError, for the caller to take another way.

Source: iptc/{ip4tc,ip6tc,xtables}.py and libxtwrapper/wrapper.c of python-iptables 1.2.0; libxtables/xtables.c.
"""

import re
from collections.abc import Sequence
from ctypes import cast
from errno import EAGAIN, ENOPROTOOPT
from typing import Any

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.iptables.rule_parser import NOT, Line, Option, ParsedRule
from kubeproxy_py.model.services import Family

_INVERT_INTERFACE = 0x01  # IPT_INV_VIA_IN, IP6T_INV_VIA_IN


class MissingExtensionError(Exception):
    """The library finds no such match or target; ``iptables-restore`` may."""


class IptcError(Exception):
    """libxtables, libiptc or the kernel does not take it; the table is as it was."""


class LegacyTable:
    """One table, for one commit; to be used while the lock of iptables is held."""

    def __init__(self, iptc: Any, family: Family, name: str) -> None:
        """*iptc* is what ``load_library`` gave.  Raises KernelError if the kernel doesn't have the table."""
        self._iptc = iptc
        table, rule = (iptc.Table, iptc.Rule) if family == "IPv4" else (iptc.Table6, iptc.Rule6)
        try:
            self._table = table(name, autocommit=False)  # the same object each time, so what it holds is old
            self._table.refresh()
        except iptc.IPTCError as error:
            raise KernelError(
                _said(error), errno=ENOPROTOOPT, hint=f"modprobe iptable_{name} ip6table_{name}"
            ) from None
        self._new_rule = type("RuleOfOneTable", (rule,), {"tables": [self._table]})

    def commit(self, lines: Sequence[Line]) -> None:
        """Do what *lines* say, all at once.  Raises MissingExtensionError or RefusedError; nothing is done then."""
        try:
            for line in lines:
                self._carry_out(line)
            self._table.commit()
        except self._iptc.IPTCError as error:
            if "temporarily unavailable" in _said(error):
                raise KernelError(_said(error), errno=EAGAIN, hint="some program writes without the lock") from None
            raise IptcError(_said(error)) from None
        finally:
            self._table.close()

    def _carry_out(self, line: Line) -> None:
        table, chain = self._table, line.chain
        rule: Any = self._rule(line.rule) if line.rule else None
        match line.command:
            case ":" if table.is_chain(chain):
                table.flush_entries(chain)
            case ":":
                table.create_chain(chain)
            case "-X":
                table.delete_chain(chain)
            case "-A":
                table.append_entry(chain, rule.rule)
            case "-I":
                table.insert_entry(chain, rule.rule, 0)
            case "-D":
                table.delete_entry(chain, rule.rule, rule.mask)

    def _rule(self, words: ParsedRule) -> Any:
        """The rule, checked by its extensions."""
        if words.target.startswith("KUBE-") and not self._table.is_chain(words.target):
            raise IptcError(f"chain {words.target} does not exist")
        rule = self._new_rule()
        if words.source:
            rule.src = words.source
        if words.protocol:
            rule.protocol = words.protocol
        if words.in_interface:
            _set_interface(rule.get_ip(), words.in_interface)
        for name, options in words.matches:
            rule.add_match(self._extension(self._iptc.Match, rule, name, options))
        rule.target = self._extension(self._iptc.Target, rule, words.target, words.target_options)
        return rule

    def _extension(self, kind: Any, rule: Any, name: str, options: Sequence[Option]) -> Any:
        """A match or target of *rule* with its options.

        It is checked at once, for what libxtables knows of its options is forgotten when the next one is made.
        """
        try:
            made = kind(rule, name)
        except self._iptc.XTablesError as error:
            raise MissingExtensionError(str(error)) from None
        try:
            for option, values in options:
                made.set_parameter(option, list(values))
            made._final_check()  # not final_check, which has it print itself
        except (self._iptc.XTablesError, ValueError, AttributeError) as error:
            raise IptcError(f"{name}: {_said(error)}") from None
        return made


def load_library() -> Any:
    """The package iptc, made safe.  Raises KernelError if it isn't installed, or finds no libraries.

    Loading it runs some processes (modprobe, ldconfig), once.
    """
    try:
        import iptc
        from iptc import xtables
    except ImportError as error:
        hint = "pip install 'kubeproxy-py[libiptc]', or use --iptables-backend=restore"
        raise KernelError(f"python-iptables can't be loaded: {error}", hint=hint) from None
    except Exception as error:  # it looks for its libraries while it is loaded, and fails by whatever comes then
        hint = "apt-get install iptables, or use --iptables-backend=restore"
        raise KernelError(f"python-iptables finds no libxtables or libiptc: {error}", hint=hint) from None
    _let_c_throw(xtables)
    return iptc


def _let_c_throw(xtables: Any) -> None:
    """Have libxtables end a refused parse by the longjmp in the wrapper's C, with no frame of Python between."""
    xtables._xt_globals.exit_err = cast(xtables._throw, xtables._EXIT_FN)


def _set_interface(ip: Any, interface: str) -> None:
    """The interface by which a packet comes in; ``+`` at the end stands for any rest (libxtables, parse_interface)."""
    name = interface.removeprefix(NOT)
    ip.invflags |= _INVERT_INTERFACE * (name != interface)
    ip.iniface = name.encode()
    ip.iniface_mask = b"\xff" * (len(name) - 1 if name.endswith("+") else len(name) + 1)


def _said(error: Exception) -> str:
    """What the library said; some of it is passed on as bytes."""
    return re.sub(r"b'(.*?)'", r"\1", str(error))
