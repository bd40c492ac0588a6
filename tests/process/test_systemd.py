"""What a supervisor hears, by the protocol of sd_notify(3): each datagram, in order."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py.commands.reload import ConfigFile
from kubeproxy_py.config.load import ConfigInput
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.rows import Address
from kubeproxy_py.model.steps import Step
from kubeproxy_py.reconcile.loop import Loop
from kubeproxy_py.reconcile.report import SyncReport, Trigger
from kubeproxy_py.systemd import SystemdNotifier
from tests.reconcile.harness import Bench
from tests.reconcile.test_loop import run_until_tired

WATCHDOG = {"WATCHDOG_USEC": "10000000"}
STEP = Step("add", Address("10.96.0.1"))


class Ear:
    """The supervisor's end, at *address*."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """The words of every datagram since the last call; of STATUS and MONOTONIC_USEC only that they were said."""
        words: list[str] = []
        while True:
            try:
                datagram = self._socket.recv(4096).decode()
            except BlockingIOError:
                return words
            words += [word.split("=")[0] if word[:2] in ("ST", "MO") and word != "STOPPING=1" else word
                      for word in datagram.split("\n")]  # fmt: skip

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    made = Ear(str(tmp_path / "notify"))
    yield made
    made.close()


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def supervisor(folder: Path, more: dict[str, str] | None = None, clock: Clock | None = None) -> SystemdNotifier:
    return SystemdNotifier({"NOTIFY_SOCKET": str(folder / "notify"), **(more or {})}, clock or Clock(), pid=77)


def report(*steps: Step) -> SyncReport:
    return SyncReport(
        trigger=Trigger.EVENT,
        services=1,
        steps=steps,
        failures=(),
        rows=10,
        pending=0,
        compile_s=0.0,
        plan_s=0.0,
        apply_s=0.0,
        since_event_s=None,
    )


def test_ready_is_said_with_the_first_sync_and_once(tmp_path: Path, ear: Ear) -> None:
    told = supervisor(tmp_path)
    assert ear.heard() == []
    told.on_report(report())
    told.on_report(report(STEP))
    assert ear.heard() == ["READY=1", "STATUS", "STATUS"]


def test_a_sync_that_did_nothing_leaves_the_status(tmp_path: Path, ear: Ear) -> None:
    told = supervisor(tmp_path)
    told.on_report(report(STEP))
    ear.heard()
    told.on_report(report())
    assert ear.heard() == []


def test_an_abstract_socket_is_found() -> None:
    ear = Ear("\0kubeproxy-py-test")
    told = SystemdNotifier({"NOTIFY_SOCKET": "@kubeproxy-py-test"})
    told.stopping()
    assert ear.heard() == ["STOPPING=1"]
    ear.close()


@pytest.mark.parametrize("name", ["", "relative", "/nowhere/at/all"])
def test_where_nobody_listens_nothing_happens(name: str) -> None:
    told = SystemdNotifier({"NOTIFY_SOCKET": name, **WATCHDOG})
    told.on_report(report())
    told.stopping()
    assert 0 < told.alive() <= 5


def test_the_watchdog_is_told_twice_in_its_time_however_often_the_loop_turns(tmp_path: Path, ear: Ear) -> None:
    clock = Clock()
    told = supervisor(tmp_path, WATCHDOG, clock)
    assert [told.alive(), told.alive()] == [5, 5]
    clock.now_s += 4
    assert told.alive() == 1
    assert ear.heard() == ["WATCHDOG=1"]
    clock.now_s += 1
    assert told.alive() == 5
    assert ear.heard() == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "asked", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {**WATCHDOG, "WATCHDOG_PID": "1"}]
)
def test_without_a_watchdog_of_this_process_the_loop_is_never_woken(
    asked: dict[str, str], tmp_path: Path, ear: Ear
) -> None:
    assert supervisor(tmp_path, asked).alive() == float("inf")
    assert ear.heard() == []


def test_the_watchdog_of_this_process_is_told(tmp_path: Path, ear: Ear) -> None:
    assert supervisor(tmp_path, {**WATCHDOG, "WATCHDOG_PID": "77"}).alive() == 5
    assert ear.heard() == ["WATCHDOG=1"]


def test_a_loop_that_waits_to_try_again_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def fail(_scope: object) -> None:
        raise KernelError("no netlink")

    bench.kernel.rows[Address("10.9.9.9")] = None
    bench.kernel.read = fail  # type: ignore[assignment,method-assign]
    loop = Loop(bench.agent, alive=lambda: 0.75)
    assert run_until_tired(bench, loop, monkeypatch, 5) == [0.75, 0.25, 0.75, 0.75, 0.5]


def test_a_reload_ends_when_the_file_was_looked_at(tmp_path: Path, ear: Ear) -> None:
    told = supervisor(tmp_path)
    told.on_report(report())
    ear.heard()
    told.reloading()
    told.reloaded()
    told.reloaded()
    assert ear.heard() == ["RELOADING=1", "MONOTONIC_USEC", "READY=1"]


def test_a_reload_before_the_first_sync_does_not_make_us_ready(tmp_path: Path, ear: Ear) -> None:
    told = supervisor(tmp_path)
    told.reloading()
    told.reloaded()
    assert ear.heard() == []


def test_a_reload_that_takes_a_restart_is_not_said_to_be_ready(tmp_path: Path, ear: Ear) -> None:
    told = supervisor(tmp_path)
    told.on_report(report())
    told.reloading()
    ear.heard()
    told.stopping()
    told.reloaded()
    assert ear.heard() == ["STOPPING=1"]


@pytest.mark.parametrize(("content", "is_told"), [("mode: [", False), ("mode: ipvs", True)])
def test_looking_says_whether_a_configuration_is_on_its_way_to_the_loop(
    tmp_path: Path, content: str, is_told: bool
) -> None:
    path = tmp_path / "config"
    head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    path.write_text(head + content)
    file = ConfigFile(ConfigInput({"config": str(path)}, b"before"), lambda _told: None)
    assert file.poll() is is_told
    assert file.poll() is False
