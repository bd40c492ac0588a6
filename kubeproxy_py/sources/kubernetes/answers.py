"""What an API server answers: pages of lists, lines of watches, and Status objects.

Invariants:
- Only what says that it is the list, or the event, that was asked for is one.  Between this node and the API server
  there may be an ingress, a captive portal or a load balancer that answers 200 with JSON of its own; taken for an
  empty list, that would delete every Service of the node.

Source: kubernetes.io/docs/reference/using-api/api-concepts; k8s.io/apimachinery, pkg/apis/meta/v1, types.go.
"""

from http import HTTPStatus

import msgspec
from msgspec import UNSET, Raw, Struct

from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources.decode.errors import UNREADABLE, FieldError, quoted
from kubeproxy_py.sources.decode.objects import Kind
from kubeproxy_py.sources.decode.schema import ListMetaWire, ListWire, StatusWire, WatchWire

_MESSAGE_MAX = 500  # characters of the server's message in a Problem
PROXY_HINT = "check for an HTTP proxy between this node and the API server"

_LIST = msgspec.json.Decoder(ListWire)
_WATCH = msgspec.json.Decoder(WatchWire)
_STATUS = msgspec.json.Decoder(StatusWire)

_HINTS: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "the server does not support this request",
    HTTPStatus.UNAUTHORIZED: "the credentials are missing, wrong or expired",
    HTTPStatus.FORBIDDEN: "the role needs list and watch on services, endpointslices and nodes",
    HTTPStatus.NOT_FOUND: "is this a Kubernetes API server?",
    HTTPStatus.TOO_MANY_REQUESTS: "the server is busy; retrying after the delay that it asks for",
}


class Page(Struct, frozen=True, gc=False):
    """A page of a list."""

    items: list[Raw]
    version: str
    continuation: str  # "": the last page


def read_page(kind: Kind, body: bytes | bytearray) -> Page:
    """Return the page of a list of *kind* in *body*.  Raises FieldError if it is not one."""
    try:
        wire = _LIST.decode(body)
    except (msgspec.ValidationError, *UNREADABLE):
        raise FieldError("list", "the response is not a list", PROXY_HINT) from None
    if wire.kind != f"{kind}List":
        found = f"its kind is {quoted(wire.kind)}" if wire.kind else "it has no kind"
        raise FieldError("list", f"the response is not a {kind}List: {found}", PROXY_HINT)
    meta = wire.metadata or ListMetaWire()
    if not meta.resource_version:
        raise FieldError("list", "the list has no metadata.resourceVersion", PROXY_HINT)
    if wire.items is UNSET:
        raise FieldError("list", "the list has no items", PROXY_HINT)
    return Page(wire.items or [], meta.resource_version, meta.continue_)


def read_line(line: bytes) -> WatchWire:
    """Return the event in a line of a watch.  Raises FieldError if it is not one."""
    try:
        return _WATCH.decode(line)
    except (msgspec.ValidationError, *UNREADABLE):
        raise FieldError("watch", "a line is not a watch event", PROXY_HINT) from None


def read_status(body: bytes | bytearray) -> StatusWire:
    """Return the Status object in *body*, or an empty one."""
    try:
        return _STATUS.decode(body)
    except (msgspec.ValidationError, *UNREADABLE):
        return StatusWire()


def problem_of(where: str, status: int, body: bytes | bytearray) -> Problem:
    """Return the Problem that a response with the HTTP *status* is."""
    message = read_status(body).message or "(no message)"
    return Problem(where, f"HTTP {status}", message[:_MESSAGE_MAX], _HINTS.get(status, ""))


def is_refusal(problem: Problem) -> bool:
    """Return whether *problem* is that the server forbids a request (403)."""
    return problem.field == f"HTTP {HTTPStatus.FORBIDDEN:d}"


def is_version_too_new(status: int, body: bytes | bytearray) -> bool:
    """Return whether the server does not know the version that was asked for yet, as after a restore."""
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR and "Too large resource version" in read_status(body).message


def may_be_the_version(status: int) -> bool:
    """Return whether a watch rejected with *status* may succeed with the version of a new list."""
    is_client_error = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    other_reasons = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)
    return is_client_error and status not in other_reasons
