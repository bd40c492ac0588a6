"""Commit lines of restore text to one legacy table by python-iptables.

Invariant: a table is committed atomically or not changed.

python-iptables 1.2 has habits that would harm the agent.  They are avoided as follows:

- When libxtables reports an error, it jumps past Python's stack frames, so that the interpreter crashes, or counts the
  frames as still running and after a thousand has no recursion depth left.  Rules are checked before they come here; if
  one is rejected nevertheless, as when its set was deleted just now, the jump stays within C
  (``_install_c_error_handler``).
- ``append_rule`` makes each match print itself to this process's file descriptor 1 and reads that back, so lines that
  other threads write meanwhile are lost.  Here entries are built and passed to libiptc directly.
- To distinguish a chain from a target it opens all five tables, which creates them.  Our rules know only their own
  table.
- The interface of an IPv6 rule gets a mask of bytes 0x01, so that other interfaces match too.  The mask is set here.
- libxtables keeps only those targets of libxt_NAT.so that are for the family requested first: with iptables 1.8.9, IPv6
  rules have no MASQUERADE then.  That raises MissingExtensionError, so that the caller uses iptables-restore.
- A target that it does not find, it registers once more; libxtables ends the process if it is registered already.
  Targets with which that happens are not looked up (``_ENDS_PROCESS``), and raise MissingExtensionError, too.

Source: iptc/{ip4tc,ip6tc,xtables}.py and libxtwrapper/wrapper.c of python-iptables 1.2.0; libxtables/xtables.c.
"""

import re
from collections.abc import Sequence
from ctypes import cast
from errno import EAGAIN, ENOPROTOOPT
from typing import Any

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.iptables.rule_parser import NOT, Line, Option, ParsedRule
from kubeproxy_py.model.kube_names import PREFIX
from kubeproxy_py.net import Family

_ENDS_PROCESS = frozenset(("DSCP",))  # not found for the family requested second, although registered for both

_INVERT_INTERFACE = 0x01  # IPT_INV_VIA_IN, IP6T_INV_VIA_IN


class MissingExtensionError(Exception):
    """The library cannot find a match or target; ``iptables-restore`` may."""


class IptcError(Exception):
    """libxtables, libiptc or the kernel rejected the lines; the table is unchanged."""


class LegacyTable:
    """One table, for one commit while the iptables lock is held.

    Args:
        iptc: What ``load_library`` returned.
        family: The family of the table.
        name: nat or filter.

    Raises:
        KernelError: The kernel does not have the table.
    """

    def __init__(self, iptc: Any, family: Family, name: str) -> None:
        self._iptc = iptc
        table_class, rule_class = (iptc.Table, iptc.Rule) if family == "IPv4" else (iptc.Table6, iptc.Rule6)
        try:
            # The library returns the same object each time, so its contents are old until refreshed.
            self._table = table_class(name, autocommit=False)
            self._table.refresh()
        except iptc.IPTCError as error:
            raise KernelError(
                _error_text(error), errno=ENOPROTOOPT, hint=f"modprobe iptable_{name} ip6table_{name}"
            ) from None
        self._new_rule = type("RuleOfOneTable", (rule_class,), {"tables": [self._table]})

    def commit(self, lines: Sequence[Line]) -> None:
        """Apply all *lines* atomically.

        Raises:
            MissingExtensionError: The library cannot find a match or target; nothing was changed.
            IptcError: A line was rejected; nothing was changed.
            KernelError: EAGAIN; another program changed the table without taking the lock.
        """
        try:
            for line in lines:
                self._apply(line)
            self._table.commit()
        except self._iptc.IPTCError as error:
            if "temporarily unavailable" in _error_text(error):
                hint = "another program writes iptables rules without taking the lock"
                raise KernelError(_error_text(error), errno=EAGAIN, hint=hint) from None
            raise IptcError(_error_text(error)) from None
        finally:
            self._table.close()

    def _apply(self, line: Line) -> None:
        table, chain = self._table, line.chain
        rule: Any = self._build_rule(line.rule) if line.rule else None
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

    def _build_rule(self, parsed: ParsedRule) -> Any:
        """Return the library's rule, checked by its extensions."""
        if parsed.target.startswith(PREFIX) and not self._table.is_chain(parsed.target):
            raise IptcError(f"chain {parsed.target} does not exist")
        rule = self._new_rule()
        if parsed.source:
            rule.src = parsed.source
        if parsed.destination:
            rule.dst = parsed.destination
        if parsed.protocol:
            rule.protocol = parsed.protocol
        if parsed.in_interface:
            _set_interface(rule.get_ip(), parsed.in_interface)
        for name, options in parsed.matches:
            rule.add_match(self._build_extension(self._iptc.Match, rule, name, options))
        rule.target = self._build_extension(self._iptc.Target, rule, parsed.target, parsed.target_options)
        return rule

    def _build_extension(self, extension_class: Any, rule: Any, name: str, options: Sequence[Option]) -> Any:
        """Return a match or target of *rule* with its options.

        It is checked immediately, because libxtables discards what it knows of its options when the next one is built.
        """
        if name in _ENDS_PROCESS:
            raise MissingExtensionError(f"{name} is left to iptables-restore")
        try:
            extension = extension_class(rule, name)
        except self._iptc.XTablesError as error:
            raise MissingExtensionError(str(error)) from None
        try:
            for option, values in options:
                extension.set_parameter(option, list(values))
            extension._final_check()  # not final_check, which makes it print itself
        except (self._iptc.XTablesError, ValueError, AttributeError) as error:
            raise IptcError(f"{name}: {_error_text(error)}") from None
        return extension


def load_library() -> Any:
    """Return the package iptc, made safe to use.

    Loading it runs some processes (modprobe, ldconfig), once.

    Raises:
        KernelError: It is not installed, or does not find its C libraries.
    """
    try:
        import iptc
        from iptc import xtables
    except ImportError as error:
        hint = "pip install 'kubeproxy-py[libiptc]', or use --iptables-backend=restore"
        raise KernelError(f"python-iptables cannot be loaded: {error}", hint=hint) from None
    except Exception as error:  # it searches its C libraries during the import, and raises any error that occurs then
        hint = "apt-get install iptables, or use --iptables-backend=restore"
        raise KernelError(f"python-iptables finds no libxtables or libiptc: {error}", hint=hint) from None
    _install_c_error_handler(xtables)
    return iptc


def _install_c_error_handler(xtables: Any) -> None:
    """Make libxtables end a failed parse by the longjmp in the wrapper's C code, with no Python frame in between."""
    xtables._xt_globals.exit_err = cast(xtables._throw, xtables._EXIT_FN)


def _set_interface(ip: Any, interface: str) -> None:
    """Set the input interface; a final ``+`` matches every name with this prefix (libxtables, parse_interface)."""
    name = interface.removeprefix(NOT)
    ip.invflags |= _INVERT_INTERFACE * (name != interface)
    ip.iniface = name.encode()
    ip.iniface_mask = b"\xff" * (len(name) - 1 if name.endswith("+") else len(name) + 1)


def _error_text(error: Exception) -> str:
    """Return the library's error text, parts of which are printed as bytes literals."""
    return re.sub(r"b'(.*?)'", r"\1", str(error))
