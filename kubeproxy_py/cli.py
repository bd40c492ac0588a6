"""The command line: run | plan | status | doctor | check | cleanup.

Invariants:
- Without a command it is ``run``, so a kube-proxy command line works unchanged.
- Exit status: 0 success, 1 failure, 2 the command line or the configuration cannot be used (kube-proxy exits with 1 for
  both). A failure may be worth a retry; status 2 is not, until somebody fixes it. doctor: 0 well, 1 it could not look
  everywhere, 2 something is wrong.
- Help and ``--version`` import nothing heavy. Modules of a command are imported when it is executed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from kubeproxy_py import __version__
from kubeproxy_py.commands.exit_status import FAILED, INTERRUPTED, SUCCESS, UNUSABLE
from kubeproxy_py.config.errors import ConfigError, error_text

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kubeproxy_py.config.load import ConfigInput, LoadedConfig

_PROGRAM = "kubeproxy-py"
_VERSION_FLAGS = frozenset(("--version", "--version=true", "--version=raw"))  # kube-proxy accepts them anywhere
_FLAGS_NOT_COMMANDS = ("help", "version")
_OTHER_FLAGS = ("--help", "--version", "--assume-empty", "--output")


class Command(NamedTuple):
    """A command of the command line."""

    summary: str  # one line, with a verb in the imperative
    details: str
    examples: tuple[tuple[str, str], ...]  # (comment, arguments)
    execute: Callable[[ConfigInput, Namespace], int]  # returns the exit status


def main(argv: Sequence[str] | None = None) -> int:
    """Execute the command line, and return its exit status."""
    words = [_with_dashes(word) for word in (sys.argv[1:] if argv is None else argv)]
    if not _VERSION_FLAGS.isdisjoint(words):
        print(f"{_PROGRAM} {__version__}")  # noqa: T201 - the requested output
        return SUCCESS
    if words and words[0] in ("-h", "--help"):
        print(_help_text())  # noqa: T201 - the requested output
        return SUCCESS
    name = words.pop(0) if words and not words[0].startswith("-") else "run"
    if name not in COMMANDS:
        words_for_it = (f"--{name}",) if name in _FLAGS_NOT_COMMANDS else COMMANDS
        return _usage_error(f'unknown command "{name}"', name, words_for_it, f"{_PROGRAM} --help")
    arguments, extra = _parser(name).parse_known_args(words)
    return _extra_argument_error(name, extra[0]) if extra else _execute(COMMANDS[name], arguments)


def _with_dashes(word: str) -> str:
    """Return ``--cluster_cidr=X`` as ``--cluster-cidr=X``: Kubernetes accepts both (WordSepNormalizeFunc)."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def _execute(command: Command, arguments: Namespace) -> int:
    """Execute *command*, and return its exit status; a failure is one line in the log."""
    from kubeproxy_py import logging_setup
    from kubeproxy_py.config.flag_parser import given_flags
    from kubeproxy_py.config.load import read_input
    from kubeproxy_py.kernel.errors import KernelError
    from kubeproxy_py.sources import SourceError

    try:
        return command.execute(read_input(given_flags(arguments)), arguments)
    except (KernelError, SourceError) as error:
        import logging

        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - the message names the remedy, not the code
        return FAILED
    except ConfigError as error:
        logging_setup.flush()  # what was logged before comes first
        print(error_text(error), file=sys.stderr)  # noqa: T201 - the log may not be set up yet
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED


# Help and errors


def _help_text() -> str:
    """Return the help of the program, with every command."""
    commands = "\n".join(f"  {name:9} {command.summary}" for name, command in COMMANDS.items())
    return f"""\
A standalone node agent that implements kube-proxy's IPVS mode.

Usage: {_PROGRAM} [COMMAND] [FLAGS]

Commands:
{commands}

The default command is run, which accepts every flag of kube-proxy.

Flags:
  -h, --help  Print this help and exit
  --version   Print the version and exit

Use "{_PROGRAM} COMMAND --help" for the flags and examples of a command."""


def _parser(name: str) -> ArgumentParser:
    """Return the parser for the arguments of the command *name*."""
    from argparse import ArgumentParser, RawDescriptionHelpFormatter

    from kubeproxy_py.config.flag_parser import add_flags

    command = COMMANDS[name]

    class Parser(ArgumentParser):
        def error(self, message: str) -> NoReturn:
            self.exit(_usage_error(message.removeprefix("argument "), "", (), f"{_PROGRAM} {name} --help"))

    parser = Parser(
        prog=f"{_PROGRAM} {name}",
        usage=f"{_PROGRAM} {name} [FLAGS]",
        description=f"{command.summary}.\n\n{command.details}",
        epilog=_examples_text(command),
        formatter_class=lambda prog: RawDescriptionHelpFormatter(prog, max_help_position=36),
        allow_abbrev=False,
    )
    if name == "plan":
        parser.add_argument("--assume-empty", action="store_true", help="compare with a kernel that has no rules yet")
        formats = ("text", "json")
        parser.add_argument(
            "-o", "--output", choices=formats, default="text", metavar="|".join(formats), help="format of the plan"
        )
    if name == "doctor":
        formats = ("text", "json")
        parser.add_argument(
            "-o", "--output", choices=formats, default="text", metavar="|".join(formats), help="format of the report"
        )
    add_flags(parser, name)
    return parser


def _examples_text(command: Command) -> str:
    lines = [f"  # {comment}\n  {_PROGRAM} {arguments}".rstrip() for comment, arguments in command.examples]
    return "Examples:\n" + "\n\n".join(lines)


def _extra_argument_error(name: str, argument: str) -> int:
    from kubeproxy_py.config.flags import FLAGS

    help_command = f"{_PROGRAM} {name} --help"
    if argument in COMMANDS:
        order = f"{_PROGRAM} {argument} [FLAGS]"
        return _usage_error(f'the command must come first: "{order}"', "", (), f"{_PROGRAM} --help")
    if not argument.startswith("-"):
        return _usage_error(f'unexpected argument "{argument}"', argument, (), help_command)
    flag = argument.partition("=")[0]
    return _usage_error(f"unknown flag {flag}", flag, [*map(str, FLAGS), *_OTHER_FLAGS], help_command)


def _usage_error(message: str, word: str, candidates: Iterable[str], help_command: str) -> int:
    """Print *message* with the candidate that is most like *word*, and return the exit status."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(candidates), n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    print(f'error: {message}{suggestion}\nSee "{help_command}".', file=sys.stderr)  # noqa: T201 - before the log
    return UNUSABLE


# Commands


def _load(config_input: ConfigInput) -> LoadedConfig:
    """Load the configuration, set up the log by it, and log its warnings.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    import logging

    from kubeproxy_py import logging_setup
    from kubeproxy_py.config.load import load

    loaded = load(config_input.flags, config_input.content)
    logging_setup.setup(loaded.config.logging.format, loaded.config.logging.verbosity)
    for warning in loaded.warnings:
        logging.getLogger(__name__).warning("%s", warning)
    return loaded


def _run(config_input: ConfigInput, _arguments: Namespace) -> int:
    """Run the proxy, or do what a flag of kube-proxy requests instead; the precedence is kube-proxy's."""
    from kubeproxy_py.commands.check import write_config
    from kubeproxy_py.commands.cleanup import cleanup
    from kubeproxy_py.commands.run import init_only, run

    loaded = _load(config_input)
    if loaded.agent.write_config_to:
        return write_config(loaded)
    if loaded.agent.cleanup:
        return cleanup(loaded)
    return init_only(loaded) if loaded.agent.init_only else run(loaded, config_input)


def _plan(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.plan import plan

    return plan(_load(config_input), assume_empty=arguments.assume_empty, as_json=arguments.output == "json")


def _status(config_input: ConfigInput, _arguments: Namespace) -> int:
    from kubeproxy_py.commands.status import status

    return status(_load(config_input))


def _doctor(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.doctor import doctor

    return doctor(_load(config_input), as_json=arguments.output == "json")


def _check(config_input: ConfigInput, _arguments: Namespace) -> int:
    from kubeproxy_py.commands.check import check

    return check(config_input)


def _cleanup(config_input: ConfigInput, _arguments: Namespace) -> int:
    from kubeproxy_py.commands.cleanup import cleanup

    return cleanup(_load(config_input))


_ALL_FLAGS = f'All flags of "{_PROGRAM} run" are accepted; those that do not matter here are not listed.'

COMMANDS: dict[str, Command] = {
    "run": Command(
        "Run the proxy: keep kernel state in sync with Services",
        "Exits on SIGTERM or SIGINT and leaves kernel state in place, so traffic continues. SIGHUP reads the\n"
        "configuration file again. Accepts every flag of kube-proxy.",
        (
            ("Run with kube-proxy's configuration file", "run --config=/var/lib/kube-proxy/config.conf"),
            ("Run without a file", "run --kubeconfig=/etc/kubernetes/proxy.conf --cluster-cidr=10.244.0.0/16"),
            ("Run without an API server, for the objects in a directory", "run --manifests=/etc/kubeproxy-py/services"),
            ("Apply sysctls and IPVS timeouts with privileges, then exit", "run --init-only"),
        ),
        _run,
    ),
    "plan": Command(
        "Print the changes that a sync would make now, without making them",
        f"Exits with 1 if an object, or a part of one, is rejected; the plan is of the others.\n{_ALL_FLAGS}",
        (
            ("Print what would change on this node", "plan --config=/var/lib/kube-proxy/config.conf"),
            ("Print all rules for the objects in a directory; needs no root", "plan --manifests=DIR --assume-empty"),
            ("Print the plan as JSON", "plan --config=/var/lib/kube-proxy/config.conf --output=json"),
        ),
        _plan,
    ),
    "status": Command(
        "Print the kernel's IPVS virtual servers with the names of their Services",
        _ALL_FLAGS,
        (
            ("Print virtual servers and connections", "status --config=/var/lib/kube-proxy/config.conf"),
            ("Name the Services of a directory", "status --manifests=/etc/kubeproxy-py/services"),
        ),
        _status,
    ),
    "doctor": Command(
        "Look for what is wrong on this host, with cause, effect and remedy",
        "Checks rights, kernel, sysctls, iptables, other service proxies and firewalls, bridges, connection tracking,\n"
        "the API server, clock and certificates; docs/doctor.md lists all checks. Changes nothing but loads modules.\n"
        "Exits with 0 if all is well (warnings are printed), 1 if a check could not look, 2 if something is wrong.\n"
        f"{_ALL_FLAGS}",
        (
            ("Look at this node", "doctor --config=/var/lib/kube-proxy/config.conf"),
            ("Look at a node without an API server", "doctor --manifests=/etc/kubeproxy-py/services"),
            ("Print the report as JSON, for a script", "doctor --kubeconfig=/etc/kubernetes/proxy.conf -o json"),
        ),
        _doctor,
    ),
    "check": Command(
        "Validate the configuration and report every problem",
        "Exits with 0 if the configuration is valid, else with 2. Needs no kernel and no API server.\n"
        f'All flags of "{_PROGRAM} run" are accepted and validated.',
        (
            ("Validate a configuration file", "check --config=/var/lib/kube-proxy/config.conf"),
            ("Validate flags", "check --ipvs-scheduler=mh --cluster-cidr=10.244.0.0/16,fd00::/56"),
        ),
        _check,
    ),
    "cleanup": Command(
        "Delete all kernel state that this agent or kube-proxy created",
        f"Other virtual servers, rules and sets are left in place. Stop the agent first.\n{_ALL_FLAGS}",
        (
            ("Delete everything", "cleanup"),
            ("Delete everything except virtual servers in a network", "cleanup --ipvs-exclude-cidrs=203.0.113.0/24"),
        ),
        _cleanup,
    ),
}
