"""status: print where each Service is served, by which endpoints, and why not: as the running agent knows it."""

import sys
from collections.abc import Callable, Iterator, Mapping
from time import sleep
from typing import TYPE_CHECKING

import msgspec

from kubeproxy_py.commands import output
from kubeproxy_py.commands.agent_client import NoAgentError, RefusedError, ask, socket_path
from kubeproxy_py.commands.exit_status import FAILED, SUCCESS
from kubeproxy_py.diagnose.document import Document, State
from kubeproxy_py.terminal_text import printable, printable_json, printable_lines

if TYPE_CHECKING:
    from argparse import Namespace

    from kubeproxy_py.config.load import ConfigInput, LoadedConfig
    from kubeproxy_py.diagnose.snapshot import Snapshot
    from kubeproxy_py.diagnose.status_text import StatusText

_WATCH_PERIOD_S = 2.0
_AT_ONCE_S = 0.5  # a source that takes longer is not waited for before the kernel's state is printed
_UNKNOWN_PAGE = 404
_CLEAR = "\x1b[H\x1b[2J"

Load = Callable[[], "LoadedConfig"]
"""Loads the configuration of this command, which only looking without an agent needs."""


def status(config_input: "ConfigInput", arguments: "Namespace", load: Load) -> int:
    """Print the status, and return the exit status: FAILED if it is not complete."""
    parameters = _parameters(arguments)
    while True:
        for shown in _texts(config_input, parameters, arguments.output, load):
            if arguments.watch and sys.stdout.isatty():
                output.print_raw(_CLEAR)
            output.print_lines(shown.text)
            output.flush()
            if shown.is_empty and (hint := _hint(arguments)):
                output.print_note(hint)
            is_complete = not shown.problem
        if not arguments.watch:
            return SUCCESS if is_complete else FAILED
        sleep(_WATCH_PERIOD_S)


def _parameters(arguments: "Namespace") -> dict[str, str]:
    """Return the parameters of the document by the arguments of the command line."""
    everything = "true" if arguments.output != "text" else ""
    return {
        "namespace": arguments.namespace or "",
        "service": arguments.service or "",
        "address": arguments.address or "",
        "port": str(arguments.port or ""),
        "nodePort": str(arguments.node_port or ""),
        "realServers": everything,
        "connections": everything,
    }


def _hint(arguments: "Namespace") -> str:
    """Return how to name what nothing matches, if it is named in another way; "" if it is not."""
    service = arguments.service or ""
    if ":" in service or service.replace(".", "").isdecimal():
        return "give an address by --address, and a port by --port"
    if service and "/" not in service and not arguments.namespace:
        return "without a namespace it is default; give NAMESPACE/SERVICE"
    return ""


def _texts(config_input: "ConfigInput", parameters: Mapping[str, str], form: str, load: Load) -> "Iterator[StatusText]":
    """Yield the state as soon as it is known; a later one has more."""
    path, problem = socket_path(config_input.flags), ""
    if path:
        try:
            shown = _ask(path, parameters, form)
        except NoAgentError as error:
            problem = f"{error}; this is what this command sees itself"
        except RefusedError as error:
            raise SystemExit(printable(refusal_text(error))) from None
        else:
            if shown.has_read_kernel:
                yield shown
                return
            problem = f"the agent waits for {', '.join(shown.awaits)}; this is the state of the kernel"
    for state in _own_states(parameters, load(), problem):
        yield _rendered(state, form)


def _ask(path: str, parameters: Mapping[str, str], form: str) -> "StatusText":
    """Return what the agent shows.  The table of many Services is made by it: that spares two thirds of the time."""
    from kubeproxy_py.diagnose.status_text import StatusText

    if form == "text":
        try:
            return msgspec.json.decode(ask(path, "/v1/table", parameters), type=StatusText)
        except RefusedError as error:
            if error.status != _UNKNOWN_PAGE:  # of an older agent
                raise
    return _rendered(msgspec.json.decode(ask(path, "/v1/status", parameters), type=State), form)


def _own_states(parameters: Mapping[str, str], loaded: "LoadedConfig", why: str) -> Iterator[State]:
    """Yield what the kernel alone tells, if the source takes long, and what is known with it."""
    from kubeproxy_py.commands.own_view import SOURCE_TIMEOUT_S, OwnView
    from kubeproxy_py.diagnose.filters import ParameterError, parse_filter

    try:
        parse_filter(_given(parameters))
    except ParameterError as error:
        raise SystemExit(printable(f"error: {error}")) from None
    if why:
        output.print_note(why)
    view = OwnView(loaded)
    snapshot = view.complete(_AT_ONCE_S)
    if snapshot is None:
        if not parameters["realServers"]:  # text
            waiting = f"this is the kernel alone; waiting for {view.source}, {SOURCE_TIMEOUT_S:g} s at most"
            yield _own_state(view.kernel_snapshot(waiting), parameters)
            output.print_lines("\n")
        snapshot = view.wait()
    yield _own_state(snapshot, parameters)


def _own_state(snapshot: "Snapshot", parameters: Mapping[str, str]) -> State:
    from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
    from kubeproxy_py.server.documents import Kernel, status_page

    pieces = status_page(snapshot, _given(parameters), Kernel(IpvsAdapter), lambda: None)
    return msgspec.json.decode(b"".join(pieces), type=State)


def _given(parameters: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value}


def own_state(loaded: "LoadedConfig", parameters: Mapping[str, str]) -> State:
    """Return the state as this command sees it itself; it waits some seconds for the source.  Raises KernelError."""
    from kubeproxy_py.commands.own_view import OwnView

    return _own_state(OwnView(loaded).wait(), parameters)


def _rendered(state: State, form: str) -> "StatusText":
    from kubeproxy_py.diagnose.status_text import StatusText, render

    if text := encoded(state, form):
        agent = state.agent
        return StatusText(text, not state.services, agent.problem, agent.awaits, agent.has_read_kernel)
    return render(state, wide=form == "wide")


def encoded(document: Document, form: str) -> str:
    """Return *document* as JSON or YAML, safe for a terminal; "" for another format."""
    if form == "json":
        return printable_json(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
    if form == "yaml":
        import yaml

        content = msgspec.to_builtins(document)
        text = str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        return text if printable_lines(text) == text else str(yaml.safe_dump(content, sort_keys=False))
    return ""


def refusal_text(error: RefusedError) -> str:
    """Return the error of the agent, with what is like that which was asked for."""
    nearest = f"; did you mean {', '.join(error.nearest)}?" if error.nearest else ""
    return f"error: {error}{nearest}"
