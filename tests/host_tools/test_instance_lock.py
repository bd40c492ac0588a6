"""InstanceLock: one agent for each network namespace, and who it is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubeproxy_py.kernel.host import instance_lock
from kubeproxy_py.kernel.host.instance_lock import Holder, InstanceLock, find_holder

PROGRAM = """
import sys
from kubeproxy_py.kernel.host import instance_lock
instance_lock.NAME = sys.argv[1].encode()
lock = instance_lock.InstanceLock()
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """Use another name than agents do, which may run on this host."""
    name = f"\0kubeproxy-py/test/{os.getpid()}"
    monkeypatch.setattr(instance_lock, "NAME", name.encode())
    return name


def has_net_admin() -> bool:
    return instance_lock._may_program(os.getpid())


@contextmanager
def process_with_lock(name: str) -> Iterator["subprocess.Popen[str]"]:
    program = PROGRAM.replace("sys.argv[1]", repr(name))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_does_not_get_the_lock_and_knows_who_has_it(name: str) -> None:
    with process_with_lock(name) as process:
        assert not InstanceLock().acquire()
        assert find_holder() == Holder(process.pid, os.geteuid(), has_net_admin())
        assert str(find_holder()).startswith(f"pid {process.pid}")


def test_the_end_of_the_process_frees_the_lock(name: str) -> None:
    lock = InstanceLock()
    with process_with_lock(name) as process:
        process.kill()
        process.wait()
        assert lock.acquire()
    lock.release()


def test_a_released_lock_is_free() -> None:
    first, second = InstanceLock(), InstanceLock()
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_asking_often_who_has_the_lock_does_not_wait() -> None:
    lock = InstanceLock()
    assert lock.acquire()
    holders = {find_holder() for _ in range(instance_lock._BACKLOG + 10)}
    lock.release()
    assert holders == {Holder(os.getpid(), os.geteuid(), has_net_admin()), Holder()}


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        (Holder(5, 0), "pid 5"),
        (Holder(5, 65534), "pid 5, uid 65534"),
        (Holder(0, 0), "pid not visible here: it runs in another container"),
        (Holder(), "pid unknown"),
    ],
)
def test_a_holder_is_named(holder: Holder, text: str) -> None:
    assert str(holder) == text


@pytest.mark.parametrize(
    ("status", "may"),
    [
        ("CapPrm:\t0\nCapEff:\t0000000000003000\n", True),  # NET_ADMIN and NET_RAW
        ("CapEff:\t000001ffffffffff\n", True),
        ("CapEff:\t0000000000000000\n", False),
        ("CapEff:\t0000000000002000\n", False),
        ("Name:\tx\n", True),
        (None, True),
    ],
)
def test_a_process_without_net_admin_cannot_be_an_agent(status: str | None, may: bool, tmp_path: Path) -> None:
    (tmp_path / "5").mkdir()
    if status is not None:
        (tmp_path / "5/status").write_text(status)
    assert instance_lock._may_program(5, tmp_path) is may
