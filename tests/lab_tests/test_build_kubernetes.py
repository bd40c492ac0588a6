"""What `make real-kubernetes` prints and leaves; the build itself takes too long for a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lab
from lab.build_kubernetes import PROGRAMS
from lab.job import REPOSITORY
from tests.apiserver import real

_VERSION = "1.20.2"


def build(cache: Path, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "lab", "build-kubernetes"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), **env}
    return subprocess.run(argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


def test_it_prints_the_variables_of_what_was_built_before(tmp_path: Path) -> None:
    folder = tmp_path / "kubeproxy-py/kubernetes" / _VERSION
    folder.mkdir(parents=True)
    completed = build(tmp_path)
    assert completed.stdout == f"KUBEBUILDER_ASSETS={folder}\nKUBE_PROXY_BIN={folder}/kube-proxy\n"


def test_a_build_that_fails_leaves_no_programs(tmp_path: Path) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "apt-get").chmod(0o755)
    completed = build(tmp_path / "cache", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert completed.returncode == lab.LAB_FAILED
    assert "apt-get" in completed.stderr
    assert {path.name for path in (tmp_path / "cache/kubeproxy-py/kubernetes").iterdir()} == {"apt", "lock"}


def test_it_builds_what_the_tests_need() -> None:
    assert {*real.PROGRAMS, "kube-proxy"} == set(PROGRAMS)
