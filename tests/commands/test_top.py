"""What `top` shows, what its keys do, and what it reads."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kubeproxy_py.commands.top import COUNTER_PERIOD_S, WINDOW_S, NameSource, Sampler, Taker
from kubeproxy_py.commands.top_view import TopView
from kubeproxy_py.diagnose.document import Rates, Top, TopRealServer, TopService
from kubeproxy_py.diagnose.rates import Names, Sample
from kubeproxy_py.model.rows import Connections, RealServer, RealServerCounters, Traffic, VirtualServer


def service(number: int, connections: float = 0.0) -> TopService:
    real = TopRealServer(f"10.244.0.{number}", 8080, "serving", Rates(connections), pod=f"pod-{number}")
    rates = Rates(connections)
    return TopService(
        "shop", f"web-{number:02}", "", "TCP", (f"10.96.0.{number}:80",), rates, 30 - number, 0, 1, 0, (real,)
    )


def view_of(count: int = 3) -> TopView:
    view = TopView()
    view.update(Top("", "Top", "2026-01-01T00:00:00Z", 2.0, services=tuple(service(n, n) for n in range(count))))
    return view


def shown(view: TopView, height: int = 20, width: int = 120) -> str:
    return "\n".join(text for text, _ in view.lines(height, width))


def names(view: TopView, height: int = 20) -> list[str]:
    return [word for line in shown(view, height).split("\n") for word in line.split() if word.startswith("shop/")]


def press(view: TopView, *keys: str) -> None:
    for key in keys:
        view.on_key(key)


def test_busiest_service_is_first() -> None:
    assert names(view_of()) == ["shop/web-02", "shop/web-01", "shop/web-00"]


def test_s_sorts_by_the_next_column_and_capital_s_by_the_previous_one() -> None:
    view = view_of()
    press(view, "s", "s", "s")
    assert "sort: active" in shown(view)
    assert names(view) == ["shop/web-00", "shop/web-01", "shop/web-02"]
    press(view, "S", "S", "S", "S")
    assert "sort: name" in shown(view)


def test_r_reverses_the_order() -> None:
    view = view_of()
    press(view, "r")
    assert names(view) == ["shop/web-00", "shop/web-01", "shop/web-02"]
    assert "sort: connections reversed" in shown(view)


def test_filter_applies_while_it_is_typed_and_keys_are_its_text() -> None:
    view = view_of()
    press(view, "/", *"web-01q", "backspace")
    assert (names(view), view.is_done) == (["shop/web-01"], False)
    press(view, "enter")
    assert "filter: web-01" in shown(view)
    press(view, "q")
    assert view.is_done


def test_escape_clears_the_filter() -> None:
    view = view_of()
    press(view, "/", *"nothing like it")
    assert "Nothing matches" in shown(view)
    press(view, "\x1b")
    assert len(names(view)) == 3


@pytest.mark.parametrize("key", ["p", " "])
def test_paused_view_does_not_change(key: str) -> None:
    view = view_of()
    press(view, key)
    before = shown(view)
    view.update(Top("", "Top", "2026-01-01T00:00:02Z", 2.0))
    assert shown(view) == before
    assert "PAUSED" in before
    press(view, key)
    view.update(Top("", "Top", "2026-01-01T00:00:02Z", 2.0))
    assert names(view) == []


def test_e_lists_real_servers() -> None:
    view = view_of()
    assert "-> 10.244.0.1:8080" not in shown(view)
    press(view, "e")
    assert "-> 10.244.0.1:8080  pod-1" in shown(view)


def test_long_list_is_scrolled_and_ends_at_its_last_line() -> None:
    view = view_of(30)
    assert names(view, 10) == [f"shop/web-{n:02}" for n in range(29, 23, -1)]
    press(view, "down", "down", "up")
    assert names(view, 10)[0] == "shop/web-28"
    press(view, "page down")
    assert names(view, 10)[0] == "shop/web-22"
    press(view, "end")
    assert names(view, 10)[-1] == "shop/web-00"
    assert len(names(view, 10)) == 6
    press(view, "home")
    assert names(view, 10)[0] == "shop/web-29"


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 24])
@pytest.mark.parametrize("width", [1, 40, 200])
def test_nothing_is_larger_than_the_terminal(height: int, width: int) -> None:
    lines = view_of(30).lines(height, width)
    assert len(lines) == height
    assert all(len(text) <= width for text, _ in lines)


def test_why_services_are_not_named_is_shown() -> None:
    view = TopView()
    view.update(Top("", "Top", "", 2.0, problem="no agent"))
    assert ("INCOMPLETE: no agent", "warning") in view.lines(10, 80)


# What is read


class Reader:
    def __init__(self, servers: Iterable[VirtualServer]) -> None:
        self.counters = dict.fromkeys(servers, Traffic())
        self.active: dict[VirtualServer, int] = {}
        self.read: list[set[VirtualServer]] = []

    def traffic(self) -> dict[VirtualServer, Traffic]:
        return dict(self.counters)

    def real_server_counters(self, virtual_servers: Iterable[VirtualServer]) -> dict[RealServer, RealServerCounters]:
        self.read.append(set(virtual_servers))
        return {
            RealServer(key, "10.244.0.1", 80): RealServerCounters(
                1, Connections(self.active.get(key, 0)), self.counters[key]
            )
            for key in self.read[-1]
        }


def servers(count: int) -> list[VirtualServer]:
    return [VirtualServer(f"10.96.{n // 250}.{n % 250}", 80, "TCP") for n in range(count)]


def test_real_servers_are_read_where_there_is_traffic_or_a_connection() -> None:
    keys = servers(5000)
    busy, connected = keys[4000], keys[4500]
    reader = Reader(keys)
    reader.active[connected] = 1
    sampler = Sampler(reader)
    first = sampler.sample()
    assert first.servers.keys() == {key.virtual_server for key in first.real_servers} == set(keys)
    for number in range(1, 4):
        reader.counters[busy] = Traffic(number)
        sample = sampler.sample()
        assert {busy, connected} <= reader.read[-1]
        assert len(reader.read[-1]) < 600
        assert len(sample.real_servers) == 5000


def test_each_idle_virtual_server_is_read_in_turn() -> None:
    keys = servers(1200)
    reader = Reader(keys)
    sampler = Sampler(reader)
    for _ in range(4):
        sampler.sample()
    assert set().union(*reader.read[1:]) == set(keys)


def test_deleted_virtual_server_is_forgotten_with_its_real_servers() -> None:
    reader = Reader(servers(2))
    sampler = Sampler(reader)
    sampler.sample()
    gone, _ = reader.counters.popitem()
    sample = sampler.sample()
    assert gone not in sample.servers
    assert gone not in {key.virtual_server for key in sample.real_servers}


class NoNames(NameSource):
    def __init__(self) -> None:
        self.problem = ""

    def names(self, sample: Sample) -> Names:
        return Names()


@pytest.mark.parametrize("interval_s", [0.25, 1.0, 2.0, 10.0])
def test_live_rates_are_averages_over_some_periods_of_the_counters(interval_s: float) -> None:
    (key,) = servers(1)
    reader = Reader([key])
    now_s, rates = 0.0, []
    taker = Taker(Sampler(reader, lambda: now_s), NoNames())
    for step in range(200):
        now_s = step * interval_s
        reader.counters[key] = Traffic(int(now_s / COUNTER_PERIOD_S) * 10)  # the kernel's way to count 5 a second
        if top := taker.take():
            assert top.interval_seconds <= WINDOW_S + max(interval_s, COUNTER_PERIOD_S)
            rates.append(top.services[0].rates)
    settled = [one.connections for one in rates[int(WINDOW_S / interval_s) :] if one]
    assert len(settled) > 100
    assert all(5 * 2 / 3 <= rate <= 5 * 4 / 3 for rate in settled), settled
