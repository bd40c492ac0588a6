"""Endpoints as documents: why each gets new connections of a Service port, or does not."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.compile.frontends import external_local, is_local_policy
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.service import select_endpoints
from kubeproxy_py.compile.settings import applied
from kubeproxy_py.compile.topology import (
    Backend,
    SelectionRule,
    SliceEndpoints,
    backends,
    is_local,
)
from kubeproxy_py.compile.unserved import may_serve
from kubeproxy_py.diagnose.conditions import condition_text, set_aside
from kubeproxy_py.diagnose.document import EndpointState
from kubeproxy_py.diagnose.services import KIND_NAMES
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.model.conditions import FULL_STEP
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.rows import RealServer, RealServerSpec
from kubeproxy_py.model.services import Endpoint, EndpointSlice, Service, ServicePort
from kubeproxy_py.net import FAMILIES, IP, Family, family_of

INSIDE = "external addresses from this node"
"""What an endpoint serves that only clients of this node reach at external addresses."""

_Kinds = Sequence[FrontendKind]


def endpoint_states(
    snapshot: Snapshot, service: Service, is_meant: Callable[[ServicePort], bool] = lambda _port: True
) -> Iterator[EndpointState]:
    """Yield each endpoint of *service* for each of its ports that *is_meant*, in each family that has addresses."""
    slices, kinds = snapshot.slices_of(service.name), _kinds_by_family(snapshot, service)
    observed = _Observed(snapshot, service) if service.name in snapshot.conditions else None
    weights = _Weights(snapshot, service)
    inside = _inside(snapshot, service)
    for family in FAMILIES:
        for port in service.ports:
            if family in kinds and is_meant(port):
                states = _states_of_port(
                    service, port, family, slices, kinds[family], snapshot.context, observed, weights
                )
                yield from (_with_inside(state, inside) for state in states)
    for part in slices:
        if part.family not in kinds:
            for endpoint, pod in zip(part.endpoints, part.pod_names(), strict=False):
                reason = f"the Service has no {part.family} address"
                yield _state(ServicePort("", "TCP", 0), part, endpoint, pod, 0, (), reason)


def _inside(snapshot: Snapshot, service: Service) -> frozenset[Destination]:
    """Return the endpoints that clients of this node reach by firewall mark, with exact policies."""
    if not snapshot.context.policy_marks or not external_local(service):
        return frozenset()
    return frozenset(
        (key.address, key.port)
        for part in snapshot.parts.get(service.name, ())
        for key, spec in part.items()
        if isinstance(key, RealServer) and key.virtual_server.mark and isinstance(spec, RealServerSpec) and spec.weight
    )


def _with_inside(state: EndpointState, inside: frozenset[Destination]) -> EndpointState:
    """Return *state*, which names clients of this node if it serves external addresses for them only."""
    external = {KIND_NAMES[kind] for kind in FrontendKind if kind is not FrontendKind.CLUSTER_IP}
    if (state.address, state.port) not in inside or external.intersection(state.serves):
        return state
    reason = f"{state.reason}; clients of this node reach it at external addresses (exact policies)"
    return replace(state, serves=(*state.serves, INSIDE), reason=reason)


class _Observed:
    """What this node observed of the endpoints of *service*."""

    def __init__(self, snapshot: Snapshot, service: Service) -> None:
        self._snapshot = snapshot
        self._service = service
        self._aside = set_aside(snapshot, service.name)
        self._places = {(key.address, key.port) for key in self._aside}

    def text(self, place: Destination) -> str:
        """Return it in words; "" if nothing was."""
        return condition_text(self._snapshot, self._service.name, place, is_aside=place in self._places)

    def is_aside(self, port: ServicePort, kind: FrontendKind, address: IP, number: int) -> bool:
        """Return whether the endpoint is set aside at the frontends of *kind* of *port*."""
        at = port.node_port if kind is FrontendKind.NODE_PORT else port.port
        return any(
            not key.virtual_server.mark  # it is at no frontend; its port is 0, as a NodePort that is none
            and (key.address, key.port) == (address, number)
            and (key.virtual_server.port, key.virtual_server.protocol) == (at, port.protocol)
            and self._snapshot.claims.claims_to(key.virtual_server)[0].kind is kind
            for key in self._aside
        )


class _Weights:
    """The weights that the endpoints of *service* have because of its settings."""

    def __init__(self, snapshot: Snapshot, service: Service) -> None:
        here = applied(service, snapshot.context)
        self._is_shown = bool(here.weights or here.slow_start_s)
        self._has_tenths = here.slow_start_s > 0
        self._are_given = bool(here.weights)
        self._chosen = here.chosen_weight(snapshot.context, snapshot.labels)
        self._in_ipvs: dict[Destination, set[int]] = {}
        for key, spec in snapshot.desired_of(service.name).items() if self._is_shown else ():
            if isinstance(key, RealServer) and isinstance(spec, RealServerSpec) and spec.forwarding == "masquerade":
                self._in_ipvs.setdefault((key.address, key.port), set()).add(spec.weight)

    def added_to(self, state: EndpointState, endpoint: Endpoint) -> EndpointState:
        """Return *state*, that of *endpoint*, with its weight, and what gives it that."""
        found = self._in_ipvs.get((state.address, state.port))
        if not found:
            return state
        chosen = self._chosen(endpoint)
        weight = chosen.weight if chosen else 1
        origin = f"{weight} by {chosen}" if chosen else f"{weight}, as none fits" if self._are_given else str(weight)
        numbers = " and ".join(map(str, sorted(found)))
        whole = f" of {weight * FULL_STEP}" if self._has_tenths else ""
        in_ipvs = f", in IPVS {numbers}{whole}" if found != {weight} else ""
        return replace(
            state,
            reason=f"{state.reason}; weight {origin}{in_ipvs}",
            weight=weight,
            weight_by=str(chosen) if chosen else "",
            ipvs_weights=tuple(sorted(found)),
        )


def _kinds_by_family(snapshot: Snapshot, service: Service) -> dict[Family, list[FrontendKind]]:
    """Return the kinds of addresses at which *service* is served, by family."""
    found: dict[Family, dict[FrontendKind, None]] = {}
    for server in snapshot.claims.held_by(service.name):
        claim = snapshot.claims.claims_to(server)[0]
        found.setdefault(family_of(server.address), {})[claim.kind] = None
    for address in service.cluster_ips:
        found.setdefault(family_of(address), {})
    return {family: sorted(kinds) for family, kinds in found.items()}


def _states_of_port(  # noqa: PLR0913, PLR0917 - all that the selection depends on
    service: Service,
    port: ServicePort,
    family: Family,
    slices: Sequence[EndpointSlice],
    kinds: _Kinds,
    context: NodeContext,
    observed: "_Observed | None",
    weights: "_Weights",
) -> Iterator[EndpointState]:
    chosen = SliceEndpoints(backends(slices, family, port), context)
    selection = select_endpoints(service, port, kinds, [chosen])
    rules = {kind: selection.for_policy(is_local=is_local_policy(service, kind)) for kind in kinds}
    in_use = {rule: {(b.address, b.port) for b in chosen.selected(rule)} for rule in rules.values()}
    for part in slices:
        if part.family != family:
            continue
        numbers = [one.port for one in part.ports if (one.name, one.protocol) == (port.name, port.protocol)]
        for endpoint, pod in zip(part.endpoints, part.pod_names(), strict=False):
            if not numbers:
                yield _state(port, part, endpoint, pod, 0, (), _no_port_text(port, part))
            for number in numbers:
                serves = [kind for kind, rule in rules.items() if (endpoint.address, number) in in_use[rule]]
                reason = _reason(endpoint, serves, rules, chosen.backends, context)
                if observed and (text := observed.text((endpoint.address, number))):
                    serves = [kind for kind in serves if not observed.is_aside(port, kind, endpoint.address, number)]
                    reason = f"{reason}; {text}"
                yield weights.added_to(_state(port, part, endpoint, pod, number, serves, reason), endpoint)


def _state(  # noqa: PLR0913, PLR0917 - the document has as many fields
    port: ServicePort,
    part: EndpointSlice,
    endpoint: Endpoint,
    pod: str,
    number: int,
    serves: Iterable[FrontendKind],
    reason: str,
) -> EndpointState:
    return EndpointState(
        port.name,
        port.protocol,
        part.family,
        endpoint.address,
        number,
        tuple(KIND_NAMES[kind] for kind in serves),
        reason,
        pod,
        endpoint.node,
        endpoint.zone,
        part.name.name,
    )


def _no_port_text(port: ServicePort, part: EndpointSlice) -> str:
    same = sorted({one.protocol for one in part.ports if one.name == port.name})
    if same:
        return f"its port is of protocol {'/'.join(same)}, the Service port is {port.protocol}"
    names = ", ".join(sorted(one.name or "(unnamed)" for one in part.ports)) or "no port"
    return f"no {repr_name(port.name)} in its slice (it has: {names})"


def repr_name(name: str) -> str:
    """Return ``port "http"``, or ``unnamed port``."""
    return f'port "{name}"' if name else "unnamed port"


def _reason(
    endpoint: Endpoint,
    serves: _Kinds,
    rules: Mapping[FrontendKind, SelectionRule],
    candidates: Sequence[Backend],
    context: NodeContext,
) -> str:
    """Return why *endpoint* serves the kinds *serves*, and not the others of *rules*."""
    if not rules:
        return "the Service is served at no address"
    if len(serves) == len(rules):
        return _in_texts({rules[kind] for kind in serves})
    if not may_serve(endpoint):
        return "terminating, and not serving any more" if endpoint.terminating else "not ready"
    others = {rule for kind, rule in rules.items() if kind not in serves}
    text = "; ".join(sorted({_out_text(endpoint, rule, context) for rule in others}))
    if not serves:
        return text
    names = ", ".join(KIND_NAMES[kind] for kind in rules if kind not in serves)
    return f"{_in_texts({rules[kind] for kind in serves})}; not for {names}: {text}"


def _in_texts(rules: Iterable[SelectionRule]) -> str:
    return "; ".join(sorted(rule.value for rule in rules))


def _out_text(endpoint: Endpoint, rule: SelectionRule, context: NodeContext) -> str:
    if rule in (SelectionRule.LOCAL, SelectionRule.LOCAL_TERMINATING) and not is_local(endpoint, context.node_name):
        return f"on node {endpoint.node or '(unknown)'}, and policy Local uses endpoints of this node only"
    if endpoint.terminating and not endpoint.ready:
        return "terminating, and others are ready"
    if rule is SelectionRule.ZONE_HINTED:
        return f"hinted for zone {', '.join(endpoint.zone_hints)}, this node is in {context.zone}"
    if rule is SelectionRule.NODE_HINTED:
        return f"hinted for node {', '.join(endpoint.node_hints)}, this is {context.node_name}"
    if rule is SelectionRule.NONE:
        return f"on node {endpoint.node or '(unknown)'}, and policy Local uses endpoints of this node only"
    return "not ready"
