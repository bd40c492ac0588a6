"""The command line: run, and the commands for operators (COMMANDS).

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
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from kubeproxy_py import __version__
from kubeproxy_py.commands import output
from kubeproxy_py.commands.exit_status import COULD_NOT_LOOK, FAILED, INTERRUPTED, READER_GONE, SUCCESS, UNUSABLE
from kubeproxy_py.config.errors import ConfigError, error_text

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kubeproxy_py.config.load import ConfigInput, LoadedConfig

_PROGRAM = "kubeproxy-py"
_VERSION_FLAGS = frozenset(("--version", "--version=true", "--version=raw"))  # kube-proxy accepts them anywhere
_OUTPUT_FORMATS = ("text", "json", "diff")
_COLOURS = ("auto", "always", "never")
_SHELLS = ("bash", "zsh", "fish")


def _no_arguments(_parser: ArgumentParser) -> None:
    """Add nothing."""


class Command(NamedTuple):
    """A command of the command line."""

    summary: str  # one line, with a verb in the imperative
    details: str
    examples: tuple[tuple[str, str], ...]  # (comment, arguments)
    execute: Callable[[ConfigInput, Namespace], int]  # returns the exit status
    add_arguments: Callable[[ArgumentParser], None] = _no_arguments  # besides the flags of run
    has_flags: bool = True  # accepts the flags of run
    usage: str = "[FLAGS]"
    unusable: int = UNUSABLE  # exit status if the command line or the configuration cannot be used


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
        output.note(f"error: {error}\n")
        return FAILED


def _main(argv: Sequence[str] | None) -> int:
    words = [_with_dashes(word) for word in (sys.argv[1:] if argv is None else argv)]
    if not _VERSION_FLAGS.isdisjoint(words):
        return _print(f"{_PROGRAM} {__version__}\n")
    if words and words[0] in ("-h", "--help"):
        return _print(f"{_help_text()}\n")
    name = words.pop(0) if words and not words[0].startswith("-") else "run"
    if name not in COMMANDS:
        return _unknown_command(name)
    parser = parser_of(name)
    arguments, extra = parser.parse_known_args(words)
    if extra:
        _extra_argument_error(name, parser, extra[0])
        return COMMANDS[name].unusable
    return _execute(COMMANDS[name], arguments)


def _with_dashes(word: str) -> str:
    """Return ``--cluster_cidr=X`` as ``--cluster-cidr=X``: Kubernetes accepts both (WordSepNormalizeFunc)."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def _execute(command: Command, arguments: Namespace) -> int:
    """Execute *command*, and return its exit status; a failure is one line in the log."""
    from kubeproxy_py.config.flag_parser import given_flags
    from kubeproxy_py.config.load import read_input
    from kubeproxy_py.hinted_error import HintedError

    try:
        return command.execute(read_input(given_flags(arguments)), arguments)
    except HintedError as error:  # of the kernel, or of a source
        import logging

        if logging.getLogger().handlers:
            logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - the message names the remedy, not the code
        else:  # the command needs no configuration, which sets up the log
            output.note(f"error: {error}\n")
        return FAILED
    except ConfigError as error:
        from kubeproxy_py import logging_setup

        logging_setup.flush()  # what was logged before comes first
        output.note(f"{error_text(error)}\n")  # the log may not be set up yet
        return command.unusable
    except KeyboardInterrupt:
        return INTERRUPTED


def _print(text: str) -> int:
    output.say(text)
    return SUCCESS


# Help and errors


def _help_text() -> str:
    """Return the help of the program, with every command."""
    commands = "\n".join(f"  {name:11} {command.summary}" for name, command in COMMANDS.items())
    return f"""\
A standalone node agent that implements kube-proxy's IPVS mode.

Usage: {_PROGRAM} [COMMAND] [FLAGS]

Commands:
{commands}

The default command is run, which accepts every flag of kube-proxy.

Flags:
  -h, --help  Print this help and exit
  --version   Print the version and exit

{_examples_text(EXAMPLES)}

Use "{_PROGRAM} COMMAND --help" for the flags and examples of a command."""


def parser_of(name: str) -> ArgumentParser:
    """Return the parser for the arguments of the command *name*; completion and manual pages are made from it."""
    from argparse import ArgumentParser, RawDescriptionHelpFormatter

    from kubeproxy_py.config.flag_parser import add_flags

    command = COMMANDS[name]

    class Parser(ArgumentParser):
        def error(self, message: str) -> NoReturn:
            _usage_error(message.removeprefix("argument "), "", (), f"{_PROGRAM} {name} --help")
            self.exit(command.unusable)

        def print_help(self, file: object = None) -> None:  # the library would not say that it cannot be written
            output.say(self.format_help())

    parser = Parser(
        prog=f"{_PROGRAM} {name}",
        usage=f"{_PROGRAM} {name} {command.usage}".rstrip(),
        description=f"{command.summary}.\n\n{command.details}",
        epilog=_examples_text(command.examples),
        formatter_class=lambda prog: RawDescriptionHelpFormatter(prog, max_help_position=36),
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    if command.has_flags:
        add_flags(parser, name)
    return parser


def _examples_text(examples: Iterable[tuple[str, str]]) -> str:
    lines = [f"  # {comment}\n  {_PROGRAM} {arguments}".rstrip() for comment, arguments in examples]
    return "Examples:\n" + "\n\n".join(lines)


def _unknown_command(name: str) -> int:
    return _usage_error(f'unknown command "{name}"', name, COMMANDS, f"{_PROGRAM} --help")


def _extra_argument_error(name: str, parser: ArgumentParser, argument: str) -> int:
    help_command = f"{_PROGRAM} {name} --help"
    if argument in COMMANDS:
        order = f"{_PROGRAM} {argument} [FLAGS]"
        return _usage_error(f'the command must come first: "{order}"', "", (), f"{_PROGRAM} --help")
    if not argument.startswith("-"):
        return _usage_error(f'unexpected argument "{argument}"', argument, (), help_command)
    flag = argument.partition("=")[0]
    known = [word for action in parser._actions for word in action.option_strings]
    return _usage_error(f"unknown flag {flag}", flag, [*known, "--version"], help_command)


def _usage_error(message: str, word: str, candidates: Iterable[str], help_command: str) -> int:
    """Print *message* with the candidate that is most like *word*, and return the exit status."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(candidates), n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    output.note(f'error: {message}{suggestion}\nSee "{help_command}".\n')
    return UNUSABLE


# Commands


def _load(config_input: ConfigInput) -> LoadedConfig:
    """Load the configuration, set up the log by it, and log its warnings.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    from kubeproxy_py.commands.interactive import log_warnings
    from kubeproxy_py.config.load import load

    loaded = load(config_input.flags, config_input.content)
    logging_config = loaded.config.logging
    return log_warnings(loaded, logging_config.format, logging_config.verbosity)


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


def _load_interactive(config_input: ConfigInput) -> LoadedConfig:
    from kubeproxy_py.commands.interactive import load_interactive

    return load_interactive(config_input)


def _plan(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.agent_config import Chosen, choose
    from kubeproxy_py.commands.plan import PlanOptions, plan

    options = PlanOptions(arguments.assume_empty, arguments.kernel_state or "", arguments.output, arguments.color)
    if arguments.hold:
        from kubeproxy_py.commands.hold import plan_and_hold

        return plan_and_hold(config_input, options)
    own = _load_interactive(config_input)
    chosen = Chosen(own) if options.kernel_state else choose(config_input, own)  # which may be of another host
    return plan(chosen.loaded, options, chosen.source())


def _plan_arguments(parser: ArgumentParser) -> None:
    from kubeproxy_py.commands import argument_types

    compared = parser.add_mutually_exclusive_group()
    compared.add_argument("--assume-empty", action="store_true", help="compare with a kernel that has no rules yet")
    compared.add_argument(
        "--kernel-state", type=argument_types.file_name, metavar="FILE",
        help="compare with the kernel state that dump wrote to this file, of any host; -: standard input",
    )  # fmt: skip
    argument_types.add_choice(parser, "-o", "--output", _OUTPUT_FORMATS, "format of the plan")
    argument_types.add_choice(
        parser, "", "--color", _COLOURS, "colour the plan; auto: on a terminal, unless NO_COLOR is set"
    )
    parser.add_argument(
        "--hold", action="store_true", help="print a summary as the last line, NODE: ..., and wait for SIGTERM"
    )


def _status(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.status import status

    return status(config_input, arguments, lambda: _load_interactive(config_input))


def _status_arguments(parser: ArgumentParser) -> None:
    from kubeproxy_py.commands import argument_types

    parser.add_argument(
        "service", nargs="?", type=argument_types.object_name, metavar="[NAMESPACE/]SERVICE", help="only this Service"
    )
    parser.add_argument("-n", "--namespace", type=argument_types.object_name, help="only Services of this namespace")
    parser.add_argument(
        "--address",
        type=argument_types.address,
        metavar="IP",
        help="only where this address is a virtual or a real server",
    )
    parser.add_argument(
        "--port", type=argument_types.port, metavar="PORT", help="only where this is a port of a virtual or real server"
    )
    parser.add_argument("--node-port", type=argument_types.port, metavar="PORT", help="only this NodePort")
    argument_types.add_choice(
        parser, "-o", "--output", ("text", "wide", "json", "yaml"), "format; wide has more columns"
    )
    parser.add_argument("-w", "--watch", action="store_true", help="print again every two seconds, until interrupted")


def _explain(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.explain import explain

    return explain(config_input, arguments, lambda: _load_interactive(config_input))


def _explain_arguments(parser: ArgumentParser) -> None:
    from kubeproxy_py.commands import argument_types

    parser.add_argument(
        "target",
        metavar="TARGET",
        help="NAMESPACE/SERVICE[:PORT], ADDRESS[:PORT][/PROTOCOL] of a Service, the address or NAMESPACE/NAME of an "
        "endpoint's pod, a NodePort, a URL, or a name of the cluster's DNS",
    )
    argument_types.add_choice(parser, "-o", "--output", ("text", "json", "yaml"), "format")


def _top(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.top import top

    return top(config_input, arguments, lambda: _load_interactive(config_input))


def _top_arguments(parser: ArgumentParser) -> None:
    from kubeproxy_py.commands import argument_types
    from kubeproxy_py.diagnose.rates import SORTS

    parser.add_argument(
        "--sort", choices=SORTS, default="connections", metavar="|".join(SORTS), help="the first column"
    )
    parser.add_argument(
        "--filter", default="", metavar="WORDS", help="only Services of which a name or address has each of these words"
    )
    parser.add_argument("--real-servers", action="store_true", help="list the real servers of each Service")
    parser.add_argument(
        "--interval",
        type=argument_types.interval_s,
        metavar="SECONDS",
        help="between samples; default 2, with --once 6",
    )
    parser.add_argument("--once", action="store_true", help="print the rates of one interval, and exit")
    argument_types.add_choice(parser, "-o", "--output", ("text", "json"), "format, with --once")


def _doctor(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.agent_config import choose
    from kubeproxy_py.commands.doctor import doctor

    chosen = choose(config_input, _load_interactive(config_input))
    return doctor(chosen.loaded, as_json=arguments.output == "json")


def _doctor_arguments(parser: ArgumentParser) -> None:
    from kubeproxy_py.commands import argument_types

    argument_types.add_choice(parser, "-o", "--output", ("text", "json"), "format of the report")


def _trace(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.ask_trace import trace

    return trace(config_input, arguments, lambda: _load_interactive(config_input))


def _trace_arguments(parser: ArgumentParser) -> None:
    from kubeproxy_py.commands import argument_types

    sender, target = "ADDRESS|outside|node|pod", "ADDRESS:PORT[/PROTOCOL]|NAMESPACE/SERVICE[:PORT]"
    parser.add_argument("--from", dest="sender", required=True, metavar=sender, help="who sends the packet")
    parser.add_argument("--to", dest="target", required=True, metavar=target, help="where it is sent")
    parser.add_argument(
        "--in-iface", default="", metavar="INTERFACE", help="by which it arrives (default that of the route back)"
    )
    parser.add_argument(
        "--kernel", action="store_true", help="trace what the kernel has now, with the rules of other programs"
    )
    argument_types.add_choice(parser, "-o", "--output", ("text", "json"), "format of the trace")


def _check(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.check import check

    return check(config_input, config_only=arguments.config_only)


def _check_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--config-only", action="store_true", help="validate the configuration only, not manifests and the kubeconfig"
    )


def _dump(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.dump import dump
    from kubeproxy_py.commands.interactive import load_interactive

    return dump(load_interactive(config_input), arguments.file)


def _dump_arguments(parser: ArgumentParser) -> None:
    from kubeproxy_py.commands import argument_types

    parser.add_argument(
        "file",
        type=argument_types.file_name,
        metavar="FILE",
        nargs="?",
        default="-",
        help="where to write it; without it, or -: standard output",
    )


def _cleanup(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.cleanup import cleanup
    from kubeproxy_py.commands.interactive import load_interactive

    loaded = load_interactive(config_input, is_quiet=False)
    return cleanup(loaded, is_forced=arguments.force, only_extras=arguments.extras)


def _cleanup_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="also while an agent runs: no Service is served until it notices, and then everything is there again",
    )
    parser.add_argument(
        "--extras",
        action="store_true",
        help="delete only what kube-proxy does not know (exact policies), and leave what it adopts: before going back",
    )


def _completion(_config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.completion import script_of

    return _print(script_of(arguments.shell))


def _completion_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", metavar="|".join(_SHELLS), choices=_SHELLS, help="the shell")


def _help(_config_input: ConfigInput, arguments: Namespace) -> int:
    name = arguments.command
    if name and name not in COMMANDS:
        return _unknown_command(name)
    return _print(parser_of(name).format_help() if name else f"{_help_text()}\n")


def _help_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("command", metavar="COMMAND", nargs="?", default="", help="the command; without it, all")


def _version(_config_input: ConfigInput, _arguments: Namespace) -> int:
    return _print(f"{_PROGRAM} {__version__}\n")


_ALL_FLAGS = f'All flags of "{_PROGRAM} run" are accepted; those that do not matter here are not listed.'
_KUBECONFIG = "--kubeconfig has precedence over the configuration file, and the file over $KUBECONFIG."

EXAMPLES = (
    ("Validate a configuration before it is used", "check --config=/var/lib/kube-proxy/config.conf"),
    ("Print what the proxy would change on this node, and change nothing", "plan --config=FILE"),
    ("Run the proxy", "run --config=/var/lib/kube-proxy/config.conf"),
    ("Print what the kernel serves, by Service", "status --config=FILE"),
)

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
        "Exits with 0 if there is nothing to change, with 2 if there are changes, and with 1 after any error, also if\n"
        "an object, or a part of one, is rejected; the plan is of the others. The changes are grouped by Service;\n"
        f"JSON has them in the order of a sync. Has configuration and objects of the running agent, unless flags\n"
        f"differ; without one it waits 5 s for the API server.\n{_KUBECONFIG}\n{_ALL_FLAGS}",
        (
            ("Print what would change on this node", "plan"),
            ("Print all rules for the objects in a directory; needs no root", "plan --manifests=DIR --assume-empty"),
            ("Compare with the kernel state of another host, see dump", "plan --manifests=DIR --kernel-state=FILE"),
            ("Print the plan as JSON", "plan --config=/var/lib/kube-proxy/config.conf --output=json"),
        ),
        _plan,
        _plan_arguments,
        unusable=FAILED,
    ),
    "status": Command(
        "Print where each Service is served, by which endpoints, and why not",
        "Asks the running agent, which needs no flags; without one it looks at the kernel and the API server itself.\n"
        "The worst is printed first. Exits with 1 if not everything could be looked at.\n"
        f"{_KUBECONFIG}\n{_ALL_FLAGS}",
        (
            ("Print everything that this node serves", "status"),
            ("Print one Service, with its endpoints and connections", "status shop/web"),
            ("Print who has an address, as JSON", "status --address=203.0.113.7 --output=json"),
            ("Without an agent, name the Services of a directory", "status --manifests=/etc/kubeproxy-py/services"),
        ),
        _status,
        _status_arguments,
        usage="[[NAMESPACE/]SERVICE] [FLAGS]",
    ),
    "explain": Command(
        "Explain a Service, address or endpoint: what follows from it, and what is wrong",
        "Asks the running agent, which needs no flags; without one it looks at the kernel and the API server itself.\n"
        "Exits with 0 if all is well, 1 if the target is unknown or could not be looked at, 2 if something is wrong.\n"
        f"{_KUBECONFIG}\n{_ALL_FLAGS}",
        (
            ("Explain why a Service does not answer", "explain shop/web"),
            ("Explain one of its ports", "explain shop/web:http"),
            ("Find out who has an address and port, or a NodePort", "explain 203.0.113.7:443/tcp"),
            ("Find out why a pod gets no connections", "explain 10.244.1.5"),
        ),
        _explain,
        _explain_arguments,
        usage="TARGET [FLAGS]",
        unusable=FAILED,
    ),
    "doctor": Command(
        "Look for what is wrong on this host, with cause, effect and remedy",
        "Checks rights, kernel, sysctls, iptables, other service proxies and firewalls, bridges, connection tracking,\n"
        "the API server, clock and certificates; docs/doctor.md lists all checks. Changes nothing but loads modules.\n"
        "Has the configuration of the running agent, unless flags differ.\n"
        "Exits with 0 if all is well (warnings are printed), 1 if a check could not look, 2 if something is wrong.\n"
        f"{_ALL_FLAGS}",
        (
            ("Look at this node", "doctor"),
            ("Look at a node without an API server", "doctor --manifests=/etc/kubeproxy-py/services"),
            ("Print the report as JSON, for a script", "doctor --kubeconfig=/etc/kubernetes/proxy.conf -o json"),
        ),
        _doctor,
        _doctor_arguments,
        unusable=COULD_NOT_LOOK,
    ),
    "trace": Command(
        "Print what happens to a packet to a Service, rule by rule, and why",
        "Follows the first packet of a connection through the rules, sets and virtual servers that a sync would make;\n"
        "asks the running agent, which needs no flags. With --kernel through what the kernel has now. Exits with 0 if\n"
        "a real server or this node answers, with 2 if\n"
        f"the packet is rejected, dropped or sent elsewhere, with 1 if that cannot be told.\n{_ALL_FLAGS}",
        (
            ("See who answers a client outside of the cluster", "trace --from outside --to shop/web:http"),
            ("See why a client cannot connect", "trace --from 203.0.113.9 --to 192.0.2.80:443 --kernel"),
            ("Trace a DNS request of a pod", "trace --from pod --to 10.96.0.10:53/udp --manifests=DIR"),
            ("Print a ping of the node as JSON", "trace --from node --to 10.96.0.10/icmp -o json"),
        ),
        _trace,
        _trace_arguments,
        usage="--from SENDER --to TARGET [FLAGS]",
        unusable=FAILED,
    ),
    "top": Command(
        "Show the traffic of each Service and real server: connections, packets and bytes per second",
        "Reads the kernel's counters, so it needs root; names are those of the running agent, which needs no flags.\n"
        "Keys: s sort, r reverse, / filter, e real servers, p pause, q quit. Draining real servers are counted apart.\n"
        f"With --once it exits with 1 if Services could not be named.\n{_KUBECONFIG}\n{_ALL_FLAGS}",
        (
            ("Show which Services are busy", "top"),
            ("Show the real servers of one, by bytes", "top --filter=shop/web --real-servers --sort=bytes"),
            ("Print the rates of ten seconds as JSON", "top --once --interval=10 --output=json"),
        ),
        _top,
        _top_arguments,
    ),
    "check": Command(
        "Validate configuration, manifests and kubeconfig, and report every problem",
        "Exits with 0 if all of them can be used, and names them, with 2 if the configuration cannot, or nothing is\n"
        "named to check, and with 1 if an object of the manifests, or the kubeconfig, cannot. Needs no kernel and no\n"
        "API server.\n"
        f'{_KUBECONFIG}\nAll flags of "{_PROGRAM} run" are accepted and validated.',
        (
            ("Validate a configuration file", "check --config=/var/lib/kube-proxy/config.conf"),
            ("Validate flags", "check --ipvs-scheduler=mh --cluster-cidr=10.244.0.0/16,fd00::/56"),
            ("Validate the objects in a directory", "check --manifests=/etc/kubeproxy-py/services"),
            ("Validate a kubeconfig and the files that it names", "check --kubeconfig=/etc/kubernetes/proxy.conf"),
        ),
        _check,
        _check_arguments,
    ),
    "dump": Command(
        "Write the kernel state of this host to a file, as JSON",
        'For "plan --kernel-state" on another host, and for bug reports. Reads everything of the kernel that this\n'
        "agent or kube-proxy may have created, and changes nothing. Exits with 1 if a part cannot be read.\n"
        f"{_ALL_FLAGS}",
        (
            ("Write it to a file", "dump node-a.json"),
            ("Compare it elsewhere with the objects in a directory", "plan --kernel-state=node-a.json --manifests=DIR"),
        ),
        _dump,
        _dump_arguments,
        usage="[FILE] [FLAGS]",
    ),
    "cleanup": Command(
        "Delete all kernel state that this agent or kube-proxy created",
        "Other virtual servers, rules and sets are left in place. Stop the agent first: while one runs, cleanup is\n"
        f"refused, because the agent would create everything again.\n{_ALL_FLAGS}",
        (
            ("Delete everything", "cleanup"),
            ("Go back to kube-proxy after --policies=exact", "cleanup --extras"),
            ("Delete everything except virtual servers in a network", "cleanup --ipvs-exclude-cidrs=203.0.113.0/24"),
        ),
        _cleanup,
        _cleanup_arguments,
    ),
    "completion": Command(
        "Print the completion of this command line for a shell",
        "Completes commands, flags, values of flags that have a fixed choice, and names of files and directories.\n"
        f"To use it at once, in bash: source <({_PROGRAM} completion bash)",
        (
            ("Install it for bash", "completion bash > /etc/bash_completion.d/kubeproxy-py"),
            ("Install it for zsh", "completion zsh > /usr/local/share/zsh/site-functions/_kubeproxy-py"),
            ("Install it for fish", "completion fish > /etc/fish/completions/kubeproxy-py.fish"),
        ),
        _completion,
        _completion_arguments,
        has_flags=False,
        usage="|".join(_SHELLS),
    ),
    "help": Command(
        "Print the help of a command",
        'As "--help" behind the command.',
        (("Print all commands", "help"), ("Print flags and examples of a command", "help plan")),
        _help,
        _help_arguments,
        has_flags=False,
        usage="[COMMAND]",
    ),
    "version": Command(
        "Print the version",
        'As "--version", which is accepted everywhere.',
        (("Print the version", "version"),),
        _version,
        has_flags=False,
        usage="",
    ),
}
