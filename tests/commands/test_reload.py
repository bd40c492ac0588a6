"""Configuration reload: changes of the file are detected, then applied, rejected, or followed by a restart."""

import logging
import os
import queue
from pathlib import Path
from typing import Any

import pytest

from kubeproxy_py.commands import reload
from kubeproxy_py.commands.parts import agent_settings
from kubeproxy_py.commands.reload import ConfigFile, Reloader
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.config.current import CurrentConfig
from kubeproxy_py.config.load import ConfigInput, load
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Event, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.rows import VirtualServer, VirtualServerSpec
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.reconcile.loop import Reconfigured
from kubeproxy_py.systemd import SystemdNotifier
from tests.builders import endpoint_slice, service
from tests.config.build import document, from_file
from tests.reconcile.harness import FEEDS
from tests.sources.conftest import wait_until

HOST = HostInfo("node-a", families=("IPv4",))


def logged_values(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the structured values of each record, as text."""
    return [{key: str(value) for key, value in getattr(record, "values", {}).items()} for record in caplog.records]


class WatchedFile:
    """A configuration file, and the schedulers of the configurations that were enqueued for it."""

    def __init__(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        self.path = path
        self.enqueued: list[str] = []
        self.file = ConfigFile(ConfigInput({"config": str(path)}, content), self._enqueue)

    def _enqueue(self, item: Reconfigured) -> None:
        self.enqueued.append(item.loaded.config.ipvs.scheduler)


@pytest.fixture
def watched(tmp_path: Path) -> WatchedFile:
    return WatchedFile(tmp_path / "config.conf", document({}))


def test_a_file_with_the_same_content_is_not_enqueued(watched: WatchedFile) -> None:
    watched.file.poll()
    os.utime(watched.path)
    watched.file.poll()
    assert watched.enqueued == []


def test_a_file_written_in_place_is_enqueued_once(watched: WatchedFile) -> None:
    watched.path.write_bytes(document({"ipvs.scheduler": "lc"}))
    watched.file.poll()
    watched.file.poll()
    assert watched.enqueued == ["lc"]


def test_a_file_renamed_into_place_is_enqueued(watched: WatchedFile) -> None:
    replacement = watched.path.with_suffix(".new")
    replacement.write_bytes(document({"ipvs.scheduler": "sh"}))
    replacement.replace(watched.path)
    watched.file.poll()
    assert watched.enqueued == ["sh"]


def test_a_config_map_whose_symlinks_are_swapped_is_enqueued(tmp_path: Path) -> None:
    for number, scheduler in enumerate(("rr", "dh")):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}/config.conf").write_bytes(document({"ipvs.scheduler": scheduler}))
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "config.conf").symlink_to("..data/config.conf")
    enqueued: list[Reconfigured] = []
    path = tmp_path / "config.conf"
    file = ConfigFile(ConfigInput({"config": str(path)}, path.read_bytes()), enqueued.append)
    (tmp_path / "..new").symlink_to("..1")
    (tmp_path / "..new").rename(tmp_path / "..data")
    file.poll()
    assert [item.loaded.config.ipvs.scheduler for item in enqueued] == ["dh"]


def test_an_invalid_file_is_rejected_once_with_every_reason(
    watched: WatchedFile, caplog: pytest.LogCaptureFixture
) -> None:
    watched.path.write_bytes(document({"ipvs.scheduler": "rrr", "clusterCIDR": "x"}))
    watched.file.poll()
    watched.file.poll()
    assert watched.enqueued == []
    assert len(caplog.messages) == 2
    assert all("Rejected new configuration, keeping the current one" in line for line in caplog.messages)
    reasons = [values["reason"].partition(":")[0] for values in logged_values(caplog)]
    assert reasons == ["ipvs.scheduler", "clusterCIDR"]


def test_a_file_that_is_missing_for_a_moment_changes_nothing(
    watched: WatchedFile, caplog: pytest.LogCaptureFixture
) -> None:
    content = watched.path.read_bytes()
    watched.path.unlink()
    watched.file.poll()
    watched.file.poll()
    assert len([values for values in logged_values(caplog) if "No such file" in values["err"]]) == 1
    watched.path.write_bytes(content)
    watched.file.poll()
    assert watched.enqueued == ["rr"]  # equal to the current configuration, so applying it changes nothing


def test_flags_override_a_changed_file(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(document({}))
    enqueued: list[Reconfigured] = []
    file = ConfigFile(ConfigInput({"config": str(path), "hostname-override": "b"}, path.read_bytes()), enqueued.append)
    path.write_bytes(document({"hostnameOverride": "c", "ipvs.scheduler": "lc"}))
    file.poll()
    assert enqueued[0].loaded.config.hostname_override == "b"


class RunningAgent:
    """An agent on a kernel in memory that serves one Service, with its Reloader."""

    def __init__(self, **fields: object) -> None:
        loaded = from_file({"clusterCIDR": "10.244.0.0/16", **fields})
        self.kernel = MemoryKernel()
        settings = agent_settings(loaded, HOST)
        self.now_s = 100.0
        self.agent = Agent(
            self.kernel,
            Compiler(settings.make_context),
            lambda: self.now_s,
            exclude=settings.exclude,
            timing=settings.timing,
        )
        events: list[Event] = [ServiceUpserted(service()), SliceUpserted(endpoint_slice()), *map(Synced, FEEDS)]
        for event in events:
            self.agent.handle_event(event, self.now_s)
        self.agent.run_due(self.now_s)
        self.kernel.applied.clear()
        self.current = CurrentConfig(loaded)
        self.reloader = Reloader(self.current, self.agent, HOST)

    def apply(self, **fields: object) -> list[str]:
        """Apply another configuration, and return the types of row that change."""
        self.reloader.apply(from_file({"clusterCIDR": "10.244.0.0/16", **fields}), self.now_s)
        self.agent.run_due(self.now_s)
        return sorted({type(step.key).__name__ for step in self.kernel.applied})


def test_a_live_field_is_applied_and_changes_only_its_rows() -> None:
    assert RunningAgent().apply(**{"iptables.masqueradeAll": True}) == ["Chain"]
    assert RunningAgent().apply(clusterCIDR="10.0.0.0/8") == ["Chain"]
    assert RunningAgent().apply(**{"iptables.masqueradeBit": 15}) == ["Chain"]


def test_a_field_without_effect_changes_nothing() -> None:
    running = RunningAgent()
    assert running.apply(**{"nftables.masqueradeBit": 3}) == []
    assert running.agent.due_s() > running.now_s


def test_a_virtual_server_is_deleted_only_when_it_is_no_longer_excluded() -> None:
    foreign = VirtualServer("192.0.2.1", 80, "TCP")
    running = RunningAgent(**{"ipvs.excludeCIDRs": ["192.0.2.0/24"]})
    running.kernel.rows[foreign] = VirtualServerSpec()
    running.apply(**{"ipvs.excludeCIDRs": ["192.0.0.0/16"]})
    assert foreign in running.kernel.rows
    assert running.apply() == ["VirtualServer"]
    assert foreign not in running.kernel.rows


def test_a_shorter_sync_period_is_effective_at_once() -> None:
    running = RunningAgent()
    running.apply(**{"ipvs.syncPeriod": "5s"})
    running.now_s += 5
    while running.agent.due_s() <= running.now_s:
        running.agent.run_due(running.now_s)
    assert running.agent.status().compares == 1


def test_a_field_that_requires_a_restart_exits_with_0_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(SystemExit) as exited:
        RunningAgent().apply(**{"ipvs.strictARP": True, "ipvs.syncPeriod": "5s"})
    assert exited.value.code == 0
    assert "New configuration requires a restart, exiting" in caplog.text
    assert {"changed": "ipvs.strictARP"} in logged_values(caplog)  # and not ipvs.syncPeriod


def test_a_configuration_that_cannot_work_on_this_host_is_rejected(caplog: pytest.LogCaptureFixture) -> None:
    running = RunningAgent()
    assert running.apply(clusterCIDR="fd00::/56", hostnameOverride="c") == []
    assert "Rejected new configuration, keeping the current one" in caplog.text
    assert logged_values(caplog)[-1]["reason"].startswith("clusterCIDR")
    assert running.current.get().config.cluster_cidr == ("10.244.0.0/16",)


def test_a_loaded_configuration_has_the_paths_of_the_given_fields() -> None:
    assert load({"conntrack-min": "5"}).given_fields == {"conntrack.min"}


class Notifications(SystemdNotifier):
    """Records what is reported to systemd."""

    def __init__(self) -> None:
        super().__init__({})
        self.sent: list[str] = []

    def reloading(self) -> None:
        self.sent.append("reloading")

    def reloaded(self) -> None:
        self.sent.append("reloaded")


def test_a_file_that_brings_out_a_bug_ends_neither_the_thread_nor_the_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config.conf"
    path.write_bytes(document({}))
    enqueued: queue.Queue[Reconfigured] = queue.Queue()
    notifier = Notifications()
    file = ConfigFile(ConfigInput({"config": str(path)}, document({})), enqueued.put, notifier)
    bugs = iter([RuntimeError("a bug")])

    def fail_once(*arguments: Any) -> Any:
        for error in bugs:
            raise error
        return load(*arguments)

    monkeypatch.setattr(reload, "load", fail_once)
    file.start()
    path.write_bytes(document({"ipvs.scheduler": "lc"}))
    file.request_poll()
    wait_until(lambda: "Internal error in a thread" in caplog.text)
    assert notifier.sent == ["reloading", "reloaded"]
    path.write_bytes(document({"ipvs.scheduler": "wlc"}))
    assert enqueued.get(timeout=60).loaded.config.ipvs.scheduler == "wlc"
