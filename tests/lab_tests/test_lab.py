"""The lab keeps its law: the command's output, status, environment and folder unchanged, and nothing left on this host.

Kernels are dear (2 s): one run shows most of it, and only what ends a run early has a run of its own.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import lab
from lab.choose import choose
from lab.job import LabError
from lab.uml import obstacle

pytestmark = pytest.mark.lab

# Writes where it should not stay, tells what it sees, lets the host way run a command, and dies by a signal.
_SCRIPT = """
import os, signal, subprocess, sys
for folder in ("/tmp", "/run", "/var/lib", "/dev/shm"):
    open(folder + "/lab-was-here", "w").close()
def tell(name, value): print(name, value, file=sys.stderr, flush=True)
tell("cwd", os.getcwd())
tell("greeting", os.environ["GREETING"])
tell("ipvs", os.path.exists("/proc/net/ip_vs"))
tell("iptables", subprocess.run(["iptables", "-V"], capture_output=True, text=True).stdout)
tell("null", repr(sys.stdin.read()))
nested = subprocess.run([sys.executable, "-m", "lab", "run", "--", "sh", "-c", "echo from the host way; exit 7"],
    cwd=sys.argv[1], capture_output=True, text=True)
tell("nested", f"{nested.returncode} {nested.stdout.strip()}{nested.stderr.strip()}")
sys.stdout.buffer.write(bytes(range(256)) * 40_000)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
_WANTED_OUTPUT = bytes(range(256)) * 40_000
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """What came of one run, and what the host was left with."""

    status: int
    stdout: bytes
    said: Mapping[str, str]
    files: list[str]
    processes: list[str]


def _processes_naming(text: str) -> list[str]:
    """The command lines on this host that name *text*; the lab's all name its folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        if text in line:
            found.append(line)
    return found


def _start(temporary: Path, *words: str, cwd: Path = _ROOT) -> subprocess.Popen[bytes]:
    env = {**os.environ, "TMPDIR": str(temporary), "GREETING": "grüß 世界", "PYTHONPATH": str(_ROOT)}
    command = [sys.executable, "-m", "lab", "run", *words]
    return subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes], temporary: Path) -> Ended:
    stdout, stderr = process.communicate(timeout=90)
    said = dict(line.split(" ", 1) for line in stderr.decode().splitlines() if " " in line)
    files = [path.name for path in temporary.iterdir()]
    return Ended(process.returncode, stdout, said, files, _processes_naming(str(temporary)))


@pytest.fixture(scope="module")
def killed_by_signal(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    temporary = tmp_path_factory.mktemp("lab")
    words = ("--", sys.executable, "-c", _SCRIPT, str(_ROOT))
    return _finish(_start(temporary, *words, cwd=_ROOT / "tests"), temporary)


def test_death_by_a_signal_is_128_and_its_number(killed_by_signal: Ended) -> None:
    assert killed_by_signal.status == 128 + signal.SIGKILL, killed_by_signal.said


def test_ten_megabytes_of_any_bytes_come_back_intact(killed_by_signal: Ended) -> None:
    digests = [hashlib.sha256(output).hexdigest() for output in (killed_by_signal.stdout, _WANTED_OUTPUT)]
    assert digests[0] == digests[1]


def test_the_command_sees_its_folder_and_environment(killed_by_signal: Ended) -> None:
    said = killed_by_signal.said
    assert (said["cwd"], said["greeting"], said["null"]) == (str(_ROOT / "tests"), "grüß 世界", "''")


def test_the_kernel_has_ipvs_and_legacy_iptables(killed_by_signal: Ended) -> None:
    assert killed_by_signal.said["ipvs"] == "True"
    assert killed_by_signal.said["iptables"].endswith("(legacy)")


def test_the_host_way_works_where_the_kernel_has_ipvs(killed_by_signal: Ended) -> None:
    assert killed_by_signal.said["nested"] == "7 from the host way"


def test_what_was_written_to_tmp_and_run_is_not_on_the_host(killed_by_signal: Ended) -> None:
    folders = ("/tmp", "/run", "/var/lib", "/dev/shm")
    assert [folder for folder in folders if Path(folder, "lab-was-here").exists()] == []


def test_nothing_is_left_after_a_run(killed_by_signal: Ended) -> None:
    assert (killed_by_signal.files, killed_by_signal.processes) == ([], [])


def test_timeout_is_124_in_time_and_leaves_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    ended = _finish(_start(tmp_path, "--timeout", "4", "--", "sh", "-c", "sleep 1000 & sleep 1000"), tmp_path)
    assert (ended.status, ended.files, ended.processes) == (lab.TIMED_OUT, [], [])
    assert 4 <= time.monotonic() - started < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_lab_that_is_killed_takes_its_kernel_along(tmp_path: Path, number: signal.Signals) -> None:
    process = _start(tmp_path, "--", "sh", "-c", "echo up; sleep 1000")
    assert process.stdout and process.stdout.readline() == b"up\n"
    process.send_signal(number)
    process.communicate(timeout=20)
    deadline = time.monotonic() + 5  # after SIGKILL another process has to notice
    while (left := (_processes_naming(str(tmp_path)), list(tmp_path.iterdir()))) != ([], []):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_status_of_the_api_is_the_commands(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        status = lab.run(["sh", "-c", 'echo "$WORD"; exit 41'], env={"WORD": "hello"}, stdout=out, timeout_s=60)
    assert (status, (tmp_path / "out").read_text()) == (41, "hello\n")


def test_user_mode_linux_is_possible_here() -> None:
    assert obstacle() is None


def test_a_way_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(LabError, match=r"vmware is not a way to a kernel \(hint: one of uml, host, qemu\)"):
        choose({"LAB": "vmware"})
