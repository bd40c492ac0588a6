"""trace asked of the running agent; without one, and for what the kernel has, commands/trace.py looks itself."""

from typing import TYPE_CHECKING, Any

import msgspec

from kubeproxy_py.commands.agent_client import NoAgentError, RefusedError, ask, socket_path
from kubeproxy_py.commands.exit_status import FAILED
from kubeproxy_py.commands.output import print_json, print_lines, print_to_stderr
from kubeproxy_py.commands.status import Load, refusal_text

if TYPE_CHECKING:
    from argparse import Namespace

    from kubeproxy_py.commands.agent_config import Chosen
    from kubeproxy_py.config.load import ConfigInput

_UNUSABLE_ARGUMENT, _UNKNOWN_PAGE = 400, 404
_OWN_FLAGS = frozenset(("debug-socket", "logging-format", "v", "vmodule"))  # which say nothing of what is looked at


def trace(config_input: "ConfigInput", arguments: "Namespace", load: Load) -> int:
    """Print the way of a packet, and return the exit status, which docs/trace.md describes."""
    path, chosen, failure = socket_path(config_input.flags), None, None
    if path and not config_input.flags.keys() <= _OWN_FLAGS:
        chosen = _choose(config_input, load)
        path = chosen.path
    if path and not arguments.kernel:
        asked = {"from": arguments.sender, "to": arguments.target, "inInterface": arguments.in_iface}
        try:
            return _print(ask(path, "/v1/trace", asked), as_json=arguments.output == "json")
        except NoAgentError as error:
            failure = error  # which is said below
        except RefusedError as error:
            if error.status != _UNKNOWN_PAGE:
                help_text = 'See "kubeproxy-py trace --help".\n' if error.status == _UNUSABLE_ARGUMENT else ""
                print_to_stderr(f"{refusal_text(error)}\n{help_text}")
                return FAILED
    return _own_trace(chosen or _choose(config_input, load, failure), arguments)


def _print(content: bytes, *, as_json: bool) -> int:
    document: dict[str, Any] = msgspec.json.decode(content)
    if as_json:
        print_json(content.decode() + "\n")
    else:
        print_lines(document["text"])
    return int(document["exitStatus"])


def _choose(config_input: "ConfigInput", load: Load, failure: NoAgentError | None = None) -> "Chosen":
    from kubeproxy_py.commands.agent_config import choose

    return choose(config_input, load(), failure)


def _own_trace(chosen: "Chosen", arguments: "Namespace") -> int:
    from kubeproxy_py.commands.trace import TraceArguments, trace

    asked = TraceArguments(arguments.sender, arguments.target, arguments.in_iface)
    as_json = arguments.output == "json"
    return trace(chosen.loaded, asked, from_kernel=arguments.kernel, as_json=as_json, source=chosen.source())
