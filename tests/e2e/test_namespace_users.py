"""What keeps a network namespace is named, because the kernel keeps its sets, and the modules of these, as long."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import pristine
from lab.namespace import Namespace, new_namespace
from lab.namespace_users import namespace_users
from lab.pristine import unload_modules
from tests.e2e.kernel_state import shell

pytestmark = pytest.mark.kernel

MODULE, SET_TYPE = "ip_set_bitmap_port", "bitmap:port range 0-9"


def keep_descriptor(namespace: Namespace) -> Callable[[], None]:
    descriptor = os.dup(namespace.descriptor)
    return lambda: os.close(descriptor)


def keep_socket(namespace: Namespace) -> Callable[[], None]:
    with namespace.inside():
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close


def keep_process(namespace: Namespace) -> Callable[[], None]:
    with namespace.inside():
        process = subprocess.Popen(["sleep", "600"])

    def end() -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    return end


def keep_thread(namespace: Namespace) -> Callable[[], None]:
    entered, ended = threading.Event(), threading.Event()

    def stay() -> None:
        namespace.enter()
        entered.set()
        ended.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(20.0)

    def end() -> None:
        ended.set()
        thread.join()

    return end


USERS = {"descriptor": keep_descriptor, "socket": keep_socket, "sleep 600": keep_process, "thread": keep_thread}


@pytest.mark.parametrize(("name", "keep"), USERS.items(), ids=USERS)
def test_what_keeps_a_deleted_namespace_is_named_until_it_ends(
    name: str, keep: Callable[[Namespace], Callable[[], None]]
) -> None:
    with new_namespace("kept") as namespace:
        inode = os.fstat(namespace.descriptor).st_ino
        assert any(user.startswith("mount /run/netns/kept") for user in namespace_users()[inode])
        end = keep(namespace)
    (user,) = namespace_users()[inode]
    assert name in user
    end()
    assert inode not in namespace_users()


def test_module_that_cannot_be_unloaded_is_reported_with_what_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pristine, "_UNLOAD_TIMEOUT_S", 0.5)
    with new_namespace("kept") as namespace:
        shell(namespace, f"ipset create kept {SET_TYPE}")
        end = keep_descriptor(namespace)
    with pytest.raises(AssertionError) as raised:
        unload_modules(MODULE)
    end()
    lines = str(raised.value).splitlines()
    assert any(line.split()[:1] == [MODULE] and int(line.split()[2]) >= 1 for line in lines), lines
    assert any("descriptor" in line and f"process {os.getpid()} " in line for line in lines), lines


def test_module_is_unloaded_as_soon_as_no_namespace_has_its_sets() -> None:
    with new_namespace("brief") as namespace:
        shell(namespace, f"ipset create brief {SET_TYPE}")
    unload_modules(MODULE)
    assert not Path("/sys/module", MODULE).exists()
