"""The recorded cases on a real kernel, and cases in which the comparison must fail."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance import runner
from tests.conformance.__main__ import main
from tests.conformance.agent_process import AgentProcess
from tests.conformance.case import START
from tests.conformance.case_files import find_cases
from tests.conformance.runner import run_case
from tests.conformance.verdict import Verdict
from tests.e2e.this_kernel import has_iptables_rules

pytestmark = pytest.mark.kernel

CASES = Path(__file__).resolve().parents[1] / "recorded_cases"
# Recorded without the rules of one table; canonical.py explains why.
INCOMPLETE = ("headless-extname-selectorless", "no-clustercidr")
_LINK = Path("/sys/class/net/kube-ipvs0")
_TIMEOUT_S = 60.0


def _assert_equal(verdict: Verdict) -> None:
    assert verdict.is_equal, "\n".join(verdict.lines())


@pytest.mark.parametrize("folder", find_cases(CASES), ids=lambda folder: folder.name)
def test_kernel_state_equals_the_recording(folder: Path) -> None:
    verdict = run_case(folder)
    _assert_equal(verdict)
    incomplete = [f"{START}: ip6tables-save.txt, table filter"] if folder.name in INCOMPLETE else []
    assert verdict.incomplete == incomplete


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.001)


def _virtual_servers() -> list[str]:
    return Path("/proc/net/ip_vs").read_text().splitlines()[3:]  # after three header lines


_MOMENTS: dict[str, Callable[[], bool]] = {
    "kube-ipvs0 exists": _LINK.exists,
    "iptables is being written": has_iptables_rules,
}


@pytest.mark.parametrize(("name", "moment"), list(zip(("clusterip", "nodeport"), _MOMENTS, strict=True)))
def test_agent_killed_during_its_first_sync_reaches_the_state_after_a_restart(name: str, moment: str) -> None:
    def kill_one(manifests: Path, config: Path, log: Path) -> None:
        agent = AgentProcess(manifests, config, log)
        try:
            _wait_until(_MOMENTS[moment])
        finally:
            agent.kill()
        assert not _virtual_servers(), "killed too late: virtual servers exist"

    _assert_equal(run_case(CASES / name, before_start=kill_one))


def test_second_start_has_nothing_to_do() -> None:
    def run_one(manifests: Path, config: Path, log: Path) -> None:
        agent = AgentProcess(manifests, config, log)
        try:
            _wait_until(lambda: "first sync" in log.read_text())
        finally:
            agent.stop()
        log.unlink()

    verdict = run_case(CASES / "nodeport", before_start=run_one)
    _assert_equal(verdict)
    first_sync = next(line for line in verdict.notes if "first sync" in line)
    assert ": nothing to do;" in first_sync


@pytest.fixture
def clusterip(tmp_path: Path) -> Path:
    """A copy of a case, to be changed."""
    return Path(shutil.copytree(CASES / "clusterip", tmp_path / "recorded_cases" / "clusterip"))


_STALE_STATE = """
ip link add kube-ipvs0 type dummy
ip addr add 10.96.99.99/32 dev kube-ipvs0
ipvsadm -A -t 10.96.99.99:80 -s rr
ipvsadm -a -t 10.96.99.99:80 -r 10.244.9.9:8080 -m
ipset create KUBE-CLUSTER-IP hash:ip,port
ipset add KUBE-CLUSTER-IP 10.96.99.99,tcp:80
iptables -t nat -N OTHER-PROGRAM
"""


def test_stale_kube_proxy_state_is_deleted_and_foreign_state_stays(clusterip: Path) -> None:
    (clusterip / "pre.sh").write_text(_STALE_STATE)
    recording = clusterip / "expected" / "iptables-save.txt"
    recording.write_text(recording.read_text().replace("*nat\n", "*nat\n:OTHER-PROGRAM - [0:0]\n"))
    _assert_equal(run_case(clusterip))


def test_rule_in_another_position_is_a_difference(
    clusterip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "DEADLINE_S", 1.0)  # after the first sync; the difference never goes away
    recording = clusterip / "expected" / "iptables-save.txt"
    lines = recording.read_text().splitlines()
    index = next(number for number, line in enumerate(lines) if line.startswith("-A KUBE-IPVS-FILTER"))
    lines[index], lines[index + 1] = lines[index + 1], lines[index]
    recording.write_text("\n".join(lines))
    status = main([str(clusterip.parent)])
    output = capsys.readouterr().out
    assert (status, output.count("DIFFERS"), output.splitlines()[-1]) == (1, 1, "0 equal, 1 differ")
    differing = [line.split()[0] for line in output.splitlines() if "-A KUBE-IPVS-FILTER" in line]
    assert sorted(differing) == ["+filter", "-filter"]


def test_malformed_case_counts_as_differing(clusterip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clusterip / "expected" / "ipset-save.txt").unlink()
    assert main([str(clusterip.parent)]) == 1
    assert "malformed" in capsys.readouterr().out


def test_agent_that_cannot_start_is_a_difference(clusterip: Path) -> None:
    (clusterip / "config.yaml").write_text("mode: iptables\n")
    verdict = run_case(clusterip)
    assert "the agent exited by itself" in verdict.error


@pytest.mark.parametrize("argv", [[], ["--only", "nowhere"]])
def test_no_case_is_a_failure(tmp_path: Path, argv: list[str]) -> None:
    assert main([str(tmp_path), *argv]) == 2
