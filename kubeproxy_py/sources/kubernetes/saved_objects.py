"""SavedObjects: serve what was saved while the API server does not answer at start, and save what it sends.

    start ── the server answers ──────────────────────────────┐
      └───── it does not, and the kernel has nothing newer    ├─► its objects are saved when they change
                └─► saved objects are served ── it answers ───┘

Invariants:
- Saved objects are served only while the kernel has nothing newer: it serves no Service address (the node booted), or
  only what saved objects said since it booted.  Otherwise the kernel is left as it is until the API server answers.
- What the server sends replaces them as a relist does: what stays equal is not touched.
- Encoding and writing happen in a thread of its own, in steps of less than a millisecond, so no change waits for it.
- Nothing about the file keeps the agent from starting or from serving.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from errno import EFBIG

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py import threads
from kubeproxy_py.files import UnreadableError
from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.events import Event, Feed, Synced
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import ObjectName
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.client_metrics import ClientMetrics
from kubeproxy_py.sources.decode.objects import Kind, Value
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.api_server_addresses import ApiServerAddresses
from kubeproxy_py.sources.kubernetes.watch_thread import WatchThread
from kubeproxy_py.sources.object_cache import Identity
from kubeproxy_py.sources.peers import as_peer
from kubeproxy_py.sources.saved.content import (
    PACKED_MAX_BYTES,
    UNPACKED_MAX_BYTES,
    Encoder,
    Objects,
    Origin,
    Saved,
    UnusableError,
    decode,
    require_usable,
)
from kubeproxy_py.sources.saved.folder import StateFolder

SILENCE_S = 0.5  # from the start: a server that has sent nothing by then does not answer; one that refuses, at once
LISTS_S = 5.0  # from the start: a server that has begun to answer gets so long to complete its lists
SETTLE_S = 1.0  # after a change, before it is saved with those that follow
PERIOD_S = 4.0  # between two writes, at least
REFRESH_S = 3600.0  # after it, objects that have not changed are written again, with the time
RETRY_S = 30.0  # after it, a write that failed is tried again, although nothing has changed
_CPU_SHARE_MAX = 0.01  # of a core may be spent on encoding
_POLL_S = 0.01
_PAUSE_S = 0.001  # between two steps of encoding
_JOIN_TIMEOUT_S = 2.0

PEERS_MAX = 10_000
"""Other nodes that are saved, in order of their names: twice as many as Kubernetes supports, 1 MB unpacked."""

_FEEDS: dict[Kind, Feed] = {"Service": "services", "EndpointSlice": "slices", "Endpoints": "slices", "Node": "node"}

log = logging.getLogger(__name__)


class Use(Struct, frozen=True, gc=False):
    """That saved objects are, or were, served."""

    saved_s: float  # when they were saved, in seconds since 1970
    since_s: float  # since when they are served
    services: int  # their number of Services


class Saving(Struct, frozen=True, gc=False):
    """Where and for how long objects are saved."""

    folder: str
    max_age_s: float = 0.0  # older ones are not served; 0: any age will do
    may_write: bool = True  # False: a command that runs once, and changes nothing
    silence_s: float = SILENCE_S
    on_replaced: Callable[[Use], None] = lambda _use: None  # called when the API server's objects are served again


class SavedObjects:
    """The saved objects of one API server and one node.

    Args:
        saving: Where they are saved.
        node_name: The Node that is used; saved ones of other names are left out.
        kernel_serves: Whether the kernel serves Service addresses at start.
        metrics: Records what happens.
    """

    def __init__(self, saving: Saving, node_name: str, *, kernel_serves: bool, metrics: ClientMetrics) -> None:
        self._saving = saving
        self._node_name = node_name
        self._folder = StateFolder(saving.folder)
        self._is_in_use = saving.may_write and self._folder.is_in_use()
        self._may_serve = self._is_in_use or not kernel_serves
        self._metrics = metrics
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._digest = b""  # of the objects in the file
        self._written_s = 0.0
        self._error = ""  # of the last write, if it failed; it is logged once
        self.use: Use | None = None  # None: not served, or not any more
        self._peers: Objects = {}  # of those that are served

    @property
    def peers(self) -> tuple[Objects, float] | None:
        """The saved Nodes as peers, and when they were saved; None: saved objects are not served."""
        use = self.use
        return (self._peers, use.saved_s) if use else None

    @property
    def may_be_served(self) -> bool:
        """Whether there are saved objects, and nothing newer in the kernel."""
        return self._may_serve and self._folder.exists()

    def start(
        self,
        api: ApiConnection,
        servers: ApiServerAddresses,
        watches: Sequence[WatchThread],
        peers: Callable[[], WatchThread | None],
    ) -> None:
        """Start the thread, after *watches* were started; *peers* returns that of all Nodes, while there is one."""
        server = _Server(api, servers, watches, lambda: self._saved_peers(peers()))
        if self._saving.may_write:
            self._thread = threads.start("saved-objects", lambda: self._run(server), self._stopping)
        else:
            self._thread = threads.start_task("saved-objects", lambda: self._serve_if_silent(server))

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self._changed.set()
        if self._thread:
            self._thread.join(_JOIN_TIMEOUT_S)

    # For the source; called by the threads of the watches

    def before_emit(self, events: Sequence[Event]) -> None:
        """Revoke the record that saved objects are in use, before the kernel gets what the server listed."""
        if self._is_in_use and any(isinstance(event, Synced) and event.saved_s is None for event in events):
            self._revoke()

    def after_emit(self) -> None:
        """Record that objects may have changed."""
        if not self._changed.is_set():
            self._changed.set()

    # The thread

    def _run(self, server: "_Server") -> None:
        self._serve_if_silent(server)
        while not self._stopping.is_set():
            is_refresh = not self._changed.wait(RETRY_S if self._error else REFRESH_S)
            self._changed.clear()
            if not server.is_current or (is_refresh and not server.answers):
                continue
            self._end_use()
            if self._stopping.wait(SETTLE_S):
                return
            began_s = time.thread_time()
            self._save(server)
            self._stopping.wait(max(PERIOD_S, (time.thread_time() - began_s) / _CPU_SHARE_MAX))

    # Serve

    def _serve_if_silent(self, server: "_Server") -> None:
        """Serve the saved objects if the server does not answer in time, and they may be."""
        if not self._folder.exists() or not self._is_silent(server):
            return
        if not self._may_serve:
            message = "Saved objects not used: the kernel serves Services already, which is newer"
            log.info(message, extra=values(file=self._folder.file))
        elif saved := self._load(server):
            self._serve(saved, server)

    def _is_silent(self, server: "_Server") -> bool:
        """Wait until the server has answered, or has not in time; return whether it has not."""
        started_s = time.monotonic()
        while not self._stopping.wait(_POLL_S):
            if server.is_current:
                return False
            limit_s = LISTS_S if server.is_answered else self._saving.silence_s
            if not server.answers or time.monotonic() - started_s > limit_s:
                return True
        return False

    def _load(self, server: "_Server") -> Saved | None:
        """Return the saved objects, or None if they cannot be used."""
        try:
            content = self._folder.read()
            if content is None:
                return None
            saved = decode(content)
            require_usable(saved.origin, server.cluster, time.time(), self._saving.max_age_s)
        except UnusableError as error:
            self._set_aside(error)
            return None
        except (UnreadableError, SourceError) as error:
            message = "Failed to read the saved objects; waiting for the API server"
            log.warning(message, extra=values(file=self._folder.file, err=error))
            self._metrics.saved_objects_failed()
            return None
        return saved

    def _set_aside(self, error: UnusableError) -> None:
        message = "Saved objects cannot be used; waiting for the API server"
        aside: object = "no"
        if self._saving.may_write:
            self._metrics.saved_objects_failed()
            try:
                aside = self._folder.set_aside(f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
            except OSError as failure:
                aside = failure.strerror
        log.warning(message, extra=values(file=self._folder.file, err=str(error), set_aside=str(aside)))

    def _serve(self, saved: Saved, server: "_Server") -> None:
        objects, saved_s = saved.objects, saved.origin.written_s
        self._peers = _as_peers(objects)
        services = sum(kind == "Service" for kind, _ in objects)
        self.use = Use(saved_s, time.time(), services)
        if self._saving.may_write:
            self._record_use()
        self._metrics.serving_saved_objects(serving=True)
        log.warning(
            "API server does not answer; serving objects that were saved",
            extra=values(
                saved=f"{datetime.fromtimestamp(saved_s, UTC):%Y-%m-%dT%H:%M:%SZ}",
                services=services,
                objects=len(objects),
                file=self._folder.file,
            ),
        )
        server.servers.add(saved.origin.api_servers)  # before the Services that may name them
        for watch in server.watches:
            watch.restore(self._of_feed(watch.feed, objects), saved_s)
        if any(watch.is_current for watch in server.watches):  # it answered meanwhile
            self._revoke()

    def _of_feed(self, feed: Feed, objects: Objects) -> Objects:
        return {
            (kind, name): tuple(replace(one, labels=()) if isinstance(one, Node) else one for one in found)
            for (kind, name), found in objects.items()
            if _FEEDS[kind] == feed and (kind != "Node" or name.name == self._node_name)
        }

    def _saved_peers(self, watch: WatchThread | None) -> Objects:
        """Return what is saved of the Nodes that *watch* knows: this node's, and so many others."""
        known = _as_peers(watch.known_values()) if watch else {}
        own: Identity = ("Node", ObjectName("", self._node_name))
        others = sorted(identity for identity in known if identity != own)[:PEERS_MAX]
        return {identity: known[identity] for identity in ([own, *others] if own in known else others)}

    def _end_use(self) -> None:
        use, self.use, self._peers = self.use, None, {}
        if not use:
            return
        self._metrics.serving_saved_objects(serving=False)
        log.info(
            "API server answered; its objects have replaced the saved ones",
            extra=values(served_s=round(time.time() - use.since_s)),
        )
        self._saving.on_replaced(use)

    def _record_use(self) -> None:
        self._is_in_use = True
        try:
            self._folder.record_in_use()
        except (UnreadableError, OSError) as error:
            message = "Failed to record that saved objects are served; a restart will wait for the API server"
            log.warning(message, extra=values(folder=self._folder.path, err=error))

    def _revoke(self) -> None:
        self._is_in_use = False
        try:
            self._folder.revoke_in_use()
        except OSError as error:
            message = "Failed to record that saved objects are not served any more; remove the file in-use"
            log.warning(message, extra=values(folder=self._folder.path, err=error.strerror))

    # Save

    def _save(self, server: "_Server") -> None:
        """Write the objects if they have changed, or to have the time in the file; a failure is logged once."""
        now_s = time.time()
        try:
            encoder = Encoder(Origin(server.cluster, now_s, server.servers.known))
            pieces: list[bytes] = []
            for piece in encoder.steps(server.objects()):
                pieces.append(piece)
                time.sleep(_PAUSE_S)
            if encoder.digest == self._digest and 0 <= now_s - self._written_s < REFRESH_S:
                return
            _require_small(sum(map(len, pieces)), encoder.unpacked_bytes)
            self._folder.write(pieces)
        except (UnreadableError, SourceError, OSError) as error:
            self._metrics.saved_objects_failed()
            self._log_failure(error)
            return
        self._digest, self._written_s = encoder.digest, now_s
        self._metrics.objects_saved(now_s)
        log.log(level(2), "Saved objects", extra=values(file=self._folder.file, bytes=sum(map(len, pieces))))
        if self._error:
            log.info("Objects are saved again", extra=values(file=self._folder.file))
        self._error = ""

    def _log_failure(self, error: Exception) -> None:
        before, self._error = self._error, str(error)
        if self._error != before:
            message = "Failed to save objects for the next start; Services are served all the same"
            log.warning(message, extra=values(folder=self._folder.path, err=error))


class _Server:
    """What there is to know of the API server."""

    def __init__(
        self,
        api: ApiConnection,
        servers: ApiServerAddresses,
        watches: Sequence[WatchThread],
        peers: Callable[[], Objects],
    ) -> None:
        self._api = api
        self.servers = servers
        self.watches = watches
        self._peers = peers

    @property
    def is_current(self) -> bool:
        """Whether its lists were used."""
        return all(watch.is_current for watch in self.watches)

    @property
    def is_answered(self) -> bool:
        """Whether it has sent part of a list."""
        return any(watch.is_answered for watch in self.watches)

    @property
    def answers(self) -> bool:
        """Whether it answered the last request, or was sent none."""
        return not self._api.reachability.is_failing

    @property
    def cluster(self) -> tuple[str, ...]:
        """The IDs of its cluster.  Raises SourceError."""
        return self._api.current().cluster

    def objects(self) -> Objects:
        """Return its objects as they are now."""
        objects = self._peers()
        for watch in self.watches:
            for identity, found in watch.known_values().items():
                objects[identity] = _with_labels(found, objects.get(identity, ()))
        return objects


def _as_peers(objects: Objects) -> Objects:
    """Return the Nodes among *objects* as peers."""
    return {
        identity: tuple(as_peer(one) for one in found if isinstance(one, Node))
        for identity, found in objects.items()
        if identity[0] == "Node"
    }


def _with_labels(values: tuple[Value, ...], peers: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return *values*; the Node of this node with the labels that it has as one of *peers*."""
    if not peers:  # nearly always
        return values
    labels = {peer.name: peer.labels for peer in peers if isinstance(peer, Node)}
    return tuple(replace(one, labels=labels[one.name]) if isinstance(one, Node) else one for one in values)


def _require_small(packed_bytes: int, unpacked_bytes: int) -> None:
    """Raise OSError if the file would not be read again."""
    if packed_bytes > PACKED_MAX_BYTES or unpacked_bytes > UNPACKED_MAX_BYTES:
        raise OSError(EFBIG, "there are more objects than are saved")
