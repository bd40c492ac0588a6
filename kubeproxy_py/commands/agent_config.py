"""The configuration, and the objects, of the running agent, for commands that look themselves.

Invariants:
- Without flags it is the agent's configuration, complete: a plan of this command is the agent's.
- Flags with the agent's own values change nothing.  Others are used, and a warning names how they differ.
- Without an agent, everything is as the flags say.
"""

import logging
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from kubeproxy_py import __version__
from kubeproxy_py.commands.agent_client import NoAgentError, RefusedError, ask, socket_path
from kubeproxy_py.commands.output import print_note
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import ConfigInput, LoadedConfig, from_fields
from kubeproxy_py.diagnose.document import Config
from kubeproxy_py.diagnose.objects import UnusableObjectsError, decode_objects
from kubeproxy_py.diagnose.state import settings_in
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import Event, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.peers import PeerNeeds
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import FEEDS, EventHandler, SourceError

_OWN = ("logging.", "debugSocket", "writeConfigTo", "cleanup", "initOnly")  # of this command, not of what it looks at

log = logging.getLogger(__name__)


class Chosen(Struct, frozen=True, gc=False):
    """The configuration of a command.

    Attributes:
        loaded: The configuration.
        path: The socket of the agent whose configuration it is; "": it is that of the flags.
    """

    loaded: LoadedConfig
    path: str = ""

    def source(self) -> "AgentSource | None":
        """Return the agent as a source of objects; None if its configuration is not used."""
        return AgentSource(self.path) if self.path else None


def choose(config_input: ConfigInput, own: LoadedConfig, failure: NoAgentError | None = None) -> Chosen:
    """Return the configuration of the running agent, or *own*, that of the flags; print to standard error which it is.

    With a *failure* the agent was asked before, and has not answered: it is not waited for again.
    """
    path = socket_path(config_input.flags)
    if not path:
        return Chosen(own)
    given = [field for field in own.given_fields if not field.startswith(_OWN)]
    try:
        if failure:
            raise failure
        found, source = _ask_config(path)
    except NoAgentError as error:
        if not given:
            print_note(f"{error}; the configuration is that of the flags")
        return Chosen(own)
    different = sorted(_differences(own, found, given))
    if not different:
        print_note(f"configuration and objects of the running agent ({path}; {source})")
        return Chosen(found, path)
    log.warning("The flags differ from the running agent, and are used", extra=values(differing="; ".join(different)))
    return Chosen(own)


def _ask_config(path: str) -> tuple[LoadedConfig, str]:
    """Return the configuration of the agent, and its source in words.  Raises NoAgentError."""
    try:
        document = msgspec.json.decode(ask(path, "/v1/config", {}), type=Config)
        return from_fields(document.config, document.settings), document.source
    except (RefusedError, ConfigError, msgspec.MsgspecError) as error:
        raise NoAgentError(f"the configuration of the agent at {path} cannot be read: {error}") from None


def _differences(own: LoadedConfig, agents: LoadedConfig, paths: list[str]) -> Iterator[str]:
    """Yield in which of *paths* the two differ, in words."""
    here, there = _settings_of(own), _settings_of(agents)
    for path in paths:
        if here.get(path) != there.get(path):
            yield f"{path} is {here.get(path) or 'empty'}, the agent's {there.get(path) or 'empty'}"


def _settings_of(loaded: LoadedConfig) -> dict[str, str]:
    return {**dict(settings_in(loaded.config)), **dict(settings_in(loaded.agent))}


def _problems_of(event: Event) -> Iterator[Problem]:
    match event:
        case ServiceUpserted(service=service):
            where, texts = f"Service {service.name}", service.problems
        case SliceUpserted(slice=part):
            where, texts = f"EndpointSlice {part.name}", part.problems
        case _:
            return
    for text in texts:
        yield Problem(where, "", text, "", is_warning=True)


class AgentSource:
    """The objects of the agent that listens at *path*, for commands that run once; see Source."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read_once(self, timeout_s: float, on_problem: Callable[[Problem], None]) -> list[Event]:
        """Return all objects; one that is rejected is an error, what was left out of one a warning.

        Raises SourceError.
        """
        try:
            events = decode_objects(ask(self._path, "/v1/objects", {}), __version__)
        except (NoAgentError, RefusedError, UnusableObjectsError) as error:
            raise SourceError(str(error), "give the flags of the agent, to list the objects again") from None
        rejected = [event for event in events if isinstance(event, Problem)]
        named = {problem.where.rpartition(": ")[2] for problem in rejected}
        warnings = [problem for event in events for problem in _problems_of(event) if problem.where not in named]
        for problem in (*rejected, *warnings):
            on_problem(problem)
        return [*events, *map(Synced, (*FEEDS, "peers"))]

    def start(self, emit: EventHandler) -> None:
        """Do nothing: a command reads once."""

    def watch_peers(self, needs: PeerNeeds, *, at_once: bool = False) -> None:
        """Do nothing: the agent's objects have its peers."""

    @staticmethod
    def rejected() -> tuple[Problem, ...]:
        """Return nothing: what is wrong with objects is among those that are read."""
        return ()

    def stop(self) -> None:
        """Do nothing."""
