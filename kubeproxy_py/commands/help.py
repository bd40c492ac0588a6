"""The help of the program and of its commands, and errors of the command line, which suggest what was meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

from kubeproxy_py.commands import output
from kubeproxy_py.commands.table import COMMANDS, EXAMPLES, PROGRAM

if TYPE_CHECKING:
    from argparse import ArgumentParser


def help_text() -> str:
    """Return the help of the program, with every command."""
    commands = "\n".join(f"  {name:11} {command.summary}" for name, command in COMMANDS.items())
    return f"""\
A standalone node agent that implements kube-proxy's IPVS mode.

Usage: {PROGRAM} [COMMAND] [FLAGS]

Commands:
{commands}

The default command is run, which accepts every flag of kube-proxy.

Flags:
  -h, --help  Print this help and exit
  --version   Print the version and exit

{_examples_text(EXAMPLES)}

Use "{PROGRAM} COMMAND --help" for the flags and examples of a command.
"""


def parser_of(name: str) -> ArgumentParser:
    """Return the parser for the arguments of the command *name*; completion and manual pages are made from it."""
    from argparse import ArgumentParser, RawDescriptionHelpFormatter

    from kubeproxy_py.commands.arguments import add_arguments
    from kubeproxy_py.config.flag_parser import add_flags

    command = COMMANDS[name]

    class Parser(ArgumentParser):
        def error(self, message: str) -> NoReturn:
            _usage_error(message.removeprefix("argument "), "", (), _help_command(name))
            self.exit(command.unusable)

        def print_help(self, file: object = None) -> None:  # the library would not say that it cannot be written
            output.print_lines(self.format_help())

    parser = Parser(
        prog=f"{PROGRAM} {name}",
        usage=f"{PROGRAM} {name} {command.usage}".rstrip(),
        description=f"{command.summary}.\n\n{command.details}",
        epilog=_examples_text(command.examples),
        formatter_class=lambda prog: RawDescriptionHelpFormatter(prog, max_help_position=36),
        allow_abbrev=False,
    )
    add_arguments(parser, name)
    if command.has_flags:
        add_flags(parser, name)
    return parser


def _examples_text(examples: Iterable[tuple[str, str]]) -> str:
    lines = [f"  # {comment}\n  {PROGRAM} {arguments}".rstrip() for comment, arguments in examples]
    return "Examples:\n" + "\n\n".join(lines)


def _help_command(name: str = "") -> str:
    return f"{PROGRAM} {name} --help" if name else f"{PROGRAM} --help"


# Errors


def unknown_command_error(name: str) -> None:
    """Print that there is no command *name*."""
    _usage_error(f'unknown command "{name}"', name, COMMANDS, _help_command())


def extra_argument_error(name: str, parser: ArgumentParser, argument: str) -> None:
    """Print that the command *name*, which has this *parser*, has no use for *argument*."""
    if argument in COMMANDS:
        order = f"{PROGRAM} {argument} [FLAGS]"
        _usage_error(f'the command must come first: "{order}"', "", (), _help_command())
    elif not argument.startswith("-"):
        _usage_error(f'unexpected argument "{argument}"', argument, (), _help_command(name))
    else:
        flag = argument.partition("=")[0]
        known = [word for action in parser._actions for word in action.option_strings]
        _usage_error(f"unknown flag {flag}", flag, [*known, "--version"], _help_command(name))


def _usage_error(message: str, word: str, candidates: Iterable[str], help_command: str) -> None:
    """Print *message* with the one of *candidates* that is most like *word*."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(candidates), n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    output.print_usage_error(f"{message}{suggestion}", help_command)
