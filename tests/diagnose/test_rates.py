"""Rates from two samples, their order, their filter and their text."""

from __future__ import annotations

import pytest

from kubeproxy_py.diagnose.document import Rates, Top, TopService
from kubeproxy_py.diagnose.rates import (
    Names,
    Sample,
    ServicePortName,
    arranged,
    names_of,
    rates_between,
    services_between,
)
from kubeproxy_py.diagnose.top_text import number_text, top_text
from kubeproxy_py.model.rows import Connections, RealServer, RealServerCounters, Traffic, VirtualServer
from tests.builders import endpoint_slice, service
from tests.diagnose.view import snapshot_with, state_of

WEB = VirtualServer("10.96.0.10", 80, "TCP")
WEB_OUTSIDE = VirtualServer("192.0.2.1", 30080, "TCP")
DNS = VirtualServer("fd00:10:96::a", 53, "UDP")
POD_1, POD_2 = "10.244.1.5", "10.244.2.6"
NAMES = Names(
    {WEB: ServicePortName("shop", "web", "http"), WEB_OUTSIDE: ServicePortName("shop", "web", "http")},
    {RealServer(WEB, POD_1, 8080): ("web-1", "node-a")},
)


def real(server: VirtualServer, address: str = POD_1) -> RealServer:
    return RealServer(server, address, 8080)


def counted(connections: int, *, weight: int = 1, active: int = 0) -> RealServerCounters:
    return RealServerCounters(weight, Connections(active, 0), Traffic(connections))


def top(before: Sample, after: Sample, names: Names = NAMES) -> dict[str, TopService]:
    return {service.name or service.addresses[0]: service for service in services_between(before, after, names)}


def test_rates_are_differences_per_second() -> None:
    before, after = Traffic(10, 100, 90, 1000, 900), Traffic(20, 140, 110, 5000, 900)
    assert rates_between(before, after, 2.0) == Rates(5.0, 20.0, 10.0, 2000.0, 0.0)


def test_counters_that_went_back_count_from_zero() -> None:
    # One counter is enough: the others may have passed their old values already.
    assert rates_between(Traffic(10, 5, 5, 50, 50), Traffic(4, 8, 8, 80, 80), 2.0) == Rates(2.0, 4.0, 4.0, 40.0, 40.0)


@pytest.mark.parametrize(("before", "seconds"), [(None, 2.0), (Traffic(), 0.0)])
def test_there_are_no_rates_without_an_earlier_sample(before: Traffic | None, seconds: float) -> None:
    assert rates_between(before, Traffic(1), seconds) is None


def test_addresses_of_a_service_port_are_summed() -> None:
    before = Sample(10.0, {WEB: Traffic(), WEB_OUTSIDE: Traffic(), DNS: Traffic()})
    after = Sample(12.0, {WEB: Traffic(10), WEB_OUTSIDE: Traffic(4), DNS: Traffic(2)})
    found = top(before, after)
    assert {name: one.rates and one.rates.connections for name, one in found.items()} == {
        "web": 7.0,
        "[fd00:10:96::a]:53": 1.0,
    }
    assert found["web"].addresses == ("10.96.0.10:80", "192.0.2.1:30080")


def test_real_server_behind_two_addresses_is_one() -> None:
    before = Sample(
        0.0, {WEB: Traffic(), WEB_OUTSIDE: Traffic()}, {real(WEB): counted(0), real(WEB_OUTSIDE): counted(5)}
    )
    reals = {real(WEB): counted(3, active=2), real(WEB_OUTSIDE): counted(6, active=1)}
    (only,) = top(before, Sample(1.0, before.servers, reals))["web"].real_servers
    assert (only.rates, only.active, only.pod, only.node) == (Rates(4.0), 3, "web-1", "node-a")


def test_draining_real_servers_are_counted_apart() -> None:
    reals = {real(WEB): counted(0), real(WEB, POD_2): counted(0, weight=0, active=1)}
    sample = Sample(0.0, {WEB: Traffic()}, reals)
    found = top(sample, sample)["web"]
    assert (found.serving, found.draining, found.active) == (1, 1, 1)
    assert {one.address: one.status for one in found.real_servers} == {POD_1: "serving", POD_2: "draining"}


def test_what_appeared_between_the_samples_has_no_rates() -> None:
    found = top(Sample(0.0), Sample(1.0, {WEB: Traffic(1000)}, {real(WEB): counted(1000)}))["web"]
    assert (found.rates, found.real_servers[0].rates) == (None, None)


def test_a_rate_that_is_unknown_does_not_hide_those_that_are_known() -> None:
    before = Sample(0.0, {WEB: Traffic(1)})
    found = top(before, Sample(1.0, {WEB: Traffic(3), WEB_OUTSIDE: Traffic(1000)}))["web"]
    assert found.rates == Rates(2.0)


def three() -> list[TopService]:
    def one(name: str, connections: float, received: float, active: int, address: str) -> TopService:
        rates = Rates(connections, 1.0, 1.0, received, 0.0)
        return TopService("shop", name, "", "TCP", (f"{address}:80",), rates, active)

    return [one("a", 1, 50, 9, "10.96.0.1"), one("b", 3, 10, 9, "10.96.0.2"), one("c", 2, 90, 1, "10.96.0.3")]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [("connections", "bca"), ("bytes", "cab"), ("active", "abc"), ("name", "abc"), ("packets", "abc")],
)
def test_services_are_sorted_with_the_largest_first_and_equal_ones_by_name(sort: str, expected: str) -> None:
    assert "".join(one.name for one in arranged(three(), sort)) == expected
    assert "".join(one.name for one in arranged(three(), sort, reverse=True)) == expected[::-1]


@pytest.mark.parametrize(
    ("wanted", "expected"), [("", "bca"), ("SHOP/B", "b"), ("96.0.3", "c"), ("shop 0.1", "a"), ("x", "")]
)
def test_filter_admits_services_of_which_each_word_is_part(wanted: str, expected: str) -> None:
    assert "".join(one.name for one in arranged(three(), wanted=wanted)) == expected


def test_filter_finds_a_service_by_its_pod() -> None:
    sample = Sample(0.0, {WEB: Traffic(), DNS: Traffic()}, {real(WEB): counted(0)})
    assert [one.name for one in arranged(services_between(sample, sample, NAMES), wanted="web-1")] == ["web"]


def test_names_are_those_of_the_state_document() -> None:
    state = state_of(snapshot_with(service(), endpoint_slice()), realServers="true")
    listed = state.services[0]
    names = names_of(state)
    assert {(name.namespace, name.name) for name in names.servers.values()} == {(listed.namespace, listed.name)}
    assert len(names.servers) == len(listed.virtual_servers) > 0
    assert len(names.pods) == sum(len(one.real_servers or ()) for one in listed.virtual_servers) > 0


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.04, "<0.1"),
        (0.5, "0.5"),
        (9.96, "10"),
        (999.4, "999"),
        (999.6, "1k"),
        (1234, "1.2k"),
        (5e7, "50M"),
        (3e20, "300000P"),
    ],
)
def test_numbers_have_few_characters(number: float, text: str) -> None:
    assert number_text(number) == text


def test_control_characters_of_names_do_not_reach_the_terminal() -> None:
    service = TopService("shop", "\x1b]0;x\x07", "", "TCP", ("10.96.0.1:80",), None)
    text = top_text(Top("", "Top", "", 1.0, services=(service,)), real_servers=True)
    assert r"shop/\x1b]0;x\x07" in text
    assert text.replace("\n", "").isprintable()
