"""Ask an API server about a watch that is silent.

Two or three cheap requests on another connection:

1. A list of one object that is not older than our version.  A server that hangs does not answer it; one that was
   restored from a backup does not know the version (504 "Too large resource version", or an older list).
2. After a 504, the same of the most recent state, which distinguishes a restored server from one whose watch cache
   is behind.  A quiet resource stays behind for minutes where etcd sends no progress notices, and Kubernetes 1.34 or
   later answers from that cache alone (seen with 1.36.2 and etcd 3.4.23).
3. A watch of one second from our version.  If it sends a change, the watch that is open should have sent it.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Resource versions"; k8s.io/apiserver,
pkg/storage/errors.go (NewTooLargeResourceVersionError).
"""

from http import HTTPStatus

from kubeproxy_py.sources.decode.errors import FieldError
from kubeproxy_py.sources.decode.objects import decode
from kubeproxy_py.sources.kubernetes.answers import is_version_too_new, read_line, read_page
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.listing import target_of
from kubeproxy_py.sources.kubernetes.open_watch import Answer, Verdict, WatchActivity
from kubeproxy_py.sources.kubernetes.resources import Resource
from kubeproxy_py.sources.kubernetes.transport_errors import TransportError
from kubeproxy_py.sources.kubernetes.versions import goes_back

_IDLE, _UNKNOWN = Answer(Verdict.IDLE), Answer(Verdict.UNKNOWN)


def probe(api: ApiConnection, activity: WatchActivity, timeout_s: float) -> Answer:
    """Return what the server says about the watch of *activity*; each request takes up to *timeout_s*."""
    try:
        answer = _ask_for_version(api, activity, timeout_s)
        return _ask_for_changes(api, activity, timeout_s) if answer is _IDLE else answer
    except TransportError as error:
        if error.problem.field != "connection":  # credentials that cannot be read, say: the watch needs none
            return _UNKNOWN
        return Answer(Verdict.UNREACHABLE, error.problem)


def _ask_for_version(api: ApiConnection, activity: WatchActivity, timeout_s: float) -> Answer:
    """Return whether the server hangs, was restored, or may have nothing to send.  Raises TransportError."""
    not_older = {"resourceVersion": activity.version, "resourceVersionMatch": "NotOlderThan"}
    status, body = _list_one(api, activity.resource, not_older, timeout_s)
    if is_version_too_new(status, body):
        status, body = _list_one(api, activity.resource, {}, timeout_s)
    if status != HTTPStatus.OK:
        return _UNKNOWN
    try:
        version = read_page(activity.resource.kind, body).version
    except FieldError:
        return _UNKNOWN
    return Answer(Verdict.RESTORED) if goes_back(version, activity.version) else _IDLE


def _list_one(
    api: ApiConnection, resource: Resource, query: dict[str, str], timeout_s: float
) -> tuple[int, bytes | bytearray]:
    """Return status and body of the answer to a list of one object.  Raises TransportError."""
    response = api.request(lambda connection: connection.get(target_of(resource, {"limit": "1", **query}), timeout_s))
    try:
        return response.status, response.body()
    finally:
        response.close()


def _ask_for_changes(api: ApiConnection, activity: WatchActivity, timeout_s: float) -> Answer:
    """Return whether the server has changes that the watch did not send.  Raises TransportError."""
    target = target_of(activity.resource, {"watch": "true", "resourceVersion": activity.version, "timeoutSeconds": "1"})
    response = api.request(lambda connection: connection.get(target, timeout_s))
    try:
        if response.status != HTTPStatus.OK:
            return _UNKNOWN
        changed = any(_is_change(line, activity.resource) for line in response.lines() if line)
        return Answer(Verdict.FROZEN) if changed else _IDLE
    finally:
        response.close()


def _is_change(line: bytes, resource: Resource) -> bool:
    """Return whether a line is a change; an expired version, say, is none."""
    try:
        event = read_line(line)
    except FieldError:
        return False
    is_change = event.type in ("ADDED", "MODIFIED", "DELETED")
    return is_change and decode(resource.kind, event.object, origin="API").name is not None
