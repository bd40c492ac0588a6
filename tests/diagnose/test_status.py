"""The State document and its table: what is listed, in which order, and why nothing answers."""

from __future__ import annotations

from errno import EINVAL
from typing import Any

import msgspec
import pytest

from kubeproxy_py.compile.unserved import EXTERNAL_LOCAL_TEXT
from kubeproxy_py.diagnose.status_text import ago_text, duration_text, render, status_text
from kubeproxy_py.model.events import ServiceDeleted, SliceUpserted
from kubeproxy_py.model.rows import Connections, RealServer, VirtualServer
from kubeproxy_py.model.services import EndpointSlice, Service, SlicePort
from kubeproxy_py.sources.decode.settings import read_settings
from tests.builders import HERE, THERE, endpoint, endpoint_slice, name, port, service
from tests.diagnose.view import agent_with, only_server, only_service, snapshot_of, snapshot_with, state_of
from tests.reconcile.harness import POD, AgentHarness

HTTP = (port(label="http"),)
NOT_READY: dict[str, Any] = {"ready": False, "serving": False}


@pytest.mark.parametrize(
    ("asked", "slices", "reason"),
    [
        (service(), [], "no EndpointSlice"),
        (service(), [endpoint_slice(endpoints=())], "0 endpoints"),
        (
            service(),
            [endpoint_slice(endpoints=[endpoint(f"10.244.1.{n}", **NOT_READY) for n in (5, 6)])],
            "2 endpoints, 0 ready",
        ),
        (service(ports=HTTP), [endpoint_slice(label="web")], 'no port "http" in its slices (they have: web)'),
        (service(), [endpoint_slice(protocol="UDP")], "1 endpoint of protocol UDP, port is TCP"),
        (service(), [endpoint_slice(endpoints=("fd00::5",))], "no IPv4 endpoint, its slices are IPv6"),
        (
            service(internal_local=True),
            [endpoint_slice(endpoints=(endpoint(node=THERE),))],
            "internalTrafficPolicy Local: no endpoint on this node, its clients are refused",
        ),
    ],
)
def test_service_without_answering_endpoint_has_the_reason(
    asked: Service, slices: list[EndpointSlice], reason: str
) -> None:
    server = only_server(snapshot_with(asked, *slices))
    assert (server.status, server.reason, server.serving) == ("unserved", reason, 0)
    assert server.reason_kind


def test_external_local_without_local_endpoint_is_unserved_outside_and_served_inside() -> None:
    exposed = service(type="NodePort", external_local=True, ports=(port(node_port=30_080),))
    snapshot = snapshot_with(exposed, endpoint_slice(endpoints=(endpoint(node=THERE),)))
    inside, outside = only_server(snapshot), only_server(snapshot, "NodePort")
    assert (inside.status, inside.policy) == ("serving", "Cluster")
    assert (outside.status, outside.policy, outside.reason) == ("unserved", "Local", EXTERNAL_LOCAL_TEXT)
    assert outside.serving == 1


def test_second_address_of_an_endpoint_is_a_note() -> None:
    problem = "endpoints[0].addresses: 2 addresses in one endpoint, the first is used"
    part = endpoint_slice()
    twin = EndpointSlice(part.name, part.service, part.family, part.endpoints, part.ports, "", (problem,))
    assert only_service(snapshot_with(service(), twin)).notes == (f"EndpointSlice web-1: {problem}",)


def test_real_server_has_pod_node_zone_weight_and_connections() -> None:
    part = endpoint_slice(endpoints=(endpoint(zone="zone-a"),))
    named = EndpointSlice(part.name, part.service, part.family, part.endpoints, part.ports, "web-abc")
    ((state,),) = (state_of(snapshot_with(service(), named), {POD: Connections(3, 4)}).services,)
    (server,) = state.virtual_servers
    (real,) = server.real_servers or ()
    assert (real.pod, real.node, real.zone, real.weight, real.status) == ("web-abc", HERE, "zone-a", 1, "serving")
    assert (real.active, real.inactive, server.active, server.inactive) == (3, 4, 3, 4)


def test_draining_real_server_has_since_when() -> None:
    harness = agent_with(service(), endpoint_slice(endpoints=("10.244.1.5", "10.244.1.6")))
    harness.now_s += 60
    harness.handle(SliceUpserted(endpoint_slice()))
    server = only_server(snapshot_of(harness))
    draining, serving = server.real_servers or ()
    assert (draining.address, draining.status, draining.weight) == ("10.244.1.6", "draining", 0)
    assert draining.since == "2023-11-14T22:13:20.000Z"
    assert serving.status == "serving"
    assert (server.serving, server.draining, server.status) == (1, 1, "serving")


def test_failing_virtual_server_is_listed_first_with_the_error_and_the_retry() -> None:
    harness = AgentHarness()
    bad = VirtualServer("10.96.0.99", 80, "TCP")
    harness.kernel.fault = lambda step: EINVAL if step.key == bad else 0
    agent_with(
        service("a-good"),
        endpoint_slice("a-good"),
        service("z-bad", ("10.96.0.99",)),
        endpoint_slice("z-bad"),
        service("b-unready", ("10.96.0.11",)),
        harness=harness,
    )
    state = state_of(snapshot_of(harness))
    assert [(one.name, one.virtual_servers[0].status) for one in state.services] == [
        ("z-bad", "failing"),
        ("b-unready", "unserved"),
        ("a-good", "serving"),
    ]
    row = next(row for row in state.unsettled if row.kind == "VirtualServer")
    assert (row.status, row.in_kernel, row.failures) == ("failing", False, 1)
    assert row.error
    assert row.retry_at > state.time
    assert "VirtualServer 10.96.0.99:80/TCP: " in status_text(state)
    assert "retry in" in status_text(state)


def test_totals_are_those_of_the_kernel() -> None:
    harness = AgentHarness()
    bad = VirtualServer("10.96.0.99", 80, "TCP")
    harness.kernel.fault = lambda step: EINVAL if step.key == bad else 0
    lone = service("lone", ("10.96.0.99",))
    agent_with(service(), endpoint_slice(endpoints=("10.244.1.5", "10.244.1.6")), lone, harness=harness)
    harness.handle(SliceUpserted(endpoint_slice()))  # one real server drains
    snapshot = snapshot_of(harness)
    assert snapshot.actual == harness.agent.state.rows
    totals, kinds = state_of(snapshot).totals, [type(key) for key in harness.agent.state.rows]
    assert (
        (totals.virtual_servers, totals.real_servers) == (kinds.count(VirtualServer), kinds.count(RealServer)) == (1, 2)
    )
    assert totals.rows == len(kinds)


def test_table_has_all_columns_in_line_and_gives_way_while_it_is_made() -> None:
    pauses: list[None] = []
    objects = [one for number in range(60) for one in (service(f"web-{number}", (f"10.96.1.{number}",)),)]
    table = render(state_of(snapshot_with(*objects), realServers="false"), pause=lambda: pauses.append(None))
    header, *rows = table.text.splitlines()[3:63]
    assert {row.index("unserved") for row in rows} == {header.index("STATE")}
    assert {row.index("ClusterIP") for row in rows} == {header.index("KIND")}
    assert len(pauses) > 2
    assert not table.is_empty


def test_virtual_server_that_no_service_has_is_stale() -> None:
    harness = agent_with(service(), endpoint_slice())
    harness.kernel.fault = lambda step: EINVAL if step.verb == "delete" else 0
    harness.handle(ServiceDeleted(name("web")))
    state = only_service(snapshot_of(harness))
    assert (state.name, state.virtual_servers[0].status) == ("", "stale")
    assert "no Service has it; it is to be deleted" in state.virtual_servers[0].reason


def test_contested_address_names_the_holder() -> None:
    other = service("other", ("10.96.0.11",), external_ips=("10.96.0.10",))
    snapshot = snapshot_with(service(), endpoint_slice(), other, endpoint_slice("other"))
    state = only_service(snapshot, service="shop/other")
    refused = next(server for server in state.virtual_servers if server.address == "10.96.0.10")
    assert (refused.kind, refused.status) == ("externalIP", "refused")
    assert refused.reason == "not served for this Service: shop/web has it as ClusterIP"
    assert any("AddressContested" in note for note in state.notes)


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({}, ["web", "db"]),
        ({"namespace": "data"}, ["db"]),
        ({"service": "shop/web"}, ["web"]),
        ({"namespace": "shop", "service": "web"}, ["web"]),
        ({"service": "shop/none"}, []),
        ({"address": "10.96.0.11"}, ["db"]),
        ({"address": "10.244.1.5"}, ["web", "db"]),
        ({"port": "80"}, ["web"]),
        ({"port": "8080"}, ["web"]),
        ({"nodePort": "30080"}, ["web"]),
        ({"nodePort": "80"}, []),
    ],
)
def test_filters_select_services(parameters: dict[str, str], names: list[str]) -> None:
    web = service(type="NodePort", ports=(port(node_port=30_080),))
    db = service("data/db", ("10.96.0.11",), (port(5432),))
    snapshot = snapshot_with(web, endpoint_slice(), db, endpoint_slice("data/db", number=5432))
    assert sorted(one.name for one in state_of(snapshot, **parameters).services) == sorted(names)


def test_totals_are_of_everything_whatever_is_listed() -> None:
    snapshot = snapshot_with(service(), endpoint_slice())
    totals = state_of(snapshot, namespace="none").totals
    assert (totals.services, totals.virtual_servers, totals.real_servers) == (1, 1, 1)


def test_table_has_the_columns_of_a_service() -> None:
    web = service(
        type="LoadBalancer",
        ports=(port(label="http"),),
        load_balancer_ips=("203.0.113.7",),
        source_ranges=("192.168.0.0/16",),
        affinity_timeout_s=10_800,
    )
    state = state_of(snapshot_with(web, endpoint_slice(label="http")), {})
    text = status_text(state)
    assert "shop/web:http  ClusterIP     10.96.0.10:80/TCP" in text
    assert "rr         1          serving; affinity 3h; from 192.168.0.0/16" in text
    assert "  -> 10.244.1.5:8080  -    node-a  -     1       0       0         serving" in text
    wide = status_text(state, wide=True)
    assert "AFFINITY  POLICY   SOURCES" in wide
    assert "3h        Cluster  192.168.0.0/16" in wide


def test_of_many_services_real_servers_are_listed_on_request_only() -> None:
    objects = [
        one for n in range(301) for one in (service(f"s{n}", (f"10.97.{n // 250}.{n % 250}",)), endpoint_slice(f"s{n}"))
    ]
    snapshot = snapshot_with(*objects)
    few, many = (state_of(snapshot, **parameters) for parameters in ({}, {"realServers": "true"}))
    assert all(server.real_servers is None for one in few.services for server in one.virtual_servers)
    assert "Real servers are not listed" in status_text(few)
    assert all(server.real_servers for one in many.services for server in one.virtual_servers)


def test_refused_address_is_not_one_of_which_real_servers_are_left_out() -> None:
    contested = service("other", ("10.96.0.11",), external_ips=("10.96.0.10",))
    state = state_of(snapshot_with(service(), endpoint_slice(), contested), address="10.96.0.10")
    assert [server.status for one in state.services for server in one.virtual_servers] == ["refused", "serving"]
    assert "Real servers are not listed" not in status_text(state)


def test_name_of_an_object_cannot_change_the_terminal() -> None:
    evil = endpoint_slice()
    pod = EndpointSlice(evil.name, evil.service, evil.family, evil.endpoints, evil.ports, "\x1b[2Jpod\u202e")
    text = status_text(state_of(snapshot_with(service(), pod)))
    assert "\\x1b[2Jpod\\u202e" in text
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59, "59s"), (10_800, "3h"), (90_061, "1d1h")])
def test_durations_are_kubernetes(seconds: int, text: str) -> None:
    assert duration_text(seconds) == text


def test_age_of_what_never_was() -> None:
    assert ago_text("", "2023-11-14T22:13:20.000Z") == "never"
    assert ago_text("2023-11-14T22:13:00.000Z", "2023-11-14T22:13:20.000Z") == "20s"


def test_agent_that_waits_lists_what_the_kernel_has() -> None:
    harness = AgentHarness({POD.virtual_server: None}, synced=False)
    harness.agent.compiler.compile()
    harness.agent.state.adopt(dict(harness.kernel.rows))
    state = state_of(snapshot_of(harness))
    assert state.agent.awaits == ("node", "services", "slices")
    assert [server.address for server in state.services[0].virtual_servers] == ["10.96.0.10"]
    assert "WAITING for the initial list of node, services, slices" in status_text(state)


def test_port_of_a_slice_with_other_numbers_serves() -> None:
    part = endpoint_slice()
    both = EndpointSlice(
        part.name, part.service, part.family, part.endpoints, (*part.ports, SlicePort("metrics", "TCP", 9090))
    )
    assert only_server(snapshot_with(service(), both)).status == "serving"


def test_filter_that_nothing_matches_is_said() -> None:
    assert status_text(state_of(snapshot_with(service()), service="shop/none")).endswith("\nNothing matches\n")


def test_full_compare_that_has_not_been_is_never() -> None:
    state = state_of(snapshot_with(service()))
    assert ", full compare never; drift since" in status_text(state)
    later = msgspec.structs.replace(state.agent, last_full_compare=state.time)
    assert ", full compare 0s ago; drift since" in status_text(msgspec.structs.replace(state, agent=later))


def test_settings_in_force_are_listed_and_ignored_ones_are_notes() -> None:
    wanted = {"scheduler": "wrr", "max-connections": "9", "affinity-mask": "ipv4/24", "wieghts": "x"}
    settings = read_settings({f"kubeproxy-py.io/{key}": value for key, value in wanted.items()})
    snapshot = snapshot_with(service(settings=settings), endpoint_slice())
    state = only_service(snapshot)
    assert state.settings == {"kubeproxy-py.io/scheduler": "wrr", "kubeproxy-py.io/max-connections": "9"}
    assert sorted(note.partition("=")[0] for note in state.notes) == [
        "SettingIgnored: kubeproxy-py.io/affinity-mask",
        "SettingIgnored: kubeproxy-py.io/wieghts",
    ]
    assert all(note.endswith(")") for note in state.notes), "each with its remedy"
    assert any(note.endswith("is unknown; ignored (did you mean weights?)") for note in state.notes)
    (real,) = only_server(snapshot).real_servers or ()
    assert (only_server(snapshot).scheduler, real.max_connections) == ("wrr", 9)
    text = status_text(state_of(snapshot))
    assert "  = kubeproxy-py.io/scheduler: wrr\n" in text
    assert "serving, at most 9 connections" in text


def test_flags_and_mask_of_a_virtual_server_are_shown() -> None:
    settings = read_settings({"kubeproxy-py.io/scheduler": "mh", "kubeproxy-py.io/affinity-mask": "ipv4/24"})
    snapshot = snapshot_with(service(settings=settings, affinity_timeout_s=600), endpoint_slice())
    server = only_server(snapshot)
    assert (server.scheduler_flags, server.affinity_mask) == (("port",), "255.255.255.0")
    assert "affinity 10m by mask 255.255.255.0" in status_text(state_of(snapshot))
