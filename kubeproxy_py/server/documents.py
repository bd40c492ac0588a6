"""Documents: the pages that explain the agent's state, for the debug socket and the metrics server.

Invariants:
- A page is a pure function of a snapshot and the parameters; only the kernel's connection counts are read besides.
- A page never keeps the loop from its work: what takes long gives way after each few Services.
- Whatever a client asks for is answered with a JSON document; of an error, with an ErrorDocument.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import replace

from kubeproxy_py.config.write import as_document, section_fields
from kubeproxy_py.diagnose.document import VERSION, Config, Document, ErrorDocument, ServiceState
from kubeproxy_py.diagnose.explain import explain
from kubeproxy_py.diagnose.filters import ParameterError, parse_filter, require_known
from kubeproxy_py.diagnose.objects import encode_objects
from kubeproxy_py.diagnose.rates import traffic_document
from kubeproxy_py.diagnose.scope import Scope, servers_of
from kubeproxy_py.diagnose.services import ConnectionCounts
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.diagnose.state import ServiceList, head_of
from kubeproxy_py.diagnose.status_text import render
from kubeproxy_py.diagnose.targets import TargetFormError, UnknownTargetError, parse_target
from kubeproxy_py.diagnose.trace.document import trace_json
from kubeproxy_py.diagnose.trace.objects import (
    SnapshotLookup,
    directory_of,
    known_to,
    objects_of,
    pending_notes,
    pods_here,
)
from kubeproxy_py.diagnose.trace.packet import Host
from kubeproxy_py.diagnose.trace.path import trace
from kubeproxy_py.diagnose.trace.request import TraceError, parse_request
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.rows import Connections, RealServer, RealServerCounters, VirtualServer
from kubeproxy_py.server.host_view import HostView
from kubeproxy_py.server.http_messages import NOT_FOUND, Request, Response
from kubeproxy_py.server.snapshots import WAIT_S, AgentBusyError, Snapshots

_JSON = (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"))
_BINARY = (("Content-Type", "application/octet-stream"), *_JSON[1:])
OBJECTS, TABLE = "/v1/objects", "/v1/table"
PATIENT_S = 12.0
"""How long a request at the debug socket waits for the loop: less than our own commands wait for the answer."""

_WORK_S = 0.005  # after so much work a document gives way to the loop
_GIVE_WAY_S = 0.0005  # not 0: a thread that waits for the interpreter would not get it
_PARAMETERS_MAX = 20
TRACE_PARAMETERS = ("from", "to", "inInterface")

Parameters = Mapping[str, str]
Counts = TypeVar("Counts")
Pause = Callable[[], None]
"""Gives way to other threads."""

log = logging.getLogger(__name__)


class ConnectionReader(Protocol):
    """Reads connection counts from the kernel."""

    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        """Return the number of connections of each real server of *virtual_servers*.  Raises KernelError."""

    def real_server_counters(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, RealServerCounters]:
        """Return the counters of each real server of *virtual_servers*.  Raises KernelError."""


class Kernel:
    """Connection counts for pages; the reader is made by the first request, in the thread that uses it."""

    def __init__(self, make_reader: Callable[[], ConnectionReader]) -> None:
        self._make_reader = make_reader
        self._reader: ConnectionReader | None = None

    def connections(self, servers: Collection[VirtualServer]) -> ConnectionCounts | None:
        """Return the counts of the real servers of *servers*; None if they cannot be read."""
        return self._read(lambda reader: reader.connections(servers) if servers else {})

    def counters(self, servers: Collection[VirtualServer]) -> dict[RealServer, RealServerCounters] | None:
        """Return the counters of the real servers of *servers*; None if they cannot be read."""
        return self._read(lambda reader: reader.real_server_counters(servers))

    def _read(self, read: Callable[[ConnectionReader], Counts]) -> Counts | None:
        try:
            self._reader = self._reader or self._make_reader()
            return read(self._reader)
        except (KernelError, OSError) as error:
            log.debug("Failed to read the counters of IPVS", extra=values(err=error))
            self._reader = None  # the next request makes another one
            return None


Page = Callable[[Snapshot, Parameters, Kernel, Pause], Iterator[bytes]]
"""Yields the JSON of a document in pieces.

Raises:
    ParameterError, TargetFormError: A parameter cannot be used.
    UnknownTargetError: What is asked for does not exist.
"""


def plain(page: Callable[[Snapshot, Parameters], Document]) -> Page:
    """Return the page of a document that is made at once: a function of the snapshot and the parameters."""

    def pieces(snapshot: Snapshot, parameters: Parameters, _kernel: Kernel, _pause: Pause) -> Iterator[bytes]:
        yield msgspec.json.encode(page(snapshot, parameters))

    return pieces


def state_page(snapshot: Snapshot, parameters: Parameters, kernel: Kernel, pause: Pause) -> Iterator[bytes]:
    """Yield the State document: all Services, with their real servers and connections unless parameters say less."""
    everything = {"realServers": "true", "connections": "true"}
    yield from status_page(snapshot, {**everything, **parameters}, kernel, pause)


def status_page(snapshot: Snapshot, parameters: Parameters, kernel: Kernel, pause: Pause) -> Iterator[bytes]:
    """Yield the State document with the Services that the parameters admit."""
    listed = ServiceList(snapshot, parse_filter(parameters))
    for _ in listed.prepare():
        pause()
    head = msgspec.json.encode(head_of(snapshot))
    yield head.removesuffix(b'"services":[]}')
    yield b'"services":['
    separator = b""
    for batch in listed.batches():
        connections = kernel.connections(listed.servers(batch)) if listed.counts_connections else None
        encoded = b",".join(map(msgspec.json.encode, listed.states(batch, connections)))
        yield separator + encoded
        separator = b","
        pause()
    yield b"]}"


def table_page(snapshot: Snapshot, parameters: Parameters, kernel: Kernel, pause: Pause) -> Iterator[bytes]:
    """Yield the StatusText of what the parameters admit, for our own commands: some times smaller than the State."""
    listed = ServiceList(snapshot, parse_filter(parameters))
    for _ in listed.prepare():
        pause()
    states: list[ServiceState] = []
    for batch in listed.batches():
        connections = kernel.connections(listed.servers(batch)) if listed.counts_connections else None
        states += listed.states(batch, connections)
        pause()
    yield msgspec.json.encode(render(replace(head_of(snapshot), services=tuple(states)), pause=pause))


def config_page(snapshot: Snapshot, parameters: Parameters) -> Config:
    """Return the Config document."""
    require_known(parameters, ())
    about = snapshot.about
    config, settings = as_document(about.config), section_fields(about.settings)
    return Config(VERSION, "Config", about.version, about.source, config, settings)


def objects_page(snapshot: Snapshot, parameters: Parameters, _kernel: Kernel, pause: Pause) -> Iterator[bytes]:
    """Yield the objects of the agent, for a command of the same version."""
    require_known(parameters, ())
    for piece in encode_objects(snapshot):
        yield piece
        pause()


def trace_page(snapshot: Snapshot, parameters: Parameters, _kernel: Kernel, pause: Pause) -> Iterator[bytes]:
    """Yield the way of a packet by the rows that the agent wants."""
    require_known(parameters, TRACE_PARAMETERS)
    source, target = _required(parameters, "from"), _required(parameters, "to")
    known, view = known_to(snapshot), HostView()
    host = Host(
        snapshot.host_addresses, view.route_to, lambda family: pods_here(known, family), view.listens, view.interfaces
    )
    try:
        directory = replace(directory_of(known), is_known="services" not in snapshot.awaited)
        request = parse_request(source, target, parameters.get("inInterface", ""), directory)
        pause()
        lookup = SnapshotLookup(snapshot)
        pause()
        traced = trace(lookup, host, request, objects_of(known))
        yield trace_json(replace(traced, notes=(*traced.notes, *pending_notes(snapshot))))
    except TraceError as error:
        raise ParameterError(str(error)) from None
    finally:
        view.close()


def explain_page(snapshot: Snapshot, parameters: Parameters, kernel: Kernel, _pause: Pause) -> Iterator[bytes]:
    """Yield the Explanation of the parameter ``target``."""
    require_known(parameters, ("target",))
    scope = Scope(snapshot, parse_target(_required(parameters, "target")))
    yield msgspec.json.encode(explain(snapshot, scope, kernel.connections(servers_of(snapshot, scope))))


def traffic_page(snapshot: Snapshot, parameters: Parameters, kernel: Kernel, _pause: Pause) -> Iterator[bytes]:
    """Yield the TrafficDocument of the Service that the parameter ``service`` names."""
    require_known(parameters, ("service",))
    scope = Scope(snapshot, parse_target(_required(parameters, "service")))
    held = {server for name in scope.names for server in snapshot.claims.held_by(name)}
    servers = [server for server in servers_of(snapshot, scope) if server in held]
    yield msgspec.json.encode(traffic_document(kernel.counters(servers), time.monotonic()))


PAGES: dict[str, Page] = {
    "/v1/state": state_page,
    "/v1/status": status_page,
    "/v1/explain": explain_page,
    "/v1/trace": trace_page,
    "/v1/config": plain(config_page),
    "/v1/traffic": traffic_page,
}
"""Every page by its path; `plain` makes one of a function of a snapshot and parameters."""

SOCKET_PAGES: dict[str, Page] = {**PAGES, OBJECTS: objects_page, TABLE: table_page}
"""The pages of the debug socket; two of them are for our own commands only."""


class Documents:
    """Answers requests for *pages*; to be used by one thread.

    Args:
        snapshots: Where snapshots come from.
        make_reader: Makes the reader of connection counts.
        pages: The pages by their path.
        wait_s: How long a request waits for the loop, and those after it in the same server; the first sync of 10,000
            Services may take longer than a health check can wait.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        make_reader: Callable[[], ConnectionReader],
        pages: Mapping[str, Page] = PAGES,
        wait_s: float = WAIT_S,
    ) -> None:
        self._snapshots = snapshots
        self._kernel = Kernel(make_reader)
        self._pages = pages
        self._wait_s = wait_s

    def answer(self, request: Request) -> Response:
        """Answer *request*, whose path is that of a page."""
        page = self._pages.get(request.path)
        if page is None:
            return NOT_FOUND
        if request.method not in ("GET", "HEAD"):
            return _error(405, "only GET is answered", allow="GET, HEAD")
        try:
            parameters = _parameters(request.query)
            pieces = page(self._snapshots.get(self._wait_s), parameters, self._kernel, _Turns().give_way)
            return Response(200, b"".join(pieces), _BINARY if request.path == OBJECTS else _JSON)
        except (ParameterError, TargetFormError) as error:
            return _error(400, str(error))
        except UnknownTargetError as error:
            return _error(404, str(error), error.nearest)
        except AgentBusyError as error:
            return _error(503, str(error))


class _Turns:
    """Lets other threads work now and then."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def give_way(self) -> None:
        """Sleep a moment if this thread has worked for _WORK_S."""
        if time.monotonic() - self._began_s >= _WORK_S:
            time.sleep(_GIVE_WAY_S)
            self._began_s = time.monotonic()


def _parameters(query: str) -> Parameters:
    """Return the parameters of *query*, each of which may be given once.  Raises ParameterError."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=_PARAMETERS_MAX)
    except ValueError:
        raise ParameterError("the query cannot be read") from None
    if len(dict(pairs)) < len(pairs):
        raise ParameterError("a parameter is given twice")
    return dict(pairs)


def _required(parameters: Parameters, name: str) -> str:
    """Return the parameter *name*.  Raises ParameterError if it is not given, or empty."""
    if not parameters.get(name):
        raise ParameterError(f"{name}: is missing")
    return parameters[name]


def _error(status: int, text: str, nearest: Collection[str] = (), allow: str = "") -> Response:
    headers = (*_JSON, ("Allow", allow)) if allow else _JSON
    return Response(status, msgspec.json.encode(ErrorDocument(text, tuple(nearest))), headers)
