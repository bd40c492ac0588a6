"""client_results: what clients get of each endpoint, from the counters of IPVS."""

import pytest

from kubeproxy_py.failover.client_answers import Seen, client_results
from kubeproxy_py.failover.endpoint_health import Result
from kubeproxy_py.model.rows import Connections, RealServer, RealServerCounters, Traffic, VirtualServer

SERVER, OTHER = VirtualServer("10.96.0.10", 80, "TCP"), VirtualServer("10.96.0.11", 80, "TCP")
ONE, TWO = RealServer(SERVER, "10.244.1.5", 8080), RealServer(SERVER, "10.244.2.5", 8080)

NOTHING = Traffic()
ANSWERED = Traffic(3, 15, 12, 1500, 2400)
RESET = Traffic(3, 3, 3, 180, 120)
UNANSWERED = Traffic(3, 5, 0, 300, 0)


def results(**differences: Traffic) -> dict[str, Result]:
    keys = {"one": ONE, "two": TWO}
    start = Traffic(1000, 1000, 1000, 1000, 1000)
    before = {keys[name]: counters(start) for name in differences}
    after = {keys[name]: counters(added(start, each)) for name, each in differences.items()}
    found = client_results(before, before, after)
    return {name: found[keys[name].address, 8080].result for name in differences if (keys[name].address, 8080) in found}


def added(one: Traffic, two: Traffic) -> Traffic:
    fields = Traffic.__struct_fields__
    return Traffic(*(getattr(one, field) + getattr(two, field) for field in fields))


def counters(traffic: Traffic, weight: int = 1) -> RealServerCounters:
    return RealServerCounters(weight, Connections(), traffic)


def test_an_endpoint_that_sends_packets_serves() -> None:
    assert results(one=ANSWERED, two=NOTHING) == {"one": Result.SERVES}


def test_an_endpoint_that_sends_resets_only_may_refuse() -> None:
    assert results(one=RESET) == {"one": Result.REFUSES}


def test_an_endpoint_without_answers_is_deserted_if_others_answer() -> None:
    assert results(one=ANSWERED, two=UNANSWERED) == {"one": Result.SERVES, "two": Result.DESERTED}


def test_nothing_is_known_where_nobody_answers() -> None:
    assert results(one=UNANSWERED, two=UNANSWERED) == {}


def test_packets_of_old_connections_are_no_unanswered_ones() -> None:
    assert results(one=ANSWERED, two=Traffic(0, 5, 0, 300, 0)) == {"one": Result.SERVES}


def test_counters_that_began_again_tell_nothing() -> None:
    before = {ONE: counters(ANSWERED), TWO: counters(Traffic(9, 9, 9, 9, 9))}
    assert client_results(before, before, {ONE: counters(Traffic(4, 20, 0, 2000, 0)), TWO: counters(NOTHING)}) == {}


def test_an_endpoint_that_is_new_tells_nothing() -> None:
    assert client_results({}, {}, {ONE: counters(UNANSWERED), TWO: counters(ANSWERED)}) == {}


def test_an_endpoint_of_two_virtual_servers_is_as_the_better_one_shows() -> None:
    behind_other = RealServer(OTHER, ONE.address, 8080)
    before = {key: counters(NOTHING) for key in (ONE, TWO, behind_other)}
    after = {ONE: counters(UNANSWERED), TWO: counters(ANSWERED), behind_other: counters(ANSWERED)}
    assert client_results(before, before, after)[ONE.address, 8080].result is Result.SERVES


def test_a_virtual_server_with_direct_return_tells_nothing() -> None:
    before = {ONE: counters(NOTHING), TWO: counters(NOTHING, -1)}
    assert client_results(before, before, {ONE: counters(ANSWERED), TWO: counters(UNANSWERED, -1)}) == {}


def test_resets_are_recognized_in_ipv6() -> None:
    server = VirtualServer("fd00:10:96::10", 80, "TCP")
    key = RealServer(server, "fd00:10:244::5", 8080)
    reset = Traffic(2, 2, 2, 160, 120)
    assert client_results({}, {key: counters(NOTHING)}, {key: counters(reset)}) == {
        (key.address, 8080): Seen(Result.REFUSES, 2)
    }


# ICMP errors: Traffic(connections, packets and then bytes, received and sent)

V4, V6 = (ONE, TWO), (RealServer(SERVER, "fd00:10:244::5", 8080), RealServer(SERVER, "fd00:10:244::6", 8080))
ANSWERED_V6 = Traffic(3, 15, 12, 1800, 2700)


def answers_of(
    keys: tuple[RealServer, RealServer], one: Traffic, two: Traffic, *, earlier: Traffic | None = None
) -> list[Result | None]:
    """Return what clients get of two endpoints; *earlier*: what the first one got and sent in the seconds before."""
    now = (added(earlier, one) if earlier else one, two)
    start = {key: counters(NOTHING) for key in keys}
    before = {keys[0]: counters(earlier or NOTHING), keys[1]: counters(NOTHING)}
    found = client_results(start, before, dict(zip(keys, map(counters, now), strict=True)))
    return [found[key.address, 8080].result if (key.address, 8080) in found else None for key in keys]


@pytest.mark.parametrize(
    ("keys", "answered", "errors"),
    [
        pytest.param(V4, ANSWERED, Traffic(3, 3, 3, 180, 264), id="each SYN of Linux"),
        pytest.param(V4, ANSWERED, Traffic(3, 5, 2, 300, 176), id="fewer, as their rate is limited"),
        pytest.param(V4, ANSWERED, Traffic(3, 3, 3, 156, 240), id="each SYN of Windows"),
        pytest.param(V4, ANSWERED, Traffic(1, 2, 2, 2800, 1152), id="long packets are not quoted whole"),
        pytest.param(V6, ANSWERED_V6, Traffic(3, 3, 3, 240, 384), id="IPv6"),
        pytest.param(V6, ANSWERED_V6, Traffic(1, 2, 2, 2800, 2560), id="IPv6, long packets"),
    ],
)
def test_icmp_errors_are_no_answers(keys: tuple[RealServer, RealServer], answered: Traffic, errors: Traffic) -> None:
    assert answers_of(keys, errors, answered) == [Result.DESERTED, Result.SERVES]
    assert answers_of(keys, errors, UNANSWERED) == [None, None]  # they do not show that others answer, either


@pytest.mark.parametrize(
    "packets",
    [
        pytest.param(Traffic(4, 4, 2, 232, 184), id="SYNs of several systems"),
        pytest.param(Traffic(3, 3, 3, 180, 168), id="a router that quotes 8 bytes of TCP"),
    ],
)
def test_packets_nearly_as_long_as_icmp_errors_show_nothing(packets: Traffic) -> None:
    assert answers_of(V4, packets, ANSWERED) == [None, Result.SERVES]
    assert answers_of(V4, packets, UNANSWERED) == [None, None]


def test_icmp_errors_that_come_seconds_after_the_syns_are_no_answers() -> None:
    late = Traffic(0, 0, 3, 0, 264)
    assert answers_of(V4, late, ANSWERED, earlier=Traffic(3, 3, 0, 180, 0)) == [None, Result.SERVES]
    assert answers_of(V4, late, ANSWERED) == [Result.SERVES, Result.SERVES]  # more packets than clients sent


def test_short_requests_and_answers_are_no_icmp_errors() -> None:
    pings = Traffic(0, 20, 20, 1320, 1180)  # of Redis, on an open connection
    assert answers_of(V4, pings, UNANSWERED) == [Result.SERVES, Result.DESERTED]


def test_counters_that_began_again_between_the_last_readings_count_from_there() -> None:
    first, then = {ONE: counters(Traffic(9, 900, 900, 54000, 54000))}, {ONE: counters(NOTHING)}
    assert client_results(first, then, {ONE: counters(Traffic(3, 3, 3, 180, 264))}) == {}
    assert client_results(first, then, {ONE: counters(ANSWERED)}) == {("10.244.1.5", 8080): Seen(Result.SERVES, 3)}
