"""SystemdNotifier: the datagrams that a supervisor receives, in order (sd_notify(3))."""

import os
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
from tests.reconcile.harness import AgentHarness
from tests.reconcile.loop_waits import run_until_waits

WATCHDOG = {"WATCHDOG_USEC": "10000000"}
STEP = Step("add", Address("10.96.0.1"))


class Supervisor:
    """The supervisor's socket, at *address*."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def received(self) -> list[str]:
        """Return the assignments received since the last call; of STATUS and MONOTONIC_USEC only the name."""
        assignments: list[str] = []
        while True:
            try:
                datagram = self._socket.recv(4096).decode()
            except BlockingIOError:
                return assignments
            assignments += [word.split("=")[0] if word[:2] in ("ST", "MO") and word != "STOPPING=1" else word
                      for word in datagram.split("\n")]  # fmt: skip

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(str(tmp_path / "notify"))
    yield supervisor
    supervisor.close()


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make_notifier(folder: Path, more: dict[str, str] | None = None, clock: Clock | None = None) -> SystemdNotifier:
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


def test_ready_is_sent_once_after_the_first_sync(tmp_path: Path, supervisor: Supervisor) -> None:
    notifier = make_notifier(tmp_path)
    assert supervisor.received() == []
    notifier.on_report(report())
    notifier.on_report(report(STEP))
    assert supervisor.received() == ["READY=1", "STATUS", "STATUS"]


def test_a_sync_without_steps_leaves_the_status_unchanged(tmp_path: Path, supervisor: Supervisor) -> None:
    notifier = make_notifier(tmp_path)
    notifier.on_report(report(STEP))
    supervisor.received()
    notifier.on_report(report())
    assert supervisor.received() == []


def test_an_abstract_socket_address_is_supported() -> None:
    name = f"kubeproxy-py-test-{os.getpid()}"  # the names are common to all processes of the machine
    supervisor = Supervisor(f"\0{name}")
    notifier = SystemdNotifier({"NOTIFY_SOCKET": f"@{name}"})
    notifier.stopping()
    assert supervisor.received() == ["STOPPING=1"]
    supervisor.close()


@pytest.mark.parametrize("name", ["", "relative", "/nowhere/at/all"])
def test_notifications_without_a_supervisor_are_ignored(name: str) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": name, **WATCHDOG})
    notifier.on_report(report())
    notifier.stopping()
    assert 0 < notifier.alive() < 5.001  # the difference of two large floats may be a rounding error more than 5


def test_watchdog_is_notified_twice_per_period_regardless_of_the_number_of_cycles(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    clock = Clock()
    notifier = make_notifier(tmp_path, WATCHDOG, clock)
    assert [notifier.alive(), notifier.alive()] == [5, 5]
    clock.now_s += 4
    assert notifier.alive() == 1
    assert supervisor.received() == ["WATCHDOG=1"]
    clock.now_s += 1
    assert notifier.alive() == 5
    assert supervisor.received() == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {**WATCHDOG, "WATCHDOG_PID": "1"}]
)
def test_loop_is_not_woken_without_a_watchdog_for_this_process(
    environment: dict[str, str], tmp_path: Path, supervisor: Supervisor
) -> None:
    assert make_notifier(tmp_path, environment).alive() == float("inf")
    assert supervisor.received() == []


def test_watchdog_of_this_process_is_notified(tmp_path: Path, supervisor: Supervisor) -> None:
    assert make_notifier(tmp_path, {**WATCHDOG, "WATCHDOG_PID": "77"}).alive() == 5
    assert supervisor.received() == ["WATCHDOG=1"]


def test_loop_notifies_the_watchdog_while_it_waits_for_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = AgentHarness()

    def fail(_scope: object) -> None:
        raise KernelError("no netlink")

    harness.kernel.rows[Address("10.9.9.9")] = None
    harness.kernel.read = fail  # type: ignore[assignment,method-assign]
    loop = Loop(harness.agent, alive=lambda: 0.75)
    assert run_until_waits(harness, loop, monkeypatch, 5) == [0.75, 0.25, 0.75, 0.75, 0.5]


def test_reload_ends_when_the_file_was_read(tmp_path: Path, supervisor: Supervisor) -> None:
    notifier = make_notifier(tmp_path)
    notifier.on_report(report())
    supervisor.received()
    notifier.reloading()
    notifier.reloaded()
    notifier.reloaded()
    assert supervisor.received() == ["RELOADING=1", "MONOTONIC_USEC", "READY=1"]


def test_reload_before_the_first_sync_does_not_send_ready(tmp_path: Path, supervisor: Supervisor) -> None:
    notifier = make_notifier(tmp_path)
    notifier.reloading()
    notifier.reloaded()
    assert supervisor.received() == []


def test_reload_that_requires_a_restart_does_not_send_ready(tmp_path: Path, supervisor: Supervisor) -> None:
    notifier = make_notifier(tmp_path)
    notifier.on_report(report())
    notifier.reloading()
    supervisor.received()
    notifier.stopping()
    notifier.reloaded()
    assert supervisor.received() == ["STOPPING=1"]


@pytest.mark.parametrize(("content", "enqueued"), [("mode: [", False), ("mode: ipvs", True)])
def test_poll_returns_whether_a_configuration_was_enqueued(tmp_path: Path, content: str, enqueued: bool) -> None:
    path = tmp_path / "config"
    head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    path.write_text(head + content)
    file = ConfigFile(ConfigInput({"config": str(path)}, b"before"), lambda _reconfigured: None)
    assert file.poll() is enqueued
    assert file.poll() is False
