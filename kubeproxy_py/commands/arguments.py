"""The arguments of each command, besides the flags of run.

It is imported when the parser of a command is made, not by the help of the program and ``--version``.
"""

from argparse import ArgumentParser
from collections.abc import Callable, Mapping

from kubeproxy_py.commands import argument_types
from kubeproxy_py.commands.table import SHELLS

_COLOURS = ("auto", "always", "never")


def add_arguments(parser: ArgumentParser, command: str) -> None:
    """Add the arguments of *command* to its *parser*."""
    if add := _ADD.get(command):
        add(parser)


def _plan(parser: ArgumentParser) -> None:
    compared = parser.add_mutually_exclusive_group()
    compared.add_argument("--assume-empty", action="store_true", help="compare with a kernel that has no rules yet")
    compared.add_argument(
        "--kernel-state", type=argument_types.file_name, metavar="FILE",
        help="compare with the kernel state that dump wrote to this file, of any host; -: standard input",
    )  # fmt: skip
    argument_types.add_choice(parser, "-o", "--output", ("text", "json", "diff"), "format of the plan")
    argument_types.add_choice(
        parser, "", "--color", _COLOURS, "colour the plan; auto: on a terminal, unless NO_COLOR is set"
    )
    parser.add_argument(
        "--hold", action="store_true", help="print a summary as the last line, NODE: ..., and wait for SIGTERM"
    )


def _status(parser: ArgumentParser) -> None:
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


def _explain(parser: ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="NAMESPACE/SERVICE[:PORT], ADDRESS[:PORT][/PROTOCOL] of a Service, the address or NAMESPACE/NAME of an "
        "endpoint's pod, a NodePort, a URL, or a name of the cluster's DNS",
    )
    argument_types.add_choice(parser, "-o", "--output", ("text", "json", "yaml"), "format")


def _top(parser: ArgumentParser) -> None:
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


def _doctor(parser: ArgumentParser) -> None:
    argument_types.add_choice(parser, "-o", "--output", ("text", "json"), "format of the report")


def _trace(parser: ArgumentParser) -> None:
    sender, target = "ADDRESS|outside|node|pod", "ADDRESS:PORT[/PROTOCOL]|NAMESPACE/SERVICE[:PORT]"
    parser.add_argument("--from", dest="sender", required=True, metavar=sender, help="who sends the packet")
    parser.add_argument("--to", dest="target", required=True, metavar=target, help="where it is sent")
    parser.add_argument(
        "--in-iface",
        default="",
        metavar="INTERFACE",
        help="interface by which it arrives (default that of the route back)",
    )
    parser.add_argument(
        "--kernel", action="store_true", help="trace what the kernel has now, with the rules of other programs"
    )
    argument_types.add_choice(parser, "-o", "--output", ("text", "json"), "format of the trace")


def _check(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--config-only", action="store_true", help="validate the configuration only, not manifests and the kubeconfig"
    )


def _dump(parser: ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=argument_types.file_name,
        metavar="FILE",
        nargs="?",
        default="-",
        help="where to write it; without it, or -: standard output",
    )


def _cleanup(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="also while an agent runs: no Service is served until it notices, and then it creates everything again",
    )
    parser.add_argument(
        "--extras",
        action="store_true",
        help="delete only what kube-proxy does not know (exact policies), and leave what it adopts; for the way back",
    )


def _completion(parser: ArgumentParser) -> None:
    parser.add_argument("shell", metavar="|".join(SHELLS), choices=SHELLS, help="the shell")


def _help(parser: ArgumentParser) -> None:
    parser.add_argument("command", metavar="COMMAND", nargs="?", default="", help="the command; without it, all")


_ADD: Mapping[str, Callable[[ArgumentParser], None]] = {
    "plan": _plan,
    "status": _status,
    "explain": _explain,
    "top": _top,
    "doctor": _doctor,
    "trace": _trace,
    "check": _check,
    "dump": _dump,
    "cleanup": _cleanup,
    "completion": _completion,
    "help": _help,
}
