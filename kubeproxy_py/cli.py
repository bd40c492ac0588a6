"""The command line: finds the command and executes it; a failure becomes a line and an exit status.

Invariants:
- Without a command it is ``run``, so a kube-proxy command line works unchanged.
- Exit status: 0 success, 1 failure, 2 the command line or the configuration cannot be used (kube-proxy exits with 1 for
  both). A failure may be worth a retry; status 2 is not, until somebody fixes it. plan is as terraform's with
  ``-detailed-exitcode``: 0 nothing to change, 1 any error, 2 changes. doctor: 0 well, 1 it could not look everywhere,
  2 something is wrong. 141: nobody reads the output any more.
- Help and ``--version`` import nothing heavy. Modules of a command are imported when it is executed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubeproxy_py import __version__
from kubeproxy_py.commands import output
from kubeproxy_py.commands.exit_status import FAILED, INTERRUPTED, READER_GONE, SUCCESS, UNUSABLE
from kubeproxy_py.commands.help import extra_argument_error, help_text, parser_of, unknown_command_error
from kubeproxy_py.commands.table import COMMANDS, PROGRAM
from kubeproxy_py.config.errors import ConfigError, error_text

if TYPE_CHECKING:
    from argparse import Namespace

_VERSION_FLAGS = frozenset(("--version", "--version=true", "--version=raw"))  # kube-proxy accepts them anywhere


def main(argv: Sequence[str] | None = None) -> int:
    """Execute the command line, and return its exit status."""
    try:
        try:
            return _main(argv)
        finally:
            output.flush()
    except output.ReaderGoneError:
        return READER_GONE
    except output.OutputError as error:
        output.print_to_stderr(f"error: {error}\n")
        return FAILED


def _main(argv: Sequence[str] | None) -> int:
    words = [_with_dashes(word) for word in (sys.argv[1:] if argv is None else argv)]
    if not _VERSION_FLAGS.isdisjoint(words):
        output.print_lines(f"{PROGRAM} {__version__}\n")
        return SUCCESS
    if words and words[0] in ("-h", "--help"):
        output.print_lines(help_text())
        return SUCCESS
    name = words.pop(0) if words and not words[0].startswith("-") else "run"
    if name not in COMMANDS:
        unknown_command_error(name)
        return UNUSABLE
    parser = parser_of(name)
    arguments, extra = parser.parse_known_args(words)
    if extra:
        extra_argument_error(name, parser, extra[0])
        return COMMANDS[name].unusable
    return _execute(name, arguments)


def _with_dashes(word: str) -> str:
    """Return ``--cluster_cidr=X`` as ``--cluster-cidr=X``: Kubernetes accepts both (WordSepNormalizeFunc)."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def _execute(name: str, arguments: Namespace) -> int:
    """Execute the command *name*, and return its exit status; a failure is one line in the log."""
    from kubeproxy_py.commands.execute import execute
    from kubeproxy_py.config.flag_parser import given_flags
    from kubeproxy_py.config.load import read_input
    from kubeproxy_py.hinted_error import HintedError

    try:
        return execute(name, read_input(given_flags(arguments)), arguments)
    except HintedError as error:  # of the kernel, or of a source
        import logging

        if logging.getLogger().handlers:
            logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - the message names the remedy, not the code
        else:  # the command needs no configuration, which sets up the log
            output.print_to_stderr(f"error: {error}\n")
        return FAILED
    except ConfigError as error:
        from kubeproxy_py import logging_setup

        logging_setup.flush()  # what was logged before comes first
        output.print_to_stderr(f"{error_text(error)}\n")  # the log may not be set up yet
        return COMMANDS[name].unusable
    except KeyboardInterrupt:
        return INTERRUPTED
