"""Weights of endpoints that fail their checks, or that start slowly.

Invariants:
- Of the real servers of one virtual server that may get connections, at most half are set aside, those that failed
  first; and none if all fail, because then the way from this node, or the check itself, is the likelier cause.
- No real server starts slowly unless another one is further: weights are relative, so those of a Service whose
  endpoints are all equally new are whole.
- An endpoint that starts slowly has at least the weight 1, so it is never without connections.
- Without conditions, and without slow start, rows are returned as they are.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from kubeproxy_py.model.conditions import FULL_STEP, Conditions, Failure, can_set_aside
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.rows import RealServer, RealServerSpec, Rows, VirtualServerSpec

SHARES_BY_WEIGHT = frozenset(("wrr", "wlc", "sed", "nq", "lblc", "lblcr", "twos"))
"""Schedulers that give a real server a share of new connections by its weight, without moving those of the others.

sh and mh use weights, too, but a changed one moves clients from one endpoint to another; fo and ovf use one server.
"""

WEIGHT_MAX = 65535  # ipvsadm(8)


Behind = Mapping[RealServer, Mapping[Destination, int]]
"""The endpoints behind each node that packets are handed on to, with their whole weights."""


def weighed(
    parts: Sequence[Rows],
    conditions: Conditions,
    spec: VirtualServerSpec,
    *,
    starts_slowly: bool,
    behind: Behind = {},  # noqa: B006 - never changed
) -> list[Rows]:
    """Return *parts*, the real servers of one virtual server, with the weights that follow from *conditions*.

    Args:
        parts: The real servers; parts in which nothing changes are returned as they are.
        conditions: Of the endpoints of the Service.
        spec: That of the virtual server.
        starts_slowly: Whether new endpoints start slowly; all weights have FULL_STEP steps then.
        behind: What has the weight of each real server that is a node: these endpoints, which start slowly, too.
    """
    can = conditions.failures and can_set_aside(spec.scheduler, spec.flags)
    aside = _set_aside(parts, conditions.failures) if can else frozenset[Destination]()
    if starts_slowly and spec.scheduler in SHARES_BY_WEIGHT:  # not sh, which affinity by mark has
        return _stepped(parts, conditions.steps, aside, behind)
    return [_without(part, aside) for part in parts] if aside else list(parts)


def destination_of(key: RealServer) -> Destination:
    """Return address and port of the endpoint that *key* is."""
    return key.address, key.port


def set_aside_in(parts: Iterable[Rows], conditions: Conditions) -> dict[RealServer, None]:
    """Return the real servers among *parts*, desired rows of a Service with *conditions*, that are set aside.

    No other desired real server has the weight 0, but nodes to which direct server return hands on, none of whose
    endpoints is to get connections: these are no endpoints.
    """
    if not conditions.failures:
        return {}
    return {
        key: None
        for part in parts
        for key, spec in part.items()
        if isinstance(key, RealServer) and isinstance(spec, RealServerSpec) and _is_aside(spec)
    }


def _is_aside(spec: RealServerSpec) -> bool:
    return not spec.weight and spec.forwarding == "masquerade"


def choose_aside(
    destinations: Iterable[Destination], failures: Mapping[Destination, Failure]
) -> frozenset[Destination]:
    """Return which of *destinations*, the real servers of one virtual server, are set aside."""
    candidates = list(destinations)
    failing = sorted((failures[place], place) for place in candidates if place in failures)
    if len(failing) == len(candidates):
        return frozenset()
    return frozenset(place for _, place in failing[: len(candidates) // 2])


def _set_aside(parts: Iterable[Rows], failures: Mapping[Destination, Failure]) -> frozenset[Destination]:
    return choose_aside(
        (destination_of(key) for part in parts for key in part if isinstance(key, RealServer)),
        failures,
    )


def _without(part: Rows, aside: frozenset[Destination]) -> Rows:
    keys = [key for key in part if isinstance(key, RealServer) and destination_of(key) in aside]
    return {**part, **{key: _with_weight(part[key], 0) for key in keys}} if keys else part


def _stepped(
    parts: Sequence[Rows], steps: Mapping[Destination, int], aside: frozenset[Destination], behind: Behind
) -> list[Rows]:
    """Return *parts* with weights in FULL_STEP steps, relative to the endpoint that is furthest."""
    keys = [key for part in parts for key in part if isinstance(key, RealServer)]
    places = [place for key in keys for place, weight in behind.get(key, {destination_of(key): 1}).items() if weight]
    furthest = max((steps.get(place, FULL_STEP) for place in places if place not in aside), default=FULL_STEP)
    scale = _scale(parts)

    def weight_of(place: Destination, base: int) -> int:
        if place in aside or not base:
            return 0
        return max(1, base * scale * min(furthest, steps.get(place, FULL_STEP)) // furthest)

    def sum_of(key: RealServer, base: int) -> int:
        if key not in behind:
            return weight_of(destination_of(key), base)
        return min(WEIGHT_MAX, sum(weight_of(place, weight) for place, weight in behind[key].items()))

    return [
        {
            key: _with_weight(spec, sum_of(key, spec.weight))
            if isinstance(key, RealServer) and isinstance(spec, RealServerSpec)
            else spec
            for key, spec in part.items()
        }
        for part in parts
    ]


def _scale(parts: Iterable[Rows]) -> int:
    """Return by what whole weights are multiplied, so that a tenth of them is a whole number, if there is room."""
    largest = max(
        (spec.weight for part in parts for spec in part.values() if isinstance(spec, RealServerSpec)), default=1
    )
    return min(FULL_STEP, WEIGHT_MAX // max(1, largest))


def _with_weight(spec: object, weight: int) -> RealServerSpec:
    assert isinstance(spec, RealServerSpec), spec
    return replace(spec, weight=weight)
