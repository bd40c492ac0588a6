"""KubeSource: the Kubernetes API as a source.

The only module that imports the ``kubernetes`` package.  The package reads configuration and credentials (kubeconfig
with certificates, tokens and exec plugins; a pod's service account) and creates the connection pool.  Neither its
models nor its API classes are used: they are 20 times slower than our decoder, and 23 MiB.

A kubeconfig's tokenFile is read here, at each request: the package reads it once, and kubeadm's kube-proxy has its
rotated token there.
"""

import logging
import random
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from msgspec import Raw, Struct

from kubeproxy_py import __version__
from kubeproxy_py.files import UnreadableError, read_file
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import Event, PeerDeleted, PeersRefused
from kubeproxy_py.model.peers import PeerNeeds
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.net import IP, SocketAddress
from kubeproxy_py.sources import EventHandler, SourceError
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics
from kubeproxy_py.sources.decode.objects import Decoded, Kind
from kubeproxy_py.sources.initial_snapshot import read_initial_snapshot
from kubeproxy_py.sources.kubernetes.answers import is_refusal
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.api_server_addresses import (
    RESOLVE_TIMEOUT_S,
    ApiServerAddresses,
    addresses_of,
    peer_of,
)
from kubeproxy_py.sources.kubernetes.client import SOCKET_OPTIONS, Connection
from kubeproxy_py.sources.kubernetes.imports import import_rest, register_packages, without_openid_connect
from kubeproxy_py.sources.kubernetes.kubeconfig import Kubeconfig, read_kubeconfig
from kubeproxy_py.sources.kubernetes.listing import Doubt
from kubeproxy_py.sources.kubernetes.open_watch import PROBE_AFTER_S
from kubeproxy_py.sources.kubernetes.reflector import ListWatch
from kubeproxy_py.sources.kubernetes.removal_guard import RemovalGuard
from kubeproxy_py.sources.kubernetes.resources import PEERS, SERVICES, SLICES, Resource, node_resource
from kubeproxy_py.sources.kubernetes.saved_objects import SavedObjects, Saving
from kubeproxy_py.sources.kubernetes.watch_monitor import WatchMonitor
from kubeproxy_py.sources.kubernetes.watch_thread import WatchThread
from kubeproxy_py.sources.peers import as_peers, decode_peer
from kubeproxy_py.sources.saved.cluster_ids import cluster_ids

CONFIRM_PERCENT = 50
_CONNECTIONS = 6  # one for each watch, that of peers included, one to post Events, and one to probe
_JOIN_TIMEOUT_S = 0.5  # of all watches; one that waits for a silent server ends with the process
_TOKEN_MAX_BYTES = 1 << 20
_AUTHORITIES_MAX_BYTES = 4 << 20
_RESOLVE_SHORT_S = 0.3

log = logging.getLogger(__name__)


class Caution(Struct, frozen=True, gc=False):
    """When a list is not accepted before a second one confirms it."""

    confirm_percent: int = CONFIRM_PERCENT  # see RemovalGuard
    served: frozenset[IP] = frozenset()  # the Service addresses that the kernel serves at start
    on_doubt: Callable[[Doubt], None] = lambda _doubt: None  # called by the threads of the watches


class KubeSource:
    """The Services and EndpointSlices of a cluster, and one of its Nodes.

    Args:
        kubeconfig: Path of the file.
        master: URL of the API server; overrides the kubeconfig's.  With neither, the pod's service account is used.
        node_name: The Node to watch.
        metrics: Counts the requests.
        caution: When a list is doubted.
        saving: Where objects are saved for a start while the server does not answer; None: nowhere.

    Attributes:
        api: The connection, which others may use for their own requests.
    """

    def __init__(  # noqa: PLR0913 - the composition root of the source
        self,
        kubeconfig: str | None,
        master: str | None,
        node_name: str,
        *,
        metrics: ClientMetrics = NULL_CLIENT_METRICS,
        caution: Caution = Caution(),  # noqa: B008 - frozen
        saving: Saving | None = None,
    ) -> None:
        self.api = ApiConnection(lambda: connect(kubeconfig, master, metrics, self._on_connected))
        self._servers: ApiServerAddresses | None = None
        self._resolved: tuple[SocketAddress, ...] | None = None
        self._metrics = metrics
        self._resources = (SERVICES, SLICES, node_resource(node_name))
        self._caution = caution
        self._threads: list[WatchThread] = []
        self._watched: list[WatchThread] = []  # by the monitor
        self._peers: WatchThread | None = None  # None: nobody needs peers
        self._peer_labels: frozenset[str] = frozenset()  # the keys that are read of them
        self._peers_refused = False  # as it was emitted last
        self._emit: EventHandler = _drop
        self._monitor = WatchMonitor(self.api, self._watched, PROBE_AFTER_S)
        self._saved = (
            SavedObjects(saving, node_name, kernel_serves=bool(caution.served), metrics=metrics) if saving else None
        )
        self._lock = threading.Lock()  # held while events are emitted
        self._stopped = False

    def start(self, emit: EventHandler) -> None:
        """Start one watch for each resource.  Raises SourceError if the configuration cannot be used."""
        self.api.current()

        def emit_unless_stopped(*events: Event) -> None:
            with self._lock:
                if self._stopped:
                    return
                if self._saved:
                    self._saved.before_emit(events)
                emit(*events)
            if self._saved:
                self._saved.after_emit()

        self._emit = emit_unless_stopped
        self._servers = ApiServerAddresses(emit_unless_stopped)
        self._servers.add(self.server_addresses())
        for resource in self._resources:
            list_watch = ListWatch(resource, random.random, self._guard(resource))
            thread = WatchThread(list_watch, self.api, emit_unless_stopped, self._metrics, self._caution.on_doubt)
            self._threads.append(thread)
            self._watched.append(thread)
        for thread in self._threads:
            thread.start()
        self._monitor.start()
        if self._saved:
            self._saved.start(self.api, self._servers, self._threads, lambda: self._peers)

    def watch_peers(self, needs: PeerNeeds, *, at_once: bool = False) -> None:
        """List and watch all Nodes while anything of them is needed; see Source."""
        new_labels, self._peer_labels = needs.labels - self._peer_labels, needs.labels
        if needs and not self._peers:
            guard = RemovalGuard(self._caution.confirm_percent)
            list_watch = ListWatch(PEERS, random.random, guard, self._decode_peer)
            self._peers = WatchThread(list_watch, self.api, self._emit_peers, self._metrics, self._caution.on_doubt)
            self._watched.append(self._peers)
            if not at_once:
                list_watch.spread()
            if saved := self._saved.peers if self._saved else None:
                self._peers.restore(*saved)
            self._peers.start()
        elif not needs and (thread := self._peers):
            self._peers = None
            self._watched.remove(thread)
            thread.stop_alone()
            self._emit(*(PeerDeleted(name.name) for _, name in thread.known_values()), *self._refused(""))
        elif self._peers and new_labels:
            self._peers.list_again(f"weights name other labels: {', '.join(sorted(new_labels))}")

    def _decode_peer(self, kind: Kind, body: Raw) -> Decoded:
        return decode_peer(kind, body, self._peer_labels)

    def _emit_peers(self, *events: Event) -> None:
        """Emit events of the Nodes, after whether nothing is known of them because they are refused."""
        is_known = not self._peers or self._peers.is_synced
        problems = [event for event in events if isinstance(event, Problem) and is_refusal(event)]
        reason = problems[-1].message if problems and not is_known else ""
        self._emit(*(self._refused(reason) if reason or is_known else ()), *as_peers(events))

    def _refused(self, reason: str) -> list[Event]:
        """Return the event that Nodes are refused for *reason*, or not any more, if that is news."""
        if not reason and not self._peers_refused:
            return []
        self._peers_refused = bool(reason)
        return [PeersRefused(reason)]

    def _guard(self, resource: Resource) -> RemovalGuard:
        """Return the guard of *resource*; a Node that does not exist yet serves nothing."""
        served = frozenset[IP]() if resource.kind == "Node" else self._caution.served
        return RemovalGuard(self._caution.confirm_percent, served)

    def read_once(self, timeout_s: float, on_problem: Callable[[Problem], None]) -> list[Event]:
        """Return the events of the initial lists; see Source."""
        return read_initial_snapshot(self, timeout_s, on_problem)

    def server_addresses(self) -> tuple[SocketAddress, ...]:
        """Return the addresses of the API server that its URL names; resolved once.  Raises SourceError; see start."""
        if self._resolved is None:
            # Saved objects name the addresses, too, and need not wait for a name server that does not answer either.
            timeout_s = _RESOLVE_SHORT_S if self._saved and self._saved.may_be_served else RESOLVE_TIMEOUT_S
            self._resolved = addresses_of(self.api.current().url, timeout_s)
        return self._resolved

    def saved_s(self) -> float | None:
        """Return when the objects that it delivers were saved, in seconds since 1970; None: they are current."""
        return self._saved.use.saved_s if self._saved and self._saved.use else None

    def rejected(self) -> tuple[Problem, ...]:
        """Return the problems of the objects whose last version is not used; see Source."""
        return tuple(problem for thread in self._watched for problem in thread.rejected())

    def _on_connected(self, connected: socket.socket) -> None:
        """Remember the peer, before what it sent is emitted."""
        if self._servers:
            self._servers.add(peer_of(connected))

    def stop(self) -> None:
        """Stop the watches; nothing is emitted afterwards."""
        with self._lock:
            self._stopped = True
        self._monitor.stop()
        if self._saved:
            self._saved.stop()
        for thread in self._watched:
            thread.stop()
        end_s = time.monotonic() + _JOIN_TIMEOUT_S
        for thread in self._watched:
            thread.join(max(0.0, end_s - time.monotonic()))
        self.api.close()


def _drop(*_events: Event) -> None:
    """Drop events before the start."""


def import_libraries() -> None:
    """Import what ``connect`` needs, so that it takes no longer than the server."""
    register_packages()
    import_rest()
    import kubernetes.config  # noqa: F401 - to have it


def connect(
    kubeconfig: str | None,
    master: str | None,
    metrics: ClientMetrics = NULL_CLIENT_METRICS,
    on_connected: Callable[[socket.socket], None] = lambda _socket: None,
) -> Connection:
    """Return a connection as configured.  Raises SourceError if the configuration cannot be used."""
    # Imported here: only for agents that use an API server.
    import_libraries()
    from kubernetes.client.rest import RESTClientObject

    configuration, token_file = _load_configuration(kubeconfig, master)
    if not configuration.verify_ssl:
        _warn_of_unverified_server(configuration)
    try:
        pool = RESTClientObject(configuration).pool_manager
    except (OSError, ValueError) as error:  # a certificate file without a certificate
        _log_cause("Failed to set up TLS", error)
        raise SourceError(f"TLS cannot be set up: {_reason(error)}", "check the certificate files") from None

    def authorization() -> str:
        return _read_token(token_file) if token_file else _authorization(configuration)

    metrics.pool_created()
    server, user_agent = configuration.host.rstrip("/"), f"kubeproxy-py/{__version__}"
    cluster = cluster_ids(server, _authorities(configuration))
    return Connection(server, pool, authorization, user_agent, metrics, on_connected=on_connected, cluster=cluster)


def _load_configuration(kubeconfig: str | None, master: str | None) -> tuple[Any, str]:
    """Return the package's configuration, and the path of the token file; "" if there is none.

    Raises:
        SourceError: The configuration cannot be used.
    """
    from kubernetes.client import Configuration

    configuration = Configuration()
    configuration.socket_options = SOCKET_OPTIONS
    configuration.connection_pool_maxsize = _CONNECTIONS
    token_file = ""
    if kubeconfig:
        token_file = _load_kubeconfig(kubeconfig, configuration)
    elif not master:
        _load_service_account(configuration)
    if master:
        configuration.host = _master_url(master, configuration)
    return configuration, token_file


def _warn_of_unverified_server(configuration: Any) -> None:
    import urllib3
    from urllib3.exceptions import InsecureRequestWarning

    message = "API server certificate is not verified (insecure-skip-tls-verify)"
    log.warning(message, extra=values(server=configuration.host))
    urllib3.disable_warnings(InsecureRequestWarning)  # else one for each request


def _authorities(configuration: Any) -> bytes:
    """Return the certificates of the cluster's certificate authority, which were just loaded; b"" if it has none."""
    try:
        return read_file(configuration.ssl_ca_cert, _AUTHORITIES_MAX_BYTES) if configuration.ssl_ca_cert else b""
    except UnreadableError:  # it was replaced at this moment
        return b""


def _load_kubeconfig(path: str, configuration: Any) -> str:
    """Load the file *path* into *configuration*.

    Returns:
        The path of the token file; "" if there is none.

    Raises:
        SourceError: The file cannot be used.
    """
    kubeconfig = read_kubeconfig(path)
    with nullcontext() if kubeconfig.has_auth_provider else without_openid_connect():
        from kubernetes.config.kube_config import load_kube_config

    try:
        load_kube_config(path, client_configuration=configuration, persist_config=False)
    except Exception as error:  # the package raises many types
        _log_cause("Failed to load the kubeconfig", error)
        raise SourceError(f"kubeconfig {path} cannot be used: {_reason(error)}", _hint(kubeconfig)) from None
    if kubeconfig.has_exec and not configuration.api_key and not configuration.cert_file:
        raise SourceError(f"kubeconfig {path}: exec returned no credentials", "run its command by hand")
    return kubeconfig.token_file


def _hint(kubeconfig: Kubeconfig) -> str:
    return "run its exec command by hand" if kubeconfig.has_exec else "check its certificates and their files"


def _log_cause(message: str, error: Exception) -> None:
    """Log at debug level the type of *error* and where it was raised, without its text, which may contain tokens."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    log.debug("%s", message, extra=values(error=type(error).__name__, raised_at=place))


def _load_service_account(configuration: Any) -> None:
    """Load the pod's service account into *configuration*.  Raises SourceError."""
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.incluster_config import load_incluster_config

    try:
        load_incluster_config(configuration)
    except (ConfigException, OSError) as error:
        hint = "outside of a cluster, set --kubeconfig or --manifests"
        raise SourceError(f"not in a pod with a service account: {str(error).rstrip('.')}", hint) from error
    except ValueError as error:  # not UTF-8; its text contains bytes of the token
        _log_cause("Failed to load the service account", error)
        raise SourceError("the service account's token or CA is not text", "check how it is mounted") from None


def _master_url(master: str, configuration: Any) -> str:
    """Return *master* with the scheme that client-go would add."""
    if "://" in master:
        return master
    return f"{'https' if configuration.ssl_ca_cert or not configuration.verify_ssl else 'http'}://{master}"


def _read_token(path: str) -> str:
    """Return the header value with the token in the file *path*.  Raises SourceError."""
    try:
        return f"Bearer {read_file(path, _TOKEN_MAX_BYTES).decode('ascii').strip()}"
    except UnicodeError:  # its text contains bytes of the token
        raise SourceError(f"tokenFile {path}: has characters that a token cannot have", "check the file") from None
    except UnreadableError as error:
        raise SourceError(f"tokenFile {path}: {error.message}", error.hint) from None


def _reason(error: Exception) -> str:
    """Return what the operating system or OpenSSL says (``key values mismatch``), else the error's type.

    Neither contains a secret, as the text of another error may.
    """
    if isinstance(error, ssl.SSLError):
        return (error.reason or type(error).__name__).lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return type(error).__name__


def _authorization(configuration: Any) -> str:
    """Return the header value; the package renews it for service accounts and exec plugins.  Raises SourceError."""
    try:
        settings = configuration.auth_settings()
    except Exception as error:  # the package raises many types
        _log_cause("Failed to renew the token", error)
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SourceError(f"the token cannot be renewed: {reason}", "check that it is mounted") from None
    return next((setting["value"] or "" for setting in settings.values() if setting["in"] == "header"), "")
