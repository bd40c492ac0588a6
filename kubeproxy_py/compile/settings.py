"""What the settings of a Service (model/settings.py) amount to on this node; pure.

Invariants:
- A Service without settings has the rows that it would have if there were none.
- A setting that does not fit the others or this node is a SettingProblem and has no effect; the others have theirs.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Network

from msgspec import Struct

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.compile.conditions import SHARES_BY_WEIGHT, WEIGHT_MAX
from kubeproxy_py.compile.frontends import Placement, external_local
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.model.conditions import FULL_STEP, can_set_aside
from kubeproxy_py.model.extensions import EXTENSIONS
from kubeproxy_py.model.peers import NO_NEEDS, Labels, PeerNeeds, key_of, weighed_labels
from kubeproxy_py.model.refusal import SETTING_IGNORED, Refusal
from kubeproxy_py.model.rows import FLAG_PERSISTENT, FLAG_SCHED_1, FLAG_SCHED_2, RealServerSpec, VirtualServerSpec
from kubeproxy_py.model.services import Endpoint, Service
from kubeproxy_py.model.settings import (
    FALLBACK_FLAG,
    NO_SETTINGS,
    PORT_FLAG,
    DirectReturn,
    ServiceSettings,
    SettingProblem,
    Weight,
    WeightKey,
    Written,
)
from kubeproxy_py.net import ADDRESS_BITS, Family, Protocol

SpecOf = Callable[[Endpoint], RealServerSpec]
"""Returns the spec of the real server of an endpoint."""

WEIGHTED_TWINS: Mapping[str, str] = {"rr": "wrr", "lc": "wlc"}
"""The schedulers that do the same with weights; those that take no notice of weights otherwise are in UNWEIGHTED."""
UNWEIGHTED = frozenset((*WEIGHTED_TWINS, "dh"))
HASHING = ("sh", "mh")
"""The schedulers that hash the client's address, and have flags."""
BY_ORDER = frozenset((*HASHING, "dh"))
"""The schedulers whose choice follows from the order of the real servers, for as long as these are the same."""

HANDED_ON_KINDS = (FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER)
HANDED_ON_PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")
"""The kinds of frontends, and the protocols, of which direct server return hands clients on."""

_STEPPED_WEIGHT_MAX = WEIGHT_MAX // FULL_STEP
"""The largest weight of an endpoint that can have as many steps."""

_OF_HEALTH_CHECK = ("health-check-interval", "health-check-threshold")

_FLAGS: Mapping[str, int] = {FALLBACK_FLAG: FLAG_SCHED_1, PORT_FLAG: FLAG_SCHED_2}


class Applied(Struct, frozen=True, gc=False):
    """The settings of one Service as they apply on this node."""

    scheduler: str
    flags: int = 0  # of the scheduler
    persistence_s: int = 0
    prefixes: tuple[tuple[Family, int], ...] = ()  # of client networks that share a real server
    weights: tuple[Weight, ...] = ()
    max_connections: int = 0
    slow_start_s: float = 0.0  # how long the weight of a new endpoint grows
    direct_return: DirectReturn = ""
    problems: tuple[SettingProblem, ...] = ()  # what is ignored

    def server_spec(self, family: Family) -> VirtualServerSpec:
        """Return the spec of each virtual server in *family*."""
        persistent = FLAG_PERSISTENT if self.persistence_s else 0
        netmask = _netmask(family, dict(self.prefixes).get(family, 0)) if self.prefixes else ""
        return VirtualServerSpec(self.scheduler, self.flags | persistent, self.persistence_s, netmask)

    def spec_of(self, context: NodeContext, labels: Labels) -> SpecOf | None:
        """Return what returns the spec of each real server; None: all have the weight 1 and no limit.

        *labels* are those of all nodes.
        """
        if not self.weights and not self.max_connections:
            return None
        chosen, limit = self.chosen_weight(context, labels), self.max_connections

        def spec_of(endpoint: Endpoint) -> RealServerSpec:
            weight = chosen(endpoint)
            return _real_server_spec(weight.weight if weight else 1, limit)

        return spec_of

    def chosen_weight(self, context: NodeContext, labels: Labels) -> Callable[[Endpoint], Weight | None]:
        """Return what returns which of the weights an endpoint has: the first that it fits; None: it fits none."""
        matches = [(_MATCHES[one.key], one) for one in self.weights]
        return lambda endpoint: next((one for fits, one in matches if fits(endpoint, one.name, context, labels)), None)


def slow_start_in_force_s(service: Service, context: NodeContext) -> float:
    """Return how long new endpoints of *service* start slowly on the node *context*, in seconds; 0: not at all."""
    scheduler, weights, _ = _scheduler_and_weights(service.settings, context)
    return _slow_start_s(service.settings, scheduler, weights)[0]


def needs_in_force(service: Service, context: NodeContext) -> PeerNeeds:
    """Return what the settings of *service* that are in force on the node *context* need of all nodes."""
    settings = service.settings
    if settings is NO_SETTINGS or service.proxy_name is not None or not service.cluster_ips:  # nearly always
        return NO_NEEDS
    has_weights = settings.weights and _scheduler_and_weights(settings, context)[1]
    labels = frozenset(map(key_of, weighed_labels(service))) if has_weights else frozenset[str]()
    return PeerNeeds(bool(_direct_return(service, context)[0]), labels) or NO_NEEDS


def applied(service: Service, context: NodeContext) -> Applied:
    """Return the settings of *service* as they apply on the node *context*."""
    settings, timeout_s = service.settings, service.affinity_timeout_s
    if settings is NO_SETTINGS or settings == NO_SETTINGS:  # nearly always
        return Applied(context.scheduler, context.scheduler_flags, timeout_s)
    scheduler, weights, problems = _scheduler_and_weights(settings, context)
    flags = _flags(settings, scheduler)
    problems += settings.problems
    problems += _flag_problems(settings, scheduler)
    slow_start_s, ignored = _slow_start_s(settings, scheduler, weights)
    problems += ignored
    problems += _tcp_problems(service)
    problems += _health_check_problems(settings, scheduler, flags)
    direct_return, ignored = _direct_return(service, context)
    problems += ignored
    if not timeout_s:
        why, hint = "has no effect without spec.sessionAffinity: ClientIP", "set it, or remove the annotation"
        problems += _problems(settings, ("affinity-timeout", "affinity-mask"), why, hint)
        limit = settings.max_connections
        return Applied(scheduler, flags, 0, (), weights, limit, slow_start_s, direct_return, problems)
    timeout_s = settings.affinity_timeout_s or timeout_s
    prefixes, limit = settings.affinity_prefixes, settings.max_connections
    return Applied(scheduler, flags, timeout_s, prefixes, weights, limit, slow_start_s, direct_return, problems)


def settings_in_force(service: Service, refusals: Iterable[Refusal]) -> dict[str, str]:
    """Return the annotations of *service*, of which *refusals* are known, that have effect here, with their values."""
    if service.settings is NO_SETTINGS:
        return {}
    ignored = {refusal.subject for refusal in refusals if refusal.reason == SETTING_IGNORED}
    return {one.annotation: one.value for one in service.settings.written if _subject(one) not in ignored}


def flag_names(flags: int) -> tuple[str, ...]:
    """Return the names of the scheduler's flags among *flags* of a virtual server."""
    return tuple(name for name, flag in _FLAGS.items() if flags & flag)


def setting_refusals(
    service: Service, context: NodeContext, placement: Placement, peers_refused: str = ""
) -> tuple[Refusal, ...]:
    """Return the settings of *service* that are ignored on the node *context*.

    *placement* has the decisions for its addresses; *peers_refused* says why no Node is known of all nodes.
    """
    settings = service.settings
    if settings is NO_SETTINGS or service.proxy_name is not None:  # nearly always; another proxy's
        return ()
    if placement:
        here = applied(service, context)
        problems = here.problems + _unbound_problems(settings, here.direct_return, placement)
        if peers_refused:
            problems += _peer_problems(service, here, peers_refused)
    else:
        problems = settings.problems + _not_served_problems(service)
    return tuple(
        Refusal(SETTING_IGNORED, service.name, _subject(problem), f"{problem.message}; ignored", problem.hint)
        for problem in problems
    )


def _subject(one: Written | SettingProblem) -> str:
    return f"{one.annotation}={one.value}"


def _not_served_problems(service: Service) -> tuple[SettingProblem, ...]:
    """Return a problem for each setting of *service*, nothing of which is served, if it is meant to be so."""
    if service.type != "ExternalName" and service.cluster_ips:
        return ()
    what = "of type ExternalName" if service.type == "ExternalName" else "without a ClusterIP (headless)"
    names = {one.setting for one in service.settings.written}
    return _problems(service.settings, names, f"has no effect on a Service {what}", "remove the annotation")


def _unbound_problems(
    settings: ServiceSettings, direct_return: DirectReturn, placement: Placement
) -> tuple[SettingProblem, ...]:
    """Return that *direct_return* is ignored, if machines have all addresses that it is for."""
    if not direct_return:
        return ()
    concerned = [one for _, bindings in placement for one in bindings if one.kind in HANDED_ON_KINDS and one.is_served]
    if not concerned or any(one.is_bound for one in concerned):
        return ()
    addresses = ", ".join(dict.fromkeys(one.address for one in concerned))
    message = f"has no effect at addresses that a machine has ({addresses})"
    return _problems(settings, ("dsr",), message, "give the Service an address that no machine has")


def _peer_problems(service: Service, here: Applied, why: str) -> tuple[SettingProblem, ...]:
    """Return what of the settings in force *here* is ignored because the API server refuses to list Nodes: *why*."""
    hint = "let the role list and watch nodes, all of them"
    found: tuple[SettingProblem, ...] = ()
    if here.weights and any(weighed_labels(service)):
        message = f"weights by label need all Nodes, which the API server refuses: {why}"
        found += _problems(service.settings, ("weights",), message, hint)
    if here.direct_return:
        message = f"needs the addresses of all Nodes, which the API server refuses: {why}"
        found += _problems(service.settings, ("dsr",), message, hint)
    return found


def _scheduler_and_weights(
    settings: ServiceSettings, context: NodeContext
) -> tuple[str, tuple[Weight, ...], tuple[SettingProblem, ...]]:
    """Return the scheduler, the weights, and what of both is ignored.

    Weights make a scheduler that takes no notice of them its weighted twin, unless the Service names it itself.
    """
    own = settings.scheduler
    problems: tuple[SettingProblem, ...] = ()
    if own in context.missing_schedulers:
        problems, own = _problems(settings, ("scheduler",), *_lacks(own)), ""
    scheduler = own or context.scheduler
    if not settings.weights or scheduler not in UNWEIGHTED:
        return scheduler, settings.weights, problems
    twin = WEIGHTED_TWINS.get(scheduler, "")
    if own or not twin:
        whose = "set the annotation scheduler" if own or not twin else ""
        message, hint = f"has no effect with scheduler {scheduler}", f"{whose} to {twin or 'wrr or wlc'}"
    elif twin in context.missing_schedulers:
        message, hint = _lacks(twin)
    else:
        return twin, settings.weights, problems
    return scheduler, (), (*problems, *_problems(settings, ("weights",), message, hint))


def _lacks(scheduler: str) -> tuple[str, str]:
    """Return message and remedy for a setting that needs a *scheduler* which the kernel lacks."""
    return f"needs scheduler {scheduler}, which the kernel of this node lacks", f"modprobe ip_vs_{scheduler}"


def _flags(settings: ServiceSettings, scheduler: str) -> int:
    """Return the flags of *scheduler*: mh hashes the port, too, unless the settings say otherwise, as kube-proxy."""
    if scheduler not in HASHING:
        return 0
    names = settings.scheduler_flags
    flags = {*names} if names is not None else {PORT_FLAG} if scheduler == "mh" else set()
    if settings.source_hash_port is not None:
        (flags.add if settings.source_hash_port else flags.discard)(PORT_FLAG)
    return sum(_FLAGS[name] for name in flags)


def _flag_problems(settings: ServiceSettings, scheduler: str) -> tuple[SettingProblem, ...]:
    if scheduler in HASHING:
        return ()
    given = [
        *(["scheduler-flags"] if settings.scheduler_flags else ()),
        *(["source-hash-port"] if settings.source_hash_port else ()),
    ]
    hint = "set the annotation scheduler to sh or mh, or remove this one"
    return _problems(settings, given, f"has no effect with scheduler {scheduler}", hint)


def _slow_start_s(
    settings: ServiceSettings, scheduler: str, weights: Collection[Weight]
) -> tuple[float, tuple[SettingProblem, ...]]:
    """Return how long new endpoints start slowly, and what of it is ignored."""
    if not settings.slow_start_s:
        return 0.0, ()
    if scheduler not in SHARES_BY_WEIGHT:
        why, hint = f"has no effect with scheduler {scheduler}", "set the annotation scheduler to wrr or wlc"
    elif max((one.weight for one in weights), default=1) > _STEPPED_WEIGHT_MAX:
        why = f"has no tenths of weights beside one above {_STEPPED_WEIGHT_MAX}"
        hint = "divide all weights by the same number"
    else:
        return settings.slow_start_s, ()
    return 0.0, _problems(settings, ("slow-start",), why, hint)


def _direct_return(service: Service, context: NodeContext) -> tuple[DirectReturn, tuple[SettingProblem, ...]]:
    """Return how *service* is handed on to other nodes, and what of the setting is ignored."""
    settings = service.settings
    if not settings.direct_return:
        return "", ()
    if not context.policy_marks:
        why, hint = "needs exact policies", "start the agents with --policies=exact"
    elif not external_local(service):
        why, hint = "has no effect without spec.externalTrafficPolicy: Local", "set it, or remove the annotation"
    elif service.type != "LoadBalancer" and not (service.external_ips or service.load_balancer_ips):
        why, hint = "has no effect without a load balancer's address or externalIP", "remove the annotation"
    elif not any(port.protocol in HANDED_ON_PROTOCOLS for port in service.ports):
        why, hint = "has no effect without a TCP or UDP port", "remove the annotation"
    elif settings.direct_return == "route" and (missing := _missing_modules(context)):
        why, hint = f"needs what the kernel of this node lacks: {missing}", f"modprobe {missing}, or dsr: tunnel"
    else:
        return settings.direct_return, ()
    return "", _problems(settings, ("dsr",), why, hint)


def _missing_modules(context: NodeContext) -> str:
    """Return the kernel modules that mark what is handed on by route, of those that the kernel lacks."""
    lacking = (name for name in ("dscp", "DSCP") if any(name in each for each in context.missing_extensions.values()))
    return " ".join(EXTENSIONS[name].module for name in lacking)


def _health_check_problems(settings: ServiceSettings, scheduler: str, flags: int) -> tuple[SettingProblem, ...]:
    if settings.health_check == "none":
        why, hint = "has no effect without health-check: tcp", "set it, or remove the annotation"
        return _problems(settings, _OF_HEALTH_CHECK, why, hint)
    if can_set_aside(scheduler, flags):
        return ()
    message = f"has no effect with scheduler {scheduler}, which does not pass over endpoints of weight 0"
    hint = f"set scheduler-flags to {scheduler}-fallback" if scheduler in HASHING else "use another scheduler"
    return _problems(settings, ("health-check", *_OF_HEALTH_CHECK), message, hint)


def _tcp_problems(service: Service) -> tuple[SettingProblem, ...]:
    if not service.ports or any(port.protocol == "TCP" for port in service.ports):
        return ()
    checks = ("health-check", *_OF_HEALTH_CHECK) if service.settings.health_check != "none" else ()
    names = ["drain-deadline", *checks]
    return _problems(service.settings, names, "has no effect without a TCP port", "remove the annotation")


def _problems(settings: ServiceSettings, names: Collection[str], message: str, hint: str) -> tuple[SettingProblem, ...]:
    """Return a problem for each of *names* that is set."""
    return tuple(
        SettingProblem(one.annotation, one.value, message, hint) for one in settings.written if one.setting in names
    )


_MATCHES: Mapping[WeightKey, Callable[[Endpoint, str, NodeContext, Labels], bool]] = {
    "address": lambda endpoint, name, _context, _labels: endpoint.address == name,
    "node": lambda endpoint, name, _context, _labels: endpoint.node == name,
    "own-node": lambda endpoint, _name, context, _labels: endpoint.node == context.node_name != "",
    "label": lambda endpoint, name, _context, labels: name in labels.get(endpoint.node, ()),
    "zone": lambda endpoint, name, _context, _labels: endpoint.zone == name,
    "own-zone": lambda endpoint, _name, context, _labels: endpoint.zone == context.zone != "",
    "others": lambda _endpoint, _name, _context, _labels: True,
}


@lru_cache(256)  # few differ, and one value for all endpoints saves memory
def _real_server_spec(weight: int, max_connections: int) -> RealServerSpec:
    """Return the spec; with the lower threshold that lets a new connection in as soon as one has ended."""
    return RealServerSpec(weight, max_connections, max_connections)


def _netmask(family: Family, length: int) -> str:
    """Return the netmask of *length* as VirtualServerSpec has it; "" if each client is one for itself."""
    if length in (0, ADDRESS_BITS[family]):
        return ""
    return str(IPv4Network((0, length)).netmask) if family == "IPv4" else str(length)
