"""The lab passes output, status, environment and working directory through, and leaves nothing on this host.

A boot takes 2 s: one run covers most of it, and only the cases that end a run early have a run of their own.
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
from lab.backends import choose_backend
from lab.job import LabError
from lab.kernels import choose_kernel
from lab.uml import unavailable

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PATIENCE_S = 120.0  # for a boot and what follows, on a machine where others boot, too

# Writes to the directories that are discarded, prints its environment, runs a nested lab, and kills itself.
_SCRIPT = """
import os, signal, subprocess, sys
for folder in ("/tmp", "/run", "/var/lib", "/dev/shm"):
    open(folder + "/lab-was-here", "w").close()
def report(name, value): print(name, value, file=sys.stderr, flush=True)
report("cwd", os.getcwd())
report("greeting", os.environ["GREETING"])
report("ipvs", os.path.exists("/proc/net/ip_vs"))
report("iptables", subprocess.run(["iptables", "-V"], capture_output=True, text=True).stdout)
report("null", repr(sys.stdin.read()))
nested = subprocess.run([sys.executable, "-m", "lab", "run", "--", "sh", "-c", "echo from the host backend; exit 7"],
    cwd=sys.argv[1], capture_output=True, text=True)
report("nested", f"{nested.returncode} {nested.stdout.strip()}{nested.stderr.strip()}")
sys.stdout.buffer.write(bytes(range(256)) * 40_000)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
_WANTED_OUTPUT = bytes(range(256)) * 40_000
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """The result of one run, and what it left on the host."""

    status: int
    stdout: bytes
    reported: Mapping[str, str]  # by the script, by name
    files: list[str]
    processes: list[str]


def _processes_naming(text: str) -> list[str]:
    """Return the command lines on this host that contain *text*; those of the lab contain its folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if text in line:
            lines.append(line)
    return lines


def _start(temporary: Path, *words: str, cwd: Path = _ROOT) -> subprocess.Popen[bytes]:
    env = {**os.environ, "TMPDIR": str(temporary), "GREETING": "grüß 世界", "PYTHONPATH": str(_ROOT)}
    command = [sys.executable, "-m", "lab", "run", *words]
    return subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes], temporary: Path) -> Ended:
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    reported = dict(line.split(" ", 1) for line in stderr.decode().splitlines() if " " in line)
    files = [path.name for path in temporary.iterdir()]
    return Ended(process.returncode, stdout, reported, files, _processes_naming(str(temporary)))


@pytest.fixture(scope="module")
def killed_by_signal(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    temporary = tmp_path_factory.mktemp("lab")
    words = ("--", sys.executable, "-c", _SCRIPT, str(_ROOT))
    return _finish(_start(temporary, *words, cwd=_ROOT / "tests"), temporary)


def test_exit_status_of_a_command_killed_by_a_signal_is_128_plus_its_number(killed_by_signal: Ended) -> None:
    assert killed_by_signal.status == 128 + signal.SIGKILL, killed_by_signal.reported


def test_ten_megabytes_of_binary_output_are_passed_on_unchanged(killed_by_signal: Ended) -> None:
    digests = [hashlib.sha256(output).hexdigest() for output in (killed_by_signal.stdout, _WANTED_OUTPUT)]
    assert digests[0] == digests[1]


def test_command_runs_with_the_callers_working_directory_and_environment(killed_by_signal: Ended) -> None:
    reported = killed_by_signal.reported
    assert (reported["cwd"], reported["greeting"], reported["null"]) == (str(_ROOT / "tests"), "grüß 世界", "''")


def test_kernel_has_ipvs_and_legacy_iptables(killed_by_signal: Ended) -> None:
    assert killed_by_signal.reported["ipvs"] == "True"
    assert killed_by_signal.reported["iptables"].endswith("(legacy)")


def test_host_backend_works_on_a_kernel_with_ipvs(killed_by_signal: Ended) -> None:
    assert killed_by_signal.reported["nested"] == "7 from the host backend"


def test_files_written_to_tmp_run_and_var_are_not_on_the_host(killed_by_signal: Ended) -> None:
    folders = ("/tmp", "/run", "/var/lib", "/dev/shm")
    assert [folder for folder in folders if Path(folder, "lab-was-here").exists()] == []


def test_no_file_and_no_process_remains_after_a_run(killed_by_signal: Ended) -> None:
    assert (killed_by_signal.files, killed_by_signal.processes) == ([], [])


def test_timeout_kills_the_kernel_in_time_with_status_124_and_leaves_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    ended = _finish(_start(tmp_path, "--timeout", "4", "--", "sh", "-c", "sleep 1000 & sleep 1000"), tmp_path)
    assert (ended.status, ended.files, ended.processes) == (lab.TIMED_OUT, [], [])
    assert 4 <= time.monotonic() - started < PATIENCE_S


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_kernel_ends_when_the_lab_process_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    process = _start(tmp_path, "--", "sh", "-c", "echo up; sleep 1000")
    assert process.stdout and process.stdout.readline() == b"up\n"
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S / 2  # after SIGKILL another process has to notice
    while (left := (_processes_naming(str(tmp_path)), list(tmp_path.iterdir()))) != ([], []):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_run_returns_the_exit_status_of_the_command(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        status = lab.run(["sh", "-c", 'echo "$WORD"; exit 41'], env={"WORD": "hello"}, stdout=out, timeout_s=PATIENCE_S)
    assert (status, (tmp_path / "out").read_text()) == (41, "hello\n")


def test_user_mode_linux_is_available_here() -> None:
    assert unavailable() is None


def test_unknown_backend_is_rejected_with_the_list_of_known_ones() -> None:
    with pytest.raises(LabError, match=r"vmware is not a backend of the lab \(hint: use one of uml, host, qemu\)"):
        choose_backend({"LAB": "vmware"})


def _output(env: Mapping[str, str], *argv: str) -> str:
    words = [sys.executable, "-m", "lab", "run", "--timeout", str(PATIENCE_S - 10), "--", *argv]
    environment = {**os.environ, **env}
    done = subprocess.run(words, env=environment, cwd=_ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    return done.stdout


def test_iptables_variant_is_the_one_that_is_named_and_works() -> None:
    script = "iptables -V && iptables -t nat -S && ip6tables -S"
    for kind, printed in (("legacy", "(legacy)"), ("nft", "(nf_tables)")):
        if kind not in choose_kernel().modules:
            pytest.skip("no kernel with nf_tables was built: make lab-kernels")
        lines = _output({"LAB_IPTABLES": kind}, "sh", "-ec", script).splitlines()
        assert lines[0].endswith(printed)
        assert lines[-1] == "-P OUTPUT ACCEPT"


def test_kernel_has_no_tables_of_nft_if_iptables_is_legacy() -> None:
    # Debian's kernel has the module nf_tables without its families: it lists nothing, and no table can be added.
    assert _output({"LAB_IPTABLES": "legacy"}, "sh", "-c", "nft add table ip probe; echo $?").split()[-1] != "0"


def test_kernel_is_named_before_the_command_runs() -> None:
    argv = [sys.executable, "-m", "lab", "run", "--", "uname", "-r"]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stderr.startswith(f"lab: Linux {done.stdout.strip()} (")
