"""A reader of the log that hangs stops no sync, and the agent ends on SIGTERM all the same."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from pathlib import Path

import pytest

from lab.namespace import Namespace
from tests.e2e.agent_process import command_line, wait_until
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, service_with_slice

pytestmark = pytest.mark.kernel

ENDS_WITHIN_S = 5.0  # the unit's TimeoutStopSec, and the pod's terminationGracePeriodSeconds
_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 4096


def is_served(namespace: Namespace, address: str) -> bool:
    return f"-A -t {address}:80 " in shell(namespace, "ipvsadm -Sn")


def full_pipe() -> tuple[int, int]:
    """Return both ends of a pipe in which nothing more fits."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE_BYTES)
    os.write(writer, b"." * _PIPE_BYTES)
    return reader, writer


def test_changes_are_applied_while_nobody_reads_the_log(namespace: Namespace, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("all", service_with_slice("web", "10.96.0.10", ["pod-a1"]))
    reader, writer = full_pipe()
    argv = namespace.wrap(command_line(folder.path, "run"))
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer) as agent:
        try:
            wait_until(lambda: is_served(namespace, "10.96.0.10"))
            folder.write("all", service_with_slice("web", "10.96.0.20", ["pod-a1"]))
            wait_until(lambda: is_served(namespace, "10.96.0.20"))
            before_s = time.monotonic()
            agent.terminate()
            assert agent.wait(20) == 0
            assert time.monotonic() - before_s < ENDS_WITHIN_S
        finally:
            agent.kill()
            os.close(writer)
            os.close(reader)
