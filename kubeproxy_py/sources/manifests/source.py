"""ManifestSource: a folder of manifests as a source, an alternative to the API server.

One thread polls the folder, so events are in order.  It polls when inotify reports a change (about a millisecond
after it), and once a second in any case, because many file systems never report one (NFS, the hostfs of
user-mode-linux, changes made on the other side of a mount).
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubeproxy_py import threads
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import Event, Synced
from kubeproxy_py.model.peers import PeerNeeds
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import FEEDS, EventHandler, SourceError
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics
from kubeproxy_py.sources.initial_snapshot import peer_needs
from kubeproxy_py.sources.manifests.folder import Folder, PollResult
from kubeproxy_py.sources.peers import as_peers

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent

POLL_PERIOD_S = 1.0
CONFIRM_EMPTY_S = 5.0  # at start: a folder without manifests is accepted after it; a volume may not be mounted yet
SETTLE_S = 0.1  # after it, a file that is not known to be complete is checked again
_POLL_SHARE_MAX = 0.02  # of the time may be spent polling; large folders are polled less often
_JOIN_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)

Changes = queue.Queue[str | None]
"""Names of files that are complete, "" to poll for another reason; None: stop."""


class ManifestSource:
    """The Services, EndpointSlices and Endpoints, and one Node, in the files of a folder.

    A folder that cannot be read is reported as a Problem and polled until it can be.  Synced is emitted only after it
    was read once, because everything in the kernel would be deleted otherwise.

    Args:
        directory: The folder's path.
        node_name: The Node to read.
        metrics: Records decoding times.
        confirm_empty: Accept a folder without manifests, or with files that are being written, only if it still is
            one after CONFIRM_EMPTY_S: the kernel serves Services that a predecessor read from somewhere.
    """

    def __init__(
        self,
        directory: str,
        node_name: str,
        metrics: ClientMetrics = NULL_CLIENT_METRICS,
        *,
        confirm_empty: bool = False,
    ) -> None:
        self._directory = directory
        self._confirm_s = CONFIRM_EMPTY_S if confirm_empty else 0.0
        self._doubted_since_s: float | None = None  # before Synced
        self._metrics = metrics
        self._node_name = node_name
        self._folder = Folder(directory, node_name)
        self._changes: Changes = queue.Queue()
        self._emit: EventHandler | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._synced = False
        self._labels: frozenset[str] = frozenset()  # the keys that are read of Nodes
        self._peers_wanted = False  # Synced of peers is to be emitted

    def poll(self) -> list[Event]:
        """Return the events since the last poll, without a thread; all files are assumed to be complete."""
        return self._with_synced(self._folder.poll(labels=self._labels))

    def read_once(self, timeout_s: float, on_problem: Callable[[Problem], None]) -> list[Event]:
        """Return the events of all files, without a thread; see Source."""
        events = self.poll()
        needs = peer_needs(events)
        if needs.labels:
            self._labels = needs.labels
            events += self.poll()
        if needs:
            events.append(Synced("peers"))
        problems = [event for event in events if isinstance(event, Problem)]
        for problem in problems:
            on_problem(problem)
        if not self._synced:
            raise SourceError(f"no objects could be read from the manifest directory {self._directory}")
        return events

    def watch_peers(self, needs: PeerNeeds, *, at_once: bool = False) -> None:
        """Read the Nodes of the folder again if other labels are needed, and say that all are known; see Source."""
        self._labels, self._peers_wanted = needs.labels, bool(needs)
        self._changes.put("")

    def rejected(self) -> tuple[Problem, ...]:
        """Return the problems of files and objects; see Source."""
        return self._folder.rejected()

    def start(self, emit: EventHandler) -> None:
        """Start the thread."""
        self._emit = emit
        self._thread = threads.start("manifests", partial(self._run, emit), self._stopping)

    def stop(self) -> None:
        """Stop the thread; nothing is emitted afterwards."""
        self._stopping.set()
        self._changes.put(None)
        if self._thread:
            self._thread.join(_JOIN_TIMEOUT_S)

    def _with_synced(self, result: PollResult) -> list[Event]:
        """Return the events, and Synced after the first successful poll."""
        events = [*as_peers(result.events, self._node_name)]
        if self._synced or not result.readable or self._is_doubted(result):
            return events
        self._synced = True
        return [*events, *(Synced(feed) for feed in FEEDS)]

    def _is_doubted(self, result: PollResult) -> bool:
        """Return whether the folder has no manifests, or half-written ones, and not for long enough to accept it."""
        if result.settled and not result.empty:
            return False
        now_s = time.monotonic()
        if self._doubted_since_s is None:
            self._doubted_since_s = now_s
        return now_s - self._doubted_since_s < self._confirm_s

    def _run(self, emit: EventHandler) -> None:
        notifier = _Notifier(self._directory, self._changes)
        complete: set[str] | None = None  # at start, all are: nobody is likely to write before the first poll
        try:
            while True:
                notifier.watch()
                started_s = time.monotonic()
                peers_wanted, labels = self._peers_wanted, self._labels
                result = self._folder.poll(complete, labels)
                took_s = time.monotonic() - started_s
                if result.events:
                    self._metrics.objects_decoded(took_s)
                events = self._with_synced(result)
                if peers_wanted and result.readable:
                    self._peers_wanted = False
                    events.append(Synced("peers"))
                if events:
                    emit(*events)
                period_s = max(POLL_PERIOD_S, took_s / _POLL_SHARE_MAX)
                complete = self._wait(period_s if result.settled else SETTLE_S)
                if complete is None:
                    return
        finally:
            notifier.close()

    def _wait(self, timeout_s: float) -> set[str] | None:
        """Wait for changes up to *timeout_s*; return the names of files that are complete, or None to stop."""
        names: set[str] = set()
        try:
            name = self._changes.get(timeout=timeout_s)
            while name is not None:
                names.add(name)
                name = self._changes.get_nowait()
        except queue.Empty:
            return names
        return None


class _Notifier:
    """Reports changes in a folder by watchdog's inotify observer; without inotify it reports nothing.

    An observer whose threads have ended is replaced at the next poll.
    """

    def __init__(self, directory: str, changes: Changes) -> None:
        self._directory = Path(directory)
        self._changes = changes
        self._observer: Any = None
        self._watched: tuple[int, int] | None = None  # device and inode: a folder may be replaced by another
        self._has_failed = False

    def watch(self) -> None:
        """Watch the folder that exists now, unless it is watched already."""
        try:
            status = self._directory.stat()
            identity = (status.st_dev, status.st_ino)
        except OSError:
            identity = None
        if identity == self._watched and self._is_running():
            return
        if identity == self._watched and not self._has_failed:
            self._has_failed = True  # logged once
            log.warning(
                "inotify stopped; starting it again, and polling the manifest directory once a second meanwhile",
                extra=values(directory=self._directory),
            )
        self.close()
        self._watched = identity
        if identity:
            self._start()

    def _is_running(self) -> bool:
        """Return whether every thread of the observer runs; true without an observer, which nothing can end."""
        observer = self._observer
        return not observer or (observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters))

    def _start(self) -> None:
        try:
            # Imported here: 30 ms and 4 MiB, only for agents that use a folder.
            from watchdog.events import FileClosedEvent, FileDeletedEvent, FileMovedEvent
            from watchdog.observers.inotify import InotifyObserver

            # Full events: a file moved in from elsewhere is reported as moved, not as created (and maybe incomplete).
            observer: Any = InotifyObserver(generate_full_events=True)
            # Only these kinds: otherwise each poll, which opens and closes the folder, would wake two threads.
            used = [FileMovedEvent, FileClosedEvent, FileDeletedEvent]
            observer.schedule(_make_handler(self._changes), str(self._directory), event_filter=used)
            observer.start()
            self._observer = observer
        except (ImportError, OSError) as error:
            log.warning(
                "inotify unavailable; polling the manifest directory once a second",
                extra=values(directory=self._directory, error=error),
            )

    def close(self) -> None:
        """Stop watching."""
        observer, self._observer = self._observer, None
        if observer:
            observer.stop()
            observer.join(_JOIN_TIMEOUT_S)


def _make_handler(changes: Changes) -> Any:
    """Return a handler that reports files closed after writing, renamed into place, or deleted."""
    from watchdog.events import FileClosedEvent, FileDeletedEvent, FileMovedEvent, FileSystemEventHandler

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: "FileSystemEvent") -> None:
            if isinstance(event, FileMovedEvent):
                changes.put(_file_name(event.dest_path))
            elif isinstance(event, FileClosedEvent):
                changes.put(_file_name(event.src_path))
            elif isinstance(event, FileDeletedEvent):
                changes.put("")

    return Handler()


def _file_name(path: bytes | str | None) -> str:
    return Path(path.decode(errors="surrogateescape") if isinstance(path, bytes) else path or "").name
