"""Examine how this host reaches the API server, for ``doctor``: whether it answers, its clock, our certificates.

Invariants:
- All of it takes at most a given time, whatever hangs: a name server, an exec plugin, the server.
"""

import base64
import binascii
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from queue import Empty, Queue
from time import monotonic, time

from msgspec import Struct

from kubeproxy_py import threads
from kubeproxy_py.files import UnreadableError, read_file
from kubeproxy_py.model.host_facts import ApiServer, Certificate
from kubeproxy_py.model.node import Node
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.decode.errors import FieldError
from kubeproxy_py.sources.decode.objects import decode
from kubeproxy_py.sources.kubernetes.answers import read_page
from kubeproxy_py.sources.kubernetes.certificates import validity_periods
from kubeproxy_py.sources.kubernetes.client import Connection, Response
from kubeproxy_py.sources.kubernetes.kubeconfig import SIZE_MAX_BYTES, parse_kubeconfig
from kubeproxy_py.sources.kubernetes.listing import target_of
from kubeproxy_py.sources.kubernetes.resources import node_resource
from kubeproxy_py.sources.kubernetes.source import connect, import_libraries
from kubeproxy_py.sources.kubernetes.transport_errors import TransportError

_SERVICE_ACCOUNT_CA = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
_VERSION = "/version"


class Examined(Struct, frozen=True, gc=False):
    """What was found out."""

    server: ApiServer
    node: Node | None = None  # the Node object; None: it could not be read
    unusable: str = ""  # why nothing was asked: there is no configuration for it


class Examination:
    """An examination of *server* that goes on in a thread; nobody waits for longer than *timeout_s*."""

    def __init__(self, server: str, examine_it: Callable[[], Examined], timeout_s: float) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._deadline_s = monotonic() + timeout_s
        self._results: Queue[Examined] = Queue()
        threads.start_task("examine the API server", lambda: self._results.put(examine_it()))

    def wait(self) -> Examined:
        """Return what was found out, at the latest when the time is over."""
        try:
            return self._results.get(timeout=max(0.0, self._deadline_s - monotonic()))
        except Empty:
            hint = "curl -k SERVER/healthz, with the server of the kubeconfig; check DNS and what is on the way to it"
            return Examined(ApiServer(self._server, f"it did not answer within {self._timeout_s:g} s", hint))


def examine(
    kubeconfig: str, master: str, node_name: str, timeout_s: float, clock: Callable[[], float] = time
) -> Examination:
    """Begin to examine the API server.

    Args:
        kubeconfig: Path of the file; "" for the pod's service account.
        master: URL of the API server; overrides the kubeconfig's.
        node_name: The Node to read.
        timeout_s: The time limit of all of it, without importing libraries.
        clock: Returns seconds since 1970.
    """
    import_libraries()
    return Examination(
        master or kubeconfig, lambda: _examine(kubeconfig, master, node_name, timeout_s, clock), timeout_s
    )


def _examine(kubeconfig: str, master: str, node_name: str, timeout_s: float, clock: Callable[[], float]) -> Examined:
    try:
        connection = connect(kubeconfig or None, master or None)
    except SourceError as error:
        unusable = "" if kubeconfig or master else str(error)
        return Examined(ApiServer(kubeconfig or master, error.message, error.hint), unusable=unusable)
    try:
        server = _ask(connection, timeout_s, clock)
        node = None if server.error else _read_node(connection, node_name, timeout_s)
    except TransportError as error:
        problem = error.problem
        return Examined(ApiServer(connection.url, f"{problem.field}: {problem.message}", problem.hint))
    finally:
        connection.close()
    return Examined(server, node)


def _ask(connection: Connection, timeout_s: float, clock: Callable[[], float]) -> ApiServer:
    """Return how the server answers.  Raises TransportError."""
    began_s = clock()
    response = connection.get(_VERSION, timeout_s)
    middle_s = (began_s + clock()) / 2
    try:
        server_s = response.date_s
        response.body()
        skew_s = None if server_s is None else _skew(middle_s, server_s)
        return ApiServer(connection.url, *_refusal(response), skew_s)
    finally:
        response.close()


def _skew(ours_s: float, theirs_s: float) -> float:
    """Return how much our clock is ahead; the header has whole seconds, so less than one is none."""
    skew_s = ours_s - theirs_s
    return 0.0 if 0 <= skew_s < 1 else skew_s


def _refusal(response: Response) -> tuple[str, str]:
    """Return why the server did not answer our request, and the remedy; "" if it did, or may not answer it to us."""
    if response.status == HTTPStatus.UNAUTHORIZED:
        return "it answers 401: our credentials are not accepted", "renew the token or the client certificate"
    if response.status == HTTPStatus.NOT_FOUND:
        return f"it answers 404 to {_VERSION}, as no API server does", "correct server in the kubeconfig"
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"it answers {response.status}", "look at the API server's log, and at what is between it and this node"
    return "", ""


def _read_node(connection: Connection, name: str, timeout_s: float) -> Node | None:
    """Return the Node called *name*; None if it does not exist or may not be read.  Raises TransportError."""
    resource = node_resource(name)
    response = connection.get(target_of(resource, {}), timeout_s)
    try:
        body = response.body()
        if response.status != HTTPStatus.OK:
            return None
        items = read_page(resource.kind, body).items
        values = decode(resource.kind, items[0], origin="API").values if items else ()
    except FieldError:
        return None
    finally:
        response.close()
    return next((value for value in values if isinstance(value, Node)), None)


# Certificates


def read_certificates(kubeconfig: str, master: str = "") -> tuple[Certificate, ...]:
    """Return the certificates of the *kubeconfig*, or of the pod's service account (""); with *master* alone none.

    Raises SourceError if one cannot be read.
    """
    if not kubeconfig:
        if master:
            return ()
        if not _SERVICE_ACCOUNT_CA.exists():
            raise SourceError("no kubeconfig was given, and this is no pod", "pass --kubeconfig or --config")
        return _certificates("certificate authority", str(_SERVICE_ACCOUNT_CA), _read(str(_SERVICE_ACCOUNT_CA)))
    cluster, user = parse_kubeconfig(kubeconfig, _read(kubeconfig))
    named = (
        ("client certificate", "client-certificate", user.client_certificate, user.client_certificate_data),
        (
            "certificate authority",
            "certificate-authority",
            cluster.certificate_authority,
            cluster.certificate_authority_data,
        ),
    )
    found: tuple[Certificate, ...] = ()
    for role, field, file, data in named:  # as in client-go, data has precedence
        if data:
            found += _certificates(role, f"{kubeconfig} ({field}-data)", _decoded(f"{kubeconfig}: {field}-data", data))
        elif file:
            path = str(Path(kubeconfig).expanduser().parent / file)
            found += _certificates(role, path, _read(path))
    return found


def _certificates(role: str, place: str, pem: bytes) -> tuple[Certificate, ...]:
    """Return the certificates in *pem*; of several client certificates, the first is ours.  Raises SourceError."""
    try:
        periods = list(validity_periods(pem))
    except ValueError as error:
        raise SourceError(f"{place}: {error}", "openssl x509 -noout -text shows what is wrong") from None
    return tuple(Certificate(role, place, first_s, last_s) for first_s, last_s in periods)


def _read(path: str) -> bytes:
    try:
        return read_file(path, SIZE_MAX_BYTES)
    except UnreadableError as error:
        raise SourceError(f"{path}: {error.message}", error.hint) from None


def _decoded(where: str, data: str) -> bytes:
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raise SourceError(f"{where}: is not base64", "write the file again") from None
