"""KubeSource: the Kubernetes API as a source.

Law: the only module that knows the ``kubernetes`` package, which reads configuration and credentials (kubeconfig
with certificates, tokens and exec plugins; a pod's service account) and makes the pool of connections.  Neither its
models nor its API classes are used: they are 20 times slower than our decoder, and 23 MiB.

What the package does not do, we do: a kubeconfig's tokenFile is read at each request (the package reads it once, and
kubeadm's kube-proxy has its rotated token there).
"""

import logging
import random
import threading
from pathlib import Path
from typing import Any

from kubeproxy_py import __version__
from kubeproxy_py.model.events import Event
from kubeproxy_py.sources import EventHandler, SourceError
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.client import KEEPALIVE, Connection
from kubeproxy_py.sources.kubernetes.kubeconfig import Kubeconfig, read_kubeconfig
from kubeproxy_py.sources.kubernetes.reflector import ListWatch
from kubeproxy_py.sources.kubernetes.resources import SERVICES, SLICES, node
from kubeproxy_py.sources.kubernetes.watch_thread import WatchThread

SILENCE_S = 90.0  # of a watch: a bookmark comes each minute, and half of one is margin
_CONNECTIONS = 4  # one for each watch, and one to post events
_JOIN_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)


class KubeSource:
    """The Services, EndpointSlices and the Node *node_name* of a cluster.

    *kubeconfig* is the path of the file, *master* a URL that goes before the file's; with neither, the pod's service
    account is used.
    """

    def __init__(
        self,
        kubeconfig: str | None,
        master: str | None,
        node_name: str,
        *,
        silence_s: float = SILENCE_S,
        tally: ClientMetrics = NULL_CLIENT_METRICS,
    ) -> None:
        self.access = ApiConnection(lambda: connect(kubeconfig, master, tally))
        self._tally = tally
        self._resources = (SERVICES, SLICES, node(node_name))
        self._silence_s = silence_s
        self._watchers: list[WatchThread] = []
        self._lock = threading.Lock()  # held while an event is told
        self._stopped = False

    def start(self, emit: EventHandler) -> None:
        """Raises SourceError if the configuration can't be used."""
        self.access.connection()

        def tell(*events: Event) -> None:
            with self._lock:
                if not self._stopped:
                    emit(*events)

        for resource in self._resources:
            listwatch = ListWatch(resource, random.random)
            watcher = WatchThread(listwatch, self.access, tell, self._silence_s, resource.feed, self._tally)
            self._watchers.append(watcher)
            watcher.start()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
        for watcher in self._watchers:
            watcher.stop()
        for watcher in self._watchers:
            watcher.join(_JOIN_TIMEOUT_S)
        self.access.close()


def connect(kubeconfig: str | None, master: str | None, tally: ClientMetrics = NULL_CLIENT_METRICS) -> Connection:
    """The connection that the configuration describes.  Raises SourceError."""
    # Imported here: a quarter of a second and 44 MiB that only those pay who talk to a cluster.
    import urllib3
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject
    from urllib3.exceptions import InsecureRequestWarning

    configuration = Configuration()
    configuration.socket_options = KEEPALIVE
    configuration.connection_pool_maxsize = _CONNECTIONS
    token_file = ""
    if kubeconfig:
        token_file = _load_kubeconfig(kubeconfig, configuration)
    elif not master:
        _load_service_account(configuration)
    if master:
        configuration.host = _url(master, configuration)
    if not configuration.verify_ssl:
        log.warning("The API server's certificate is not verified (insecure-skip-tls-verify)")
        urllib3.disable_warnings(InsecureRequestWarning)  # it would come with each request
    try:
        pool = RESTClientObject(configuration).pool_manager
    except (OSError, ValueError) as error:  # a certificate file that is none
        raise SourceError(f"TLS can't be set up: {type(error).__name__}", "are the certificate files good?") from None

    def authorization() -> str:
        return _token(token_file) if token_file else _authorization(configuration)

    tally.connected()
    return Connection(configuration.host.rstrip("/"), pool, authorization, f"kubeproxy-py/{__version__}", tally)


def _load_kubeconfig(path: str, configuration: Any) -> str:
    """Fills *configuration*; the path of the token file, if the tokens are in one."""
    from kubernetes.config import load_kube_config

    checked = read_kubeconfig(path)
    try:
        load_kube_config(path, client_configuration=configuration, persist_config=False)
    except Exception as error:  # its messages may hold tokens, and it raises whatever it stumbles over
        raise SourceError(f"kubeconfig {path} can't be used: {type(error).__name__}", _hint(checked)) from None
    if checked.has_exec and not configuration.api_key and not configuration.cert_file:
        raise SourceError(f"kubeconfig {path}: exec gave no credentials", "run its command by hand")
    return checked.token_file


def _hint(checked: Kubeconfig) -> str:
    return "does its exec command work?" if checked.has_exec else "are its certificates and their files good?"


def _load_service_account(configuration: Any) -> None:
    from kubernetes.config import ConfigException, load_incluster_config

    try:
        load_incluster_config(configuration)
    except (ConfigException, OSError) as error:
        hint = "outside of a cluster, name a --kubeconfig or a --manifests folder"
        raise SourceError(f"this is no pod with a service account: {error}", hint) from None


def _url(master: str, configuration: Any) -> str:
    """*master* with the scheme that client-go would add."""
    if "://" in master:
        return master
    return f"{'https' if configuration.ssl_ca_cert or not configuration.verify_ssl else 'http'}://{master}"


def _token(path: str) -> str:
    try:
        return f"Bearer {Path(path).read_text(encoding='ascii').strip()}"
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "has characters that no token has"
        raise SourceError(f"tokenFile {path}: {reason}", "is it mounted?") from None


def _authorization(configuration: Any) -> str:
    """The header's value, which the package renews if it is a service account's or an exec plugin's."""
    try:
        settings = configuration.auth_settings()
    except Exception as error:  # as when it loads a kubeconfig: its messages are not for telling
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SourceError(f"the token can't be renewed: {reason}", "is it mounted?") from None
    return next((setting["value"] or "" for setting in settings.values() if setting["in"] == "header"), "")
