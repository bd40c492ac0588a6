"""Weights of endpoints that fail their checks, or start slowly."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.compile.cluster import Cluster
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.conditions import choose_aside, weighed
from kubeproxy_py.compile.service import compile_service
from kubeproxy_py.compile.settings import applied
from kubeproxy_py.model.conditions import FULL_STEP, Conditions, EndpointFailures, EndpointSteps, Failure, can_set_aside
from kubeproxy_py.model.events import ServiceUpserted, SliceUpserted
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.rows import RealServer, RealServerSpec, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.services import Service
from kubeproxy_py.model.settings import ServiceSettings, Written
from tests.builders import endpoint_slice, name, node_context, port, service

SERVER = VirtualServer("10.96.0.10", 80, "TCP")
RR, WRR = VirtualServerSpec("rr"), VirtualServerSpec("wrr")
SLOW = ServiceSettings(scheduler="wrr", slow_start_s=30.0)


def place(number: int) -> Destination:
    return f"10.244.1.{number}", 8080


def rows(*weights: int) -> Rows:
    """Return real servers of SERVER with *weights*, numbered from 1."""
    return {RealServer(SERVER, *place(number)): RealServerSpec(weight) for number, weight in enumerate(weights, 1)}


def failing(*numbers: int) -> dict[Destination, Failure]:
    """Return failures of the endpoints *numbers*, one second after the other."""
    return {place(number): Failure(float(at_s), "") for at_s, number in enumerate(numbers)}


def weights(
    *before: int,
    failures: Mapping[Destination, Failure] | None = None,
    steps: Mapping[int, int] | None = None,
    spec: VirtualServerSpec = WRR,
    slowly: bool = False,
) -> list[int]:
    conditions = Conditions(failures or {}, {place(number): step for number, step in (steps or {}).items()})
    (part,) = weighed([rows(*before)], conditions, spec, starts_slowly=slowly)
    return [each.weight for each in part.values() if isinstance(each, RealServerSpec)]


@pytest.mark.parametrize(
    ("count", "failures", "aside"),
    [
        (4, (1,), {1}),
        (4, (3, 1), {3, 1}),
        (4, (3, 1, 2), {3, 1}),  # at most half: those that failed first
        (4, (3, 1, 2, 4), set()),  # all fail: the way to them is the likelier cause
        (3, (1, 2), {1}),
        (2, (2,), {2}),
        (1, (1,), set()),
        (2, (7,), set()),  # it is no endpoint any more
    ],
)
def test_at_most_half_are_set_aside(count: int, failures: tuple[int, ...], aside: set[int]) -> None:
    found = weights(*[1] * count, failures=failing(*failures))
    assert {number for number, weight in enumerate(found, 1) if not weight} == aside


@given(st.sets(st.integers(1, 30)), st.permutations(range(1, 31)), st.integers(0, 30))
def test_an_endpoint_is_set_aside_only_if_it_fails_and_half_stay(
    present: set[int], order: list[int], count: int
) -> None:
    chosen = choose_aside(map(place, present), failing(*order[:count]))
    assert chosen <= {place(number) for number in order[:count]} & {place(number) for number in present}
    assert 2 * len(chosen) <= len(present)
    if chosen:
        assert any(place(number) not in failing(*order[:count]) for number in present)


@pytest.mark.parametrize(
    ("scheduler", "flags", "can"),
    [("rr", 0, True), ("lc", 0, True), ("dh", 0, False), ("sh", 0, False), ("sh", 8, True), ("mh", 0x10, False)],
)
def test_only_schedulers_that_pass_over_weight_0_set_aside(scheduler: str, flags: int, can: bool) -> None:
    spec = VirtualServerSpec(scheduler, flags)
    assert can_set_aside(scheduler, flags) is can
    assert weights(1, 1, failures=failing(1), spec=spec) == ([0, 1] if can else [1, 1])


def test_parts_in_which_nothing_changes_stay_the_same() -> None:
    parts: list[Rows] = [rows(1, 1), {RealServer(SERVER, "10.244.9.9", 8080): RealServerSpec(1)}]
    after = weighed(parts, Conditions(failing(1)), RR, starts_slowly=False)
    assert (after[0] is parts[0], after[1] is parts[1]) == (False, True)


@pytest.mark.parametrize(
    ("before", "steps", "after"),
    [
        ((1, 1), {}, [10, 10]),
        ((1, 1), {2: 1}, [10, 1]),
        ((1, 1), {2: 7}, [10, 7]),
        ((3, 2), {2: 5}, [30, 10]),
        ((1, 1), {1: 1, 2: 1}, [10, 10]),  # all are new
        ((1, 1, 1), {1: 4, 2: 4, 3: 2}, [10, 10, 5]),  # relative to the furthest
        ((60_000, 60_000), {2: 5}, [60_000, 30_000]),  # as large as weights can be
        ((1, 20_000), {1: 1}, [1, 60_000]),  # never without connections
    ],
)
def test_weights_grow_by_tenths(before: tuple[int, ...], steps: dict[int, int], after: list[int]) -> None:
    assert weights(*before, steps=steps, slowly=True) == after


def test_an_endpoint_that_is_set_aside_does_not_slow_the_others() -> None:
    assert weights(1, 1, 1, failures=failing(1), steps={2: 2, 3: 2}, slowly=True) == [0, 10, 10]


@given(st.lists(st.tuples(st.integers(1, 6553), st.integers(1, FULL_STEP)), min_size=1, max_size=12))
def test_no_service_is_slowed_as_a_whole(endpoints: list[tuple[int, int]]) -> None:
    steps = {number: step for number, (_, step) in enumerate(endpoints, 1) if step < FULL_STEP}
    before = [weight for weight, _ in endpoints]
    after = weights(*before, steps=steps, slowly=True)
    assert any(now == FULL_STEP * whole for now, whole in zip(after, before, strict=True))
    assert all(1 <= now <= FULL_STEP * whole for now, whole in zip(after, before, strict=True))


# In the compiler


def compiled(one: Service, conditions: Conditions, *slices: str) -> list[int]:
    parts = [endpoint_slice(endpoints=[address], suffix=address) for address in slices]
    found = compile_service(one, parts, node_context(), conditions=conditions)
    in_order = sorted((key.address, spec) for key, spec in found.items() if isinstance(key, RealServer))
    return [spec.weight for _, spec in in_order if isinstance(spec, RealServerSpec)]


def test_half_is_half_of_a_virtual_server_whatever_slices_have_its_endpoints() -> None:
    addresses = [place(number)[0] for number in (1, 2, 3)]
    assert compiled(service(), Conditions(failing(1, 2)), *addresses) == [0, 1, 1]


def test_a_udp_endpoint_is_set_aside_with_its_tcp_twin() -> None:
    dns = service(ports=[port(53, "TCP", "tcp"), port(53, "UDP", "udp")])
    pods = ["10.244.1.1", "10.244.1.2"]
    slices = [
        endpoint_slice(endpoints=pods, protocol="TCP", label="tcp", suffix="tcp"),
        endpoint_slice(endpoints=pods, protocol="UDP", label="udp", suffix="udp"),
    ]
    found = compile_service(dns, slices, node_context(), conditions=Conditions(failing(1)))
    aside = [
        (key.virtual_server.protocol, key.address)
        for key, spec in found.items()
        if isinstance(key, RealServer) and spec == RealServerSpec(0)
    ]
    assert sorted(aside) == [("TCP", "10.244.1.1"), ("UDP", "10.244.1.1")]


def test_rows_are_as_ever_without_conditions() -> None:
    assert compiled(service(), Conditions(), "10.244.1.1") == [1]
    assert compiled(
        service(settings=ServiceSettings(slow_start_s=30)), Conditions({}, {place(1): 1}), "10.244.1.1"
    ) == [1]


def test_events_replace_what_was_known_of_a_service() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context())
    compiler.handle_event(ServiceUpserted(service(settings=SLOW)))
    compiler.handle_event(SliceUpserted(endpoint_slice(endpoints=["10.244.1.1", "10.244.1.2"])))
    compiler.compile()
    for event, expected in (
        (EndpointSteps(name("web"), {place(1): 3}), [3, 10]),
        (EndpointFailures(name("web"), failing(2)), [10, 0]),
        (EndpointSteps(name("web"), {}), [10, 0]),
        (EndpointFailures(name("web"), {}), [10, 10]),
    ):
        compiler.handle_event(event)
        compiler.compile()
        found = sorted((key, spec) for key, spec in compiler.desired.rows.items() if isinstance(key, RealServer))
        assert [spec.weight for _, spec in found if isinstance(spec, RealServerSpec)] == expected


def test_conditions_may_be_known_before_their_service() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context())
    compiler.handle_event(EndpointFailures(name("web"), failing(2)))
    compiler.handle_event(SliceUpserted(endpoint_slice(endpoints=["10.244.1.1", "10.244.1.2"])))
    compiler.compile()
    compiler.handle_event(ServiceUpserted(service()))
    compiler.compile()
    assert compiler.desired.rows[RealServer(SERVER, *place(2))] == RealServerSpec(0)


def test_the_same_conditions_again_make_no_service_dirty() -> None:
    cluster = Cluster()
    cluster.apply(ServiceUpserted(service()))
    cluster.apply(EndpointFailures(name("web"), failing(1)))
    cluster.dirty.clear()
    cluster.apply(EndpointFailures(name("web"), failing(1)))
    cluster.apply(EndpointSteps(name("web"), {}))
    assert not cluster.dirty


def setting(name: str, value: str, **fields: object) -> ServiceSettings:
    written = (Written(name, f"kubeproxy-py.io/{name}", value),)
    return ServiceSettings(written=written, **fields)  # type: ignore[arg-type]


UNUSED: list[tuple[ServiceSettings, list[str]]] = [
    (setting("slow-start", "30s", slow_start_s=30), ["has no effect with scheduler rr"]),
    (setting("slow-start", "30s", slow_start_s=30, scheduler="wlc"), []),
    (
        setting("health-check", "tcp", scheduler="sh", health_check="tcp"),
        ["has no effect with scheduler sh, which does not pass over endpoints of weight 0"],
    ),
    (setting("health-check", "tcp", scheduler="sh", scheduler_flags=("fallback",), health_check="tcp"), []),
    (
        setting("health-check", "tcp", scheduler="dh", health_check="tcp"),
        ["has no effect with scheduler dh, which does not pass over endpoints of weight 0"],
    ),
    (setting("health-check", "tcp", health_check="tcp"), []),
]


@pytest.mark.parametrize(("settings", "messages"), UNUSED)
def test_settings_that_the_scheduler_cannot_follow_are_ignored(settings: ServiceSettings, messages: list[str]) -> None:
    assert [problem.message for problem in applied(service(settings=settings), node_context()).problems] == messages
