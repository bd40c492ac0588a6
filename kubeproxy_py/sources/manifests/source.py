"""ManifestFolder: a folder of manifests as a source, a peer of the API server.

Law: one thread looks at the folder, so what it tells is in order.  It looks when the kernel says that a file changed
(about a millisecond after), and once a second all the same, because many file systems never say it (NFS, the hostfs
of user-mode-linux, changes made on the other side of a mount).
"""

import logging
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubeproxy_py.model.events import Event, Synced
from kubeproxy_py.sources import FEEDS, EventHandler
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics
from kubeproxy_py.sources.manifests.folder import Folder, Look

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent

SWEEP_PERIOD_S = 1.0
SETTLE_S = 0.1  # after which a file that nobody said is whole is looked at again
_SWEEP_SHARE = 0.02  # of the time may go into sweeping; large folders are swept less often
_JOIN_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class ManifestFolder:
    """The Services, EndpointSlices, Endpoints, and the Node *node_name*, in the files of *directory*.

    A folder that can't be read is a Problem, and is waited for: nothing is Synced before it was read once, lest all
    that the kernel has be taken for unwanted.
    """

    def __init__(self, directory: str, node_name: str, tally: ClientMetrics = NULL_CLIENT_METRICS) -> None:
        self._directory = directory
        self._tally = tally
        self._folder = Folder(directory, node_name)
        self._news: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # names of whole files; None: stop
        self._thread: threading.Thread | None = None
        self._synced = False

    def load(self) -> list[Event]:
        """The events since the last load, without any thread: the files are taken to be whole."""
        return self._told(self._folder.look())

    def start(self, emit: EventHandler) -> None:
        self._thread = threading.Thread(target=self._run, args=(emit,), name="manifests", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._news.put(None)
        if self._thread:
            self._thread.join(_JOIN_TIMEOUT_S)

    def _told(self, look: Look) -> list[Event]:
        """The look's events, and Synced after the first time that the folder could be read."""
        if self._synced or not look.readable:
            return look.events
        self._synced = True
        return [*look.events, *(Synced(feed) for feed in FEEDS)]

    def _run(self, emit: EventHandler) -> None:
        notifier = _Notifier(self._directory, self._news)
        whole: set[str] | None = None  # at start, all: it is read before anyone is likely to write
        try:
            while True:
                notifier.watch()
                before_s = time.monotonic()
                look = self._folder.look(whole)
                cost_s = time.monotonic() - before_s
                if look.events:
                    self._tally.decoded(cost_s)
                if told := self._told(look):
                    emit(*told)
                whole = self._wait(max(SWEEP_PERIOD_S, cost_s / _SWEEP_SHARE) if look.settled else SETTLE_S)
                if whole is None:
                    return
        finally:
            notifier.close()

    def _wait(self, timeout_s: float) -> set[str] | None:
        """The names of files that became whole, once there are some or the time is over; None: stop."""
        names: set[str] = set()
        try:
            name = self._news.get(timeout=timeout_s)
            while name is not None:
                names.add(name)
                name = self._news.get_nowait()
        except queue.Empty:
            return names
        return None


class _Notifier:
    """The kernel's word on changes in a folder, by watchdog's inotify; silent where there is none."""

    def __init__(self, directory: str, news: "queue.SimpleQueue[str | None]") -> None:
        self._directory = Path(directory)
        self._news = news
        self._observer: Any = None
        self._watched: tuple[int, int] | None = None  # device and inode: a folder may be replaced by another

    def watch(self) -> None:
        """Watch the folder that is there now, if it isn't watched yet."""
        try:
            status = self._directory.stat()
            found = (status.st_dev, status.st_ino)
        except OSError:
            found = None
        if found == self._watched:
            return
        self.close()
        self._watched = found
        if found:
            self._begin()

    def _begin(self) -> None:
        try:
            # Imported here: 30 ms and 4 MiB that only those pay who have such a folder.
            from watchdog.observers.inotify import InotifyObserver

            # Full events: a file moved in from elsewhere is told as moved, not as created (which may be half written).
            observer: Any = InotifyObserver(generate_full_events=True)
            observer.schedule(_handler(self._news), str(self._directory))
            observer.start()
            self._observer = observer
        except (ImportError, OSError) as error:
            log.warning("No inotify on %s, it is looked at once a second: %s", self._directory, error)

    def close(self) -> None:
        observer, self._observer = self._observer, None
        if observer:
            observer.stop()
            observer.join(_JOIN_TIMEOUT_S)


def _handler(news: "queue.SimpleQueue[str | None]") -> Any:
    """Puts into *news* the name of a file that was closed after writing or renamed into place, "" for one that went."""
    from watchdog.events import FileClosedEvent, FileDeletedEvent, FileMovedEvent, FileSystemEventHandler

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: "FileSystemEvent") -> None:
            if isinstance(event, FileMovedEvent):
                news.put(_name(event.dest_path))
            elif isinstance(event, FileClosedEvent):
                news.put(_name(event.src_path))
            elif isinstance(event, FileDeletedEvent):
                news.put("")

    return Handler()


def _name(path: bytes | str | None) -> str:
    return Path(path.decode(errors="surrogateescape") if isinstance(path, bytes) else path or "").name
