"""Virtual servers of other programs: named when they are deleted, or left alone."""

from __future__ import annotations

import logging

import pytest

from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import SERVING, RealServer, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.reconcile.sync_log import SyncLog
from tests.builders import endpoint_slice, name, service
from tests.reconcile.harness import SERVER, AgentHarness, serving

FOREIGN = VirtualServer("192.168.3.100", 6443, "TCP")
AT_OUR_ADDRESS = VirtualServer(SERVER.address, 9999, "TCP")


def foreign_rows(*servers: VirtualServer) -> Rows:
    rows: Rows = {}
    for server in servers:
        rows |= {server: VirtualServerSpec(), RealServer(server, "10.244.1.9", 6443): SERVING}
    return rows


def foreign_of(reports: list[object]) -> list[VirtualServer]:
    return [server for report in reports if isinstance(report, SyncReport) for server in report.foreign]


def test_foreign_server_that_the_first_sync_deletes_is_reported() -> None:
    harness = AgentHarness(foreign_rows(FOREIGN))
    assert foreign_of(harness.handle(ServiceUpserted(service()))) == [FOREIGN]
    assert FOREIGN not in harness.kernel.rows


def test_foreign_server_that_comes_later_is_reported_each_time_that_it_is_deleted() -> None:
    harness = serving()
    for _ in range(2):
        harness.kernel.rows.update(foreign_rows(FOREIGN))
        assert foreign_of(harness.advance(30.0)) == [FOREIGN]
        assert FOREIGN not in harness.kernel.rows


def test_servers_of_deleted_services_and_at_our_addresses_are_not_foreign() -> None:
    harness = serving()
    assert foreign_of(harness.handle(ServiceDeleted(name("shop/web")))) == []
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    harness.kernel.rows.update(foreign_rows(AT_OUR_ADDRESS))
    assert foreign_of(harness.advance(30.0)) == []
    assert AT_OUR_ADDRESS not in harness.kernel.rows


def test_server_of_a_service_that_was_deleted_while_no_agent_ran_is_not_foreign() -> None:
    left = dict(serving().kernel.rows)
    harness = AgentHarness(left)
    assert foreign_of(harness.handle()) == []
    assert SERVER not in harness.kernel.rows


def test_kept_foreign_servers_stay_at_the_start_and_in_full_compares() -> None:
    harness = AgentHarness(foreign_rows(FOREIGN), keep_foreign=True)
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    late = VirtualServer("192.168.3.101", 80, "UDP")
    harness.kernel.rows.update(foreign_rows(late, AT_OUR_ADDRESS))
    harness.advance(30.0)
    harness.advance(30.0)
    assert {FOREIGN, late} <= harness.kernel.rows.keys()
    assert AT_OUR_ADDRESS not in harness.kernel.rows
    assert SERVER in harness.kernel.rows


def test_kept_foreign_servers_are_adopted_by_a_service_that_wants_them() -> None:
    wanted = VirtualServer("192.168.3.100", 80, "TCP")
    harness = AgentHarness(foreign_rows(wanted), keep_foreign=True)
    harness.handle(ServiceUpserted(service(external_ips=("192.168.3.100",))), SliceUpserted(endpoint_slice()))
    assert RealServer(wanted, "10.244.1.5", 8080) in harness.kernel.rows


def test_log_names_a_bounded_number_of_foreign_servers(caplog: pytest.LogCaptureFixture) -> None:
    servers = [VirtualServer(f"192.0.2.{number}", 80, "TCP") for number in range(1, 31)]
    harness = AgentHarness(foreign_rows(*servers))
    with caplog.at_level(logging.WARNING, "kubeproxy_py"):
        for report in harness.handle():
            SyncLog(lambda: 0.0).record(report)
    (record,) = [record for record in caplog.records if record.msg.startswith("Deleted virtual servers")]
    details = str(vars(record))
    assert "192.0.2.1:80/TCP" in details
    assert "'total': 30" in details
    assert details.count("192.0.2.") == 10
