"""The lab in qemu keeps the lab's law too: one run that shows it all, for each takes a quarter of a minute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from lab import qemu
from lab.choose import choose
from lab.job import LabError

_ROOT = Path(__file__).resolve().parents[2]
_WRITTEN = _ROOT / "build" / "written-in-qemu"
_SCRIPT = """
import os, signal, subprocess, sys
for folder in ("/tmp", "/run", "/var/lib", "/dev/shm"):
    open(folder + "/lab-was-here", "w").close()
open(sys.argv[2], "w").write("from qemu")
def tell(name, value): print(name, value, file=sys.stderr, flush=True)
tell("cwd", os.getcwd())
tell("greeting", os.environ["GREETING"])
tell("ipvs", os.path.exists("/proc/net/ip_vs"))
tell("iptables", subprocess.run(["iptables-nft", "-t", "nat", "-S", "POSTROUTING"], capture_output=True).returncode)
nested = subprocess.run([sys.executable, "-m", "lab", "run", "--", "sh", "-c", "echo from the host way; exit 7"],
    cwd=sys.argv[1], capture_output=True, text=True)
tell("nested", f"{nested.returncode} {nested.stdout.strip()}{nested.stderr.strip()}")
sys.stdout.buffer.write(bytes(range(256)) * 4_000)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


class Ended(NamedTuple):
    status: int
    stdout: bytes
    said: dict[str, str]
    files: list[str]


@pytest.fixture(scope="module")
def killed_by_signal(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    temporary = tmp_path_factory.mktemp("lab")
    _WRITTEN.unlink(missing_ok=True)
    env = {**os.environ, "LAB": "qemu", "TMPDIR": str(temporary), "GREETING": "grüß 世界", "PYTHONPATH": str(_ROOT)}
    words = [sys.executable, "-m", "lab", "run", "--", sys.executable, "-c", _SCRIPT, str(_ROOT), str(_WRITTEN)]
    done = subprocess.run(words, env=env, cwd=_ROOT / "tests", capture_output=True, timeout=110, check=False)
    said = dict(line.split(" ", 1) for line in done.stderr.decode().splitlines() if " " in line)
    return Ended(done.returncode, done.stdout, said, [path.name for path in temporary.iterdir()])


@pytest.mark.qemu
def test_status_and_output_come_back(killed_by_signal: Ended) -> None:
    assert killed_by_signal.status == 128 + 9, killed_by_signal.said
    assert killed_by_signal.stdout == bytes(range(256)) * 4_000


@pytest.mark.qemu
def test_the_command_sees_its_folder_and_environment(killed_by_signal: Ended) -> None:
    said = killed_by_signal.said
    assert (said["cwd"], said["greeting"]) == (str(_ROOT / "tests"), "grüß 世界")


@pytest.mark.qemu
def test_the_kernel_has_ipvs_and_nf_tables(killed_by_signal: Ended) -> None:
    assert (killed_by_signal.said["ipvs"], killed_by_signal.said["iptables"]) == ("True", "0")


@pytest.mark.qemu
def test_the_host_way_works_within(killed_by_signal: Ended) -> None:
    assert killed_by_signal.said["nested"] == "7 from the host way"


@pytest.mark.qemu
def test_what_is_written_elsewhere_is_here_and_nothing_else_is_left(killed_by_signal: Ended) -> None:
    assert _WRITTEN.read_text() == "from qemu"
    _WRITTEN.unlink()
    assert killed_by_signal.files == []
    assert [path for path in ("/tmp", "/run", "/var/lib", "/dev/shm") if Path(path, "lab-was-here").exists()] == []


def test_without_its_kernel_the_hint_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "TREE", tmp_path)
    with pytest.raises(LabError, match=r"not installed: .*linux-image-amd64") as caught:
        choose({"LAB": "qemu"})
    assert caught.value.hint == "LAB=qemu python3 -m lab install"
