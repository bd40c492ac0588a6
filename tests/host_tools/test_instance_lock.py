"""InstanceLock: one agent for each network namespace, and who it is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
        assert find_holder() == Holder(process.pid, os.geteuid())
        assert str(find_holder()) == f"pid {process.pid}"


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
    assert holders == {Holder(os.getpid(), os.geteuid()), Holder()}


@pytest.mark.parametrize(
    ("holder", "text", "may_be"),
    [
        (Holder(5, 0), "pid 5", True),
        (Holder(0, 0), "pid not visible here: it runs in another container", True),
        (Holder(), "pid unknown", True),
        (Holder(5, 12345678), "pid 5", False),
    ],
)
def test_a_holder_of_another_user_is_no_agent(holder: Holder, text: str, may_be: bool) -> None:
    assert (str(holder), holder.may_be_an_agent) == (text, may_be)
