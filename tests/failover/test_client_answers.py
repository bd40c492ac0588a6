"""client_results: what clients get of each endpoint, from the counters of IPVS."""

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
    found = client_results(before, after)
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
    assert client_results(before, {ONE: counters(Traffic(4, 20, 0, 2000, 0)), TWO: counters(NOTHING)}) == {}


def test_an_endpoint_that_is_new_tells_nothing() -> None:
    assert client_results({}, {ONE: counters(UNANSWERED), TWO: counters(ANSWERED)}) == {}


def test_an_endpoint_of_two_virtual_servers_is_as_the_better_one_shows() -> None:
    behind_other = RealServer(OTHER, ONE.address, 8080)
    before = {key: counters(NOTHING) for key in (ONE, TWO, behind_other)}
    after = {ONE: counters(UNANSWERED), TWO: counters(ANSWERED), behind_other: counters(ANSWERED)}
    assert client_results(before, after)[ONE.address, 8080].result is Result.SERVES


def test_a_virtual_server_with_direct_return_tells_nothing() -> None:
    before = {ONE: counters(NOTHING), TWO: counters(NOTHING, -1)}
    assert client_results(before, {ONE: counters(ANSWERED), TWO: counters(UNANSWERED, -1)}) == {}


def test_resets_are_recognized_in_ipv6() -> None:
    server = VirtualServer("fd00:10:96::10", 80, "TCP")
    key = RealServer(server, "fd00:10:244::5", 8080)
    reset = Traffic(2, 2, 2, 160, 120)
    assert client_results({key: counters(NOTHING)}, {key: counters(reset)}) == {
        (key.address, 8080): Seen(Result.REFUSES, 2)
    }
