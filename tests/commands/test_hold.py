"""plan --hold: the last line sums up the plan, or names the error, and the process waits for SIGTERM."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kubeproxy_py.commands.hold import summary_of
from kubeproxy_py.commands.plan import Planned
from kubeproxy_py.model.rows import Link, Sysctl
from kubeproxy_py.model.steps import Plan, Step
from tests.sources import manifest_objects
from tests.sources.manifest_objects import Json

ADD, CHANGE = Step("add", Link("kube-ipvs0")), Step("update", Sysctl("net/ipv4/vs/conntrack"), None, None)
_END_S = 60


def held(*flags: str, number: signal.Signals = signal.SIGTERM) -> tuple[list[str], int]:
    """Return the output of plan --hold up to the line of the node, and its exit status after the signal."""
    argv = [sys.executable, "-m", "kubeproxy_py", "plan", "--hold", "--assume-empty", *flags]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("node-a: "):
                break
        assert process.poll() is None, "ended without waiting for the signal"
        process.send_signal(number)
        rest = process.stdout.read()
        assert rest == "", "the summary must be the last line"
        return lines, process.wait(timeout=_END_S)


def with_objects(folder: Path, *objects: Json) -> list[str]:
    for number, content in enumerate(objects):
        (folder / f"{number}.json").write_text(json.dumps(content))
    return ["--hostname-override=Node-A", f"--manifests={folder}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_held_plan_ends_with_a_line_of_the_node_and_waits_for_the_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    lines, status = held(*with_objects(tmp_path, manifest_objects.service()), number=number)
    assert lines[-1].endswith(" to add, 0 to change, 0 to delete")
    assert int(lines[-1].split()[1]) == len([line for line in lines if line.startswith("+ ")]) > 10
    assert status == 2


def test_rejected_object_is_counted_behind_the_changes_and_named_before(tmp_path: Path) -> None:
    bad = manifest_objects.service("bad", ports=[{"port": 99999}])
    lines, status = held(*with_objects(tmp_path, bad))
    assert lines[-1].endswith("to delete; 1 error of objects, named above")
    assert any("shop/bad" in line for line in lines[:-1])
    assert status == 1


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--manifests=/nonexistent"], "/nonexistent"),
        (["--manifests=/tmp", "--cluster-cidr=10.0.0.0/33"], "--cluster-cidr: '10.0.0.0/33'"),
        (["--kubeconfig=/nonexistent"], "/nonexistent"),
    ],
    ids=["source", "configuration", "kubeconfig"],
)
def test_error_is_the_line_of_the_node_and_the_process_waits_all_the_same(flags: list[str], error: str) -> None:
    lines, status = held("--hostname-override=node-a", *flags)
    assert lines[-1].startswith("node-a: error: ")
    assert error in lines[-1]
    assert status == 1


@pytest.mark.parametrize(
    ("steps", "errors", "text"),
    [
        ((), 0, "nothing to change"),
        ((ADD, ADD, CHANGE), 0, "2 to add, 1 to change, 0 to delete"),
        ((), 2, "nothing to change; 2 errors of objects, named above"),
    ],
)
def test_summary_counts_what_a_sync_would_do(steps: tuple[Step, ...], errors: int, text: str) -> None:
    assert summary_of(Planned(Plan(steps), errors)) == text
