"""The lab in qemu, in one run for all tests, because each run takes 15 s."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from lab import qemu
from lab.backends import choose_backend
from lab.job import LabError

_ROOT = Path(__file__).resolve().parents[2]
_WRITTEN = _ROOT / "build" / "written-in-qemu"
_SCRIPT = """
import os, signal, subprocess, sys
for folder in ("/tmp", "/run", "/var/lib", "/dev/shm"):
    open(folder + "/lab-was-here", "w").close()
open(sys.argv[2], "w").write("from qemu")
def report(name, value): print(name, value, file=sys.stderr, flush=True)
report("cwd", os.getcwd())
report("greeting", os.environ["GREETING"])
report("ipvs", os.path.exists("/proc/net/ip_vs"))
report("iptables", subprocess.run(["iptables-nft", "-t", "nat", "-S", "POSTROUTING"], capture_output=True).returncode)
nested = subprocess.run([sys.executable, "-m", "lab", "run", "--", "sh", "-c", "echo from the host backend; exit 7"],
    cwd=sys.argv[1], capture_output=True, text=True)
report("nested", f"{nested.returncode} {nested.stdout.strip()}{nested.stderr.strip()}")
sys.stdout.buffer.write(bytes(range(256)) * 4_000)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


class Ended(NamedTuple):
    status: int
    stdout: bytes
    reported: dict[str, str]
    files: list[str]


@pytest.fixture(scope="module")
def killed_by_signal(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    temporary = tmp_path_factory.mktemp("lab")
    _WRITTEN.unlink(missing_ok=True)
    env = {**os.environ, "LAB": "qemu", "TMPDIR": str(temporary), "GREETING": "grüß 世界", "PYTHONPATH": str(_ROOT)}
    words = [sys.executable, "-m", "lab", "run", "--", sys.executable, "-c", _SCRIPT, str(_ROOT), str(_WRITTEN)]
    done = subprocess.run(words, env=env, cwd=_ROOT / "tests", capture_output=True, timeout=110, check=False)
    reported = dict(line.split(" ", 1) for line in done.stderr.decode().splitlines() if " " in line)
    return Ended(done.returncode, done.stdout, reported, [path.name for path in temporary.iterdir()])


@pytest.mark.qemu
def test_status_and_output_are_passed_on(killed_by_signal: Ended) -> None:
    assert killed_by_signal.status == 128 + 9, killed_by_signal.reported
    assert killed_by_signal.stdout == bytes(range(256)) * 4_000


@pytest.mark.qemu
def test_command_runs_with_the_callers_working_directory_and_environment(killed_by_signal: Ended) -> None:
    reported = killed_by_signal.reported
    assert (reported["cwd"], reported["greeting"]) == (str(_ROOT / "tests"), "grüß 世界")


@pytest.mark.qemu
def test_kernel_has_ipvs_and_nf_tables(killed_by_signal: Ended) -> None:
    assert (killed_by_signal.reported["ipvs"], killed_by_signal.reported["iptables"]) == ("True", "0")


@pytest.mark.qemu
def test_host_backend_works_within_qemu(killed_by_signal: Ended) -> None:
    assert killed_by_signal.reported["nested"] == "7 from the host backend"


@pytest.mark.qemu
def test_files_written_outside_tmp_run_and_var_are_on_the_host_and_no_others(killed_by_signal: Ended) -> None:
    assert _WRITTEN.read_text() == "from qemu"
    _WRITTEN.unlink()
    assert killed_by_signal.files == []
    assert [path for path in ("/tmp", "/run", "/var/lib", "/dev/shm") if Path(path, "lab-was-here").exists()] == []


def test_missing_kernel_is_reported_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "TREE", tmp_path)
    with pytest.raises(LabError, match=r"not installed: .*linux-image-amd64") as caught:
        choose_backend({"LAB": "qemu"})
    assert caught.value.hint == "run LAB=qemu python3 -m lab install"
