"""Look at the kernel and the source without an agent, and return what an agent would know as a snapshot.

Invariants:
- What the kernel alone tells is there at once; nobody waits for an API server longer than SOURCE_TIMEOUT_S.
"""

import logging
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, time
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py import __version__, threads
from kubeproxy_py.commands.parts import Parts, log_problem, make_agent, make_parts, real_platform
from kubeproxy_py.diagnose.snapshot import About, Snapshot
from kubeproxy_py.kernel import read_scopes
from kubeproxy_py.model.events import Event, HostAddresses
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.reconcile.slow_starts import SlowStarts
from kubeproxy_py.reconcile.surroundings import gateways_event
from kubeproxy_py.reconcile.tunnel_rests import TunnelRests
from kubeproxy_py.reconcile.wall_clock import WallClock
from kubeproxy_py.sources import SourceError

if TYPE_CHECKING:
    from kubeproxy_py.config.load import LoadedConfig

SOURCE_TIMEOUT_S = 5.0
_LOAD_TIMEOUT_S = 10.0  # for importing the client, on a slow machine, and for a name server

log = logging.getLogger(__name__)


class _Answer(Struct, frozen=True, gc=False):
    """What the source delivered, or why it did not."""

    events: Sequence[Event] = ()
    error: str = ""


class OwnView:
    """The node as a command sees it itself.

    ``kernel_snapshot`` is there at once; ``complete`` waits for the objects.  The constructor raises KernelError,
    ConfigError and SourceError if it cannot look at all.
    """

    def __init__(self, loaded: "LoadedConfig", problem: str = "") -> None:
        self._loaded = loaded
        self._problem = problem
        self.source = source_text(loaded)
        self._last_problem = ""  # of the source
        self._rejected: list[Problem] = []
        self._deadline_s = 0.0
        self._wall_clock = WallClock(monotonic, time)
        self._asks = threading.Event()  # the client is loaded, and the source is asked
        self._parts: Parts = make_parts(loaded, real_platform(loaded))
        self._answers: queue.Queue[_Answer] = queue.Queue()
        threads.start_task("read the source", self._read_source)
        self._agent: Agent = make_agent(loaded, self._parts)
        self._agent.handle_event(HostAddresses(self._parts.kernel.host_addresses()), monotonic())
        self._agent.handle_event(gateways_event(self._parts.kernel.gateways()), monotonic())
        rows, unread = read_scopes(self._parts.kernel)
        if unread and not rows:
            raise next(iter(unread.values()))
        for scope, error in unread.items():
            self._agent.state.unread.record_error(scope, error)
        self._rows = rows

    def kernel_snapshot(self, problem: str = "") -> Snapshot:
        """Return a snapshot of what the kernel alone tells; *problem* is why there is no more."""
        self._agent.compiler.compile()
        self._agent.state.adopt(self._rows)
        return self._snapshot(problem)

    def wait(self) -> Snapshot:
        """Return a snapshot with the objects of the source, or, SOURCE_TIMEOUT_S after it was asked, without them."""
        self._asks.wait(_LOAD_TIMEOUT_S)
        snapshot = self.complete(self._deadline_s - monotonic())
        if snapshot:
            return snapshot
        last = f" ({self._last_problem})" if self._last_problem else ""
        return self.kernel_snapshot(f"{self.source} has not answered within {SOURCE_TIMEOUT_S:g} s{last}")

    def complete(self, timeout_s: float) -> Snapshot | None:
        """Return a snapshot with the objects of the source; None if they are not known after *timeout_s*.

        After an error of the source it is that of the kernel alone, with the reason.
        """
        try:
            answer = self._answers.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        for event in answer.events:
            if not isinstance(event, Problem):
                self._agent.handle_event(event, monotonic())
            elif not event.is_warning:
                self._rejected.append(event)
        if answer.error:
            return self.kernel_snapshot(answer.error)
        compiler, state = self._agent.compiler, self._agent.state
        compiler.compile()
        SlowStarts(compiler, watch_nodes=self._loaded.agent.watch_nodes).adopt(self._rows, monotonic())
        TunnelRests(compiler).adopt(self._rows, monotonic())
        state.adopt(self._rows)
        state.track_draining(list(state.rows), monotonic())
        state.pending.enqueue(step.key for step in make_plan(compiler.desired.rows, state.rows))
        return self._snapshot("")

    def _snapshot(self, problem: str) -> Snapshot:
        about = About(
            version=__version__,
            source=source_text(self._loaded),
            saved_s=self._parts.saved_s(),
            is_agent=False,
            problem="; ".join(filter(None, (self._problem, problem))),
            rejected=tuple(self._rejected),
            config=self._loaded.config,
            settings=self._loaded.agent,
        )
        return replace(self._agent.snapshot(monotonic(), self._wall_clock.zero_s()), about=about)

    def _on_problem(self, problem: Problem) -> None:
        self._last_problem = str(problem)
        if self._loaded.agent.manifests:
            log_problem(problem)

    def _read_source(self) -> None:
        with suppress(SourceError):  # which the next call raises again
            self._parts.api_servers()  # imports the client, and resolves the server's name
        self._deadline_s = monotonic() + SOURCE_TIMEOUT_S
        self._asks.set()
        try:
            self._answers.put(_Answer(self._parts.source.read_once(SOURCE_TIMEOUT_S, self._on_problem)))
        except SourceError as error:
            self._answers.put(_Answer(error=f"{self.source}: {error}"))
        except Exception as error:  # the command must not wait for ever
            log.exception("Internal error while reading the source (please report)")
            self._answers.put(_Answer(error=f"internal error: {error}"))


def source_text(loaded: "LoadedConfig") -> str:
    """Return where objects come from, in words."""
    if loaded.agent.manifests:
        return f"manifests in {loaded.agent.manifests}"
    return f"API server {loaded.agent.master}".rstrip()
