"""The agent on arm64, by qemu-user: machine code of the libraries, and the plan of this machine (`make test-qemu`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from image import arm64
from kubeproxy_py import __version__
from lab.job import REPOSITORY

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]

_PLAN = ("plan", "--assume-empty", "--output=json", "--manifests=deploy/examples", "--hostname-override=node-a")


def run_agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Return the result of the agent on arm64."""
    program = "import sys; from kubeproxy_py.__main__ import main; sys.exit(main())"
    argv, environment = arm64.emulated("-c", program, *arguments)
    return subprocess.run(
        argv, env={**os.environ, **environment}, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def test_the_interpreter_and_the_libraries_are_of_arm64() -> None:
    argv, environment = arm64.emulated("-c", "import platform, msgspec._core; print(platform.machine())")
    done = subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "aarch64\n"), done.stderr


def test_version_is_that_of_the_checkout() -> None:
    done = run_agent("--version")
    assert (done.returncode, done.stdout) == (0, f"kubeproxy-py {__version__}\n"), done.stderr


def test_plan_of_an_empty_node_is_the_same_on_both_processors() -> None:
    there = run_agent(*_PLAN)
    argv = [sys.executable, "-m", "kubeproxy_py", *_PLAN]
    here = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (there.returncode, here.returncode) == (2, 2), there.stderr
    assert len(json.loads(here.stdout)) > 100
    assert json.loads(there.stdout) == json.loads(here.stdout)
