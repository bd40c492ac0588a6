"""A dump of a node, whose kernel has IPVS, is compared on this host, whose kernel need not have it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import lab
from lab.job import REPOSITORY
from tests.e2e.agent_process import command_line
from tests.e2e.manifests import Folder, service_with_slice

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]


def test_plan_with_a_dump_of_a_node_equals_the_plan_of_that_node() -> None:
    build = REPOSITORY / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as name:  # the lab does not see /tmp
        folder = Folder(Path(name, "manifests"))
        folder.path.mkdir()
        folder.write("all", service_with_slice("web", "10.96.0.10", ["pod-a1", "pod-b1"]))
        argv = [sys.executable, "-m", "tests.lab_tests.dumped_node", str(folder.path)]
        with tempfile.TemporaryFile() as output:
            assert lab.run(argv, timeout_s=280, stdout=output, cwd=str(REPOSITORY)) == 0
            output.seek(0)
            node = json.loads(output.read())
        file = Path(name, "node.json")
        file.write_text(node["dump"])
        line = command_line(folder.path, "plan", f"--kernel-state={file}")
        ended = subprocess.run(line, capture_output=True, text=True, check=False, cwd=REPOSITORY)
        assert (ended.returncode, ended.stdout) == (2, node["plan"]), ended.stderr
        for row in ("10.244.2.5:8080", "198.51.100.77:99", "10.96.9.9,tcp:80", "KUBE-SERVICES"):
            assert row in ended.stdout
