"""bench.list_cost with few objects, where a real server is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from lab.job import REPOSITORY
from tests.apiserver.real import ASSETS_VARIABLE, binaries

ARGV = [sys.executable, "-m", "bench.list_cost", "--slices=20"]


def run(**env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ARGV, cwd=REPOSITORY, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=120
    )


def test_it_says_what_it_needs() -> None:
    completed = run(**{ASSETS_VARIABLE: ""})
    assert completed.returncode == 1
    assert ASSETS_VARIABLE in completed.stderr


@pytest.mark.timeout(180)
def test_it_measures_the_agent_beside_client_go() -> None:
    if binaries() is None:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd")
    completed = run()
    assert completed.returncode == 0, completed.stderr
    received = re.findall(r"received +20 +([0-9.]+) +MB", completed.stdout)
    assert len(received) >= 2
    assert all(float(megabytes) > 0 for megabytes in received)
