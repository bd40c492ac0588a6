"""Filters: which Services and virtual servers a document lists, from the parameters of a request.

Invariants:
- A parameter that is not known, or a value that cannot be meant, is an error: nothing is listed by mistake.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from kubeproxy_py.diagnose.document import ServiceState, VirtualServerState
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import IP, is_port_number, parse_ip

PARAMETERS = ("namespace", "service", "address", "port", "nodePort", "realServers", "connections")
"""The parameters of /v1/status and /v1/state."""

_TEXT_MAX = 100  # characters of a parameter that an error quotes


class ParameterError(ValueError):
    """A parameter of a request cannot be used; its text is for the operator."""


class Filter(Struct, frozen=True, gc=False):
    """What is listed; an empty field admits everything."""

    namespace: str = ""
    service: ServiceName | None = None
    address: IP = ""  # of a virtual server, or of a real server behind it
    port: int = 0
    node_port: int = 0
    real_servers: bool | None = None  # None: if few virtual servers match
    connections: bool | None = None  # None: the same

    @property
    def is_empty(self) -> bool:
        """Return whether everything is listed."""
        return not (self.namespace or self.service or self.address or self.port or self.node_port)


def parse_filter(parameters: Mapping[str, str]) -> Filter:
    """Return the filter of *parameters*.  Raises ParameterError."""
    require_known(parameters, PARAMETERS)
    namespace, service = parameters.get("namespace", ""), None
    if text := parameters.get("service"):
        service = _service(text, namespace)
    return Filter(
        namespace,
        service,
        _address(parameters.get("address", "")),
        _port("port", parameters.get("port", "")),
        _port("nodePort", parameters.get("nodePort", "")),
        _switch("realServers", parameters.get("realServers", "")),
        _switch("connections", parameters.get("connections", "")),
    )


def _service(text: str, namespace: str) -> ServiceName:
    """Return the Service that *text*, ``[NAMESPACE/]SERVICE``, and *namespace* name.  Raises ParameterError."""
    before, slash, name = text.rpartition("/")
    if not name or "/" in before or (slash and not before):
        raise ParameterError(f"service: {text[:_TEXT_MAX]!r} is not [NAMESPACE/]SERVICE")
    if before and namespace not in ("", before):
        raise ParameterError(
            f"service: {text[:_TEXT_MAX]!r} is not in the namespace {namespace[:_TEXT_MAX]!r}; give one of the two"
        )
    return ServiceName(before or namespace or "default", name)


def require_known(parameters: Iterable[str], known: Iterable[str]) -> None:
    """Raise ParameterError if one of *parameters* is not *known*."""
    if unknown := sorted(set(parameters) - set(known)):
        raise ParameterError(
            f"unknown parameter {unknown[0][:_TEXT_MAX]!r}; there are {', '.join(sorted(known)) or 'none'}"
        )


def matching(state: ServiceState, wanted: Filter) -> ServiceState | None:
    """Return *state* with the virtual servers that are *wanted*; None if none is."""
    if wanted.namespace and state.namespace != wanted.namespace:
        return None
    if wanted.service and (state.namespace, state.name) != (wanted.service.namespace, wanted.service.name):
        return None
    if not (wanted.address or wanted.port or wanted.node_port):
        return state
    servers = tuple(server for server in state.virtual_servers if _matches(server, wanted))
    if not servers:
        return None
    return ServiceState(state.namespace, state.name, state.type, servers, state.notes)


def _matches(server: VirtualServerState, wanted: Filter) -> bool:
    real_servers = server.real_servers or ()
    if wanted.address and wanted.address not in (server.address, *(real.address for real in real_servers)):
        return False
    if wanted.port and wanted.port not in (server.port, *(real.port for real in real_servers)):
        return False
    return not wanted.node_port or (server.kind == "NodePort" and server.port == wanted.node_port)


def _address(text: str) -> IP:
    try:
        return parse_ip(text) if text else ""
    except ValueError as error:
        raise ParameterError(f"address: {error}") from None


def _port(name: str, text: str) -> int:
    if not text:
        return 0
    if not is_port_number(text):
        raise ParameterError(f"{name}: {text[:20]!r} is not a port")
    return int(text)


def _switch(name: str, text: str) -> bool | None:
    values = {"": None, "true": True, "false": False}
    if text not in values:
        raise ParameterError(f"{name}: {text[:20]!r} is neither true nor false")
    return values[text]
