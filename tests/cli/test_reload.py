"""The configuration file is seen to change in whatever way, and what it says is followed, refused, or taken up anew."""

import logging
import os
from pathlib import Path

import pytest

from kubeproxy_py.commands.app import agent_settings
from kubeproxy_py.commands.reload import ConfigFile, Reload
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import Host
from kubeproxy_py.config.load import ConfigInput, load
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Event, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.rows import VirtualServer, VirtualServerSpec
from kubeproxy_py.reconcile.loop import Reconfigured
from kubeproxy_py.reconcile.reconciler import Reconciler
from tests.builders import endpoint_slice, service
from tests.config.build import document, from_file
from tests.reconcile.harness import FEEDS

HOST = Host("node-a", ("IPv4",))
SERVER = VirtualServer("10.96.0.10", 80, "TCP")


class Watched:
    """A configuration file, and the schedulers of the configurations that were told of it."""

    def __init__(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        self.path = path
        self.told: list[str] = []
        self.file = ConfigFile(ConfigInput({"config": str(path)}, content), self._tell)

    def _tell(self, told: Reconfigured) -> None:
        self.told.append(told.loaded.config.ipvs.scheduler)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "config.conf", document({}))


def test_a_file_that_stays_is_not_told(watched: Watched) -> None:
    watched.file.look()
    os.utime(watched.path)
    watched.file.look()
    assert watched.told == []


def test_a_file_that_is_written_in_place_is_told_once(watched: Watched) -> None:
    watched.path.write_bytes(document({"ipvs.scheduler": "lc"}))
    watched.file.look()
    watched.file.look()
    assert watched.told == ["lc"]


def test_a_file_that_is_renamed_into_place_is_told(watched: Watched) -> None:
    other = watched.path.with_suffix(".new")
    other.write_bytes(document({"ipvs.scheduler": "sh"}))
    other.replace(watched.path)
    watched.file.look()
    assert watched.told == ["sh"]


def test_a_config_map_whose_links_are_swapped_is_told(tmp_path: Path) -> None:
    for number, scheduler in enumerate(("rr", "dh")):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}/config.conf").write_bytes(document({"ipvs.scheduler": scheduler}))
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "config.conf").symlink_to("..data/config.conf")
    told: list[Reconfigured] = []
    path = tmp_path / "config.conf"
    file = ConfigFile(ConfigInput({"config": str(path)}, path.read_bytes()), told.append)
    (tmp_path / "..new").symlink_to("..1")
    (tmp_path / "..new").rename(tmp_path / "..data")
    file.look()
    assert [each.loaded.config.ipvs.scheduler for each in told] == ["dh"]


def test_a_file_that_is_not_valid_is_refused_with_every_reason_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.path.write_bytes(document({"ipvs.scheduler": "rrr", "clusterCIDR": "x"}))
    watched.file.look()
    watched.file.look()
    assert watched.told == []
    assert len(caplog.messages) == 2
    assert all("refused, the one in use stays" in line for line in caplog.messages)


def test_a_file_that_is_gone_for_a_moment_changes_nothing(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    content = watched.path.read_bytes()
    watched.path.unlink()
    watched.file.look()
    watched.file.look()
    assert len([line for line in caplog.messages if "No such file" in line]) == 1
    watched.path.write_bytes(content.replace(b"ipvs", b"ipvs"))
    watched.file.look()
    assert watched.told == ["rr"]  # the same again; nothing differs, so nothing will be done


def test_the_flags_go_on_counting_beside_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(document({}))
    told: list[Reconfigured] = []
    file = ConfigFile(ConfigInput({"config": str(path), "hostname-override": "b"}, path.read_bytes()), told.append)
    path.write_bytes(document({"hostnameOverride": "c", "ipvs.scheduler": "lc"}))
    file.look()
    assert told[0].loaded.config.hostname_override == "b"


class Running:
    """An agent on a kernel in memory that serves one Service, with a Reload of it."""

    def __init__(self, **fields: object) -> None:
        loaded = from_file({"clusterCIDR": "10.244.0.0/16", **fields})
        self.kernel = MemoryKernel()
        settings = agent_settings(loaded, HOST)
        self.now_s = 100.0
        self.agent = Reconciler(
            self.kernel,
            Compiler(settings.make_site),
            lambda: self.now_s,
            exclude=settings.exclude,
            timing=settings.timing,
        )
        events: list[Event] = [ServiceUpserted(service()), SliceUpserted(endpoint_slice()), *map(Synced, FEEDS)]
        for event in events:
            self.agent.handle_event(event, self.now_s)
        self.agent.step()
        self.kernel.applied.clear()
        self.reload = Reload(loaded, self.agent, HOST)

    def take(self, **fields: object) -> list[str]:
        """Another configuration; the kinds of row that change for it."""
        self.reload.take(from_file({"clusterCIDR": "10.244.0.0/16", **fields}))
        self.agent.step()
        return sorted({type(step.key).__name__ for step in self.kernel.applied})


def test_what_is_safe_is_applied_and_touches_what_it_concerns_alone() -> None:
    assert Running().take(**{"iptables.masqueradeAll": True}) == ["Chain"]
    assert Running().take(clusterCIDR="10.0.0.0/8") == ["Chain"]
    assert Running().take(**{"iptables.masqueradeBit": 15}) == ["Chain"]


def test_a_configuration_that_means_the_same_changes_nothing() -> None:
    running = Running()
    assert running.take(**{"nftables.masqueradeBit": 3}) == []
    assert running.agent.due_s() > running.now_s


def test_a_virtual_server_that_is_excluded_no_more_goes_and_one_that_is_now_stays() -> None:
    theirs = VirtualServer("192.0.2.1", 80, "TCP")
    running = Running(**{"ipvs.excludeCIDRs": ["192.0.2.0/24"]})
    running.kernel.rows[theirs] = VirtualServerSpec()
    running.take(**{"ipvs.excludeCIDRs": ["192.0.0.0/16"]})
    assert theirs in running.kernel.rows
    assert running.take() == ["VirtualServer"]
    assert theirs not in running.kernel.rows


def test_a_shorter_period_counts_from_now() -> None:
    running = Running()
    running.take(**{"ipvs.syncPeriod": "5s"})
    assert running.agent.due_s() == running.now_s + 5


def test_a_field_that_needs_it_ends_the_process_with_0_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(SystemExit) as ended:
        Running().take(**{"ipvs.strictARP": True, "ipvs.syncPeriod": "5s"})
    assert ended.value.code == 0
    assert "ipvs.strictARP changed" in caplog.text
    assert "ipvs.syncPeriod" not in caplog.text


def test_what_cannot_work_on_this_host_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    running = Running()
    assert running.take(clusterCIDR="fd00::/56", hostnameOverride="c") == []
    assert "refused, the one in use stays: clusterCIDR" in caplog.text


def test_load_keeps_what_was_given() -> None:
    assert load({"conntrack-min": "5"}).given == {"conntrack.min"}
