"""The objects of the bench: JSON and values are the same objects."""

from __future__ import annotations

from bench import objects
from bench.inside.lines import Lines
from kubeproxy_py.model.events import Event, ServiceUpserted, SliceUpserted, Synced


def test_listed_pages_decode_to_the_values() -> None:
    values: list[Event] = [ServiceUpserted(objects.service(number)) for number in range(3)]
    values += [Synced("services"), *(SliceUpserted(objects.endpoint_slice(number)) for number in range(3))]
    assert list(Lines().initial_events(3)) == [*values, Synced("slices"), Synced("node")]


def test_every_fifth_service_has_an_external_policy_of_local() -> None:
    values = [ServiceUpserted(objects.service(number, 5)) for number in range(7)]
    decoded = list(Lines(5).initial_events(7))
    assert decoded[:7] == values
    external = [event.service for event in values if event.service.external_local]
    assert [(each.load_balancer_ips, each.ports[0].node_port) for each in external] == [
        (("198.18.0.1",), 30_000),
        (("198.18.0.2",), 30_001),
    ]


def test_watch_line_decodes_to_the_replaced_endpoint() -> None:
    lines = Lines()
    list(lines.initial_events(3))
    replaced = objects.endpoint_slice(1, replaced=True)
    assert lines.slice(objects.slice_line(1, replaced=True)) == [SliceUpserted(replaced)]


def test_watch_line_without_a_change_is_no_event() -> None:
    lines = Lines()
    list(lines.initial_events(3))
    assert lines.slice(objects.slice_line(1)) == []


def test_all_pods_of_a_wide_service_are_replaced() -> None:
    addresses = [endpoint.address for part in objects.wide(250)[1] for endpoint in part.endpoints]
    after = [endpoint.address for place in (0, 100, 200) for endpoint in objects.wide_slice(place, 250, 250).endpoints]
    assert (len(addresses), len(after), set(addresses) & set(after)) == (250, 250, set())


def test_replacing_one_pod_changes_one_endpoint_of_its_slice() -> None:
    before, after = objects.wide_slice(120, 250, 120), objects.wide_slice(120, 250, 121)
    differing = [
        place for place, pair in enumerate(zip(before.endpoints, after.endpoints, strict=True)) if pair[0] != pair[1]
    ]
    assert differing == [20]


def test_pod_of_a_service_of_many_ports_serves_every_port() -> None:
    service, part = objects.many_ports(1, 5, "203.0.113.1"), objects.many_ports_slice(1, 5)
    assert [port.name for port in service.ports] == [port.name for port in part.ports]
    assert part.endpoints != objects.many_ports_slice(1, 5, replaced=1).endpoints
