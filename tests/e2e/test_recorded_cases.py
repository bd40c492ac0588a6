"""The recorded cases on a real kernel, and that the comparison itself can fail."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance import run
from tests.conformance.__main__ import main
from tests.conformance.agent import AgentProcess
from tests.conformance.case import START
from tests.conformance.find import find_cases
from tests.conformance.run import run_case
from tests.conformance.verdict import Verdict

pytestmark = pytest.mark.kernel

CASES = Path(__file__).resolve().parents[1] / "recorded_cases"
# Recorded with the rules of one table missing; canon.py says how that comes.
TORN = ("headless-extname-selectorless", "no-clustercidr")
_LINK = Path("/sys/class/net/kube-ipvs0")
_TABLES = Path("/proc/net/ip_tables_names")
_PATIENCE_S = 20.0


_judge = functools.cache(run_case)


def _assert_equal(verdict: Verdict) -> None:
    assert verdict.is_equal, "\n".join(verdict.lines())


@pytest.mark.parametrize("folder", find_cases(CASES), ids=lambda folder: folder.name)
def test_kernel_state_is_that_of_kube_proxy(folder: Path) -> None:
    _assert_equal(_judge(folder))


def test_only_known_recordings_are_torn_and_only_in_one_table() -> None:
    torn = {folder.name: _judge(folder).torn for folder in find_cases(CASES)}
    found = {name: where for name, where in torn.items() if where}
    assert found == {name: [f"{START}: ip6tables-save.txt, table filter"] for name in TORN}


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def _virtual_servers() -> list[str]:
    return Path("/proc/net/ip_vs").read_text().splitlines()[3:]  # below three lines of headings


_HALF_WAY: dict[str, Callable[[], bool]] = {
    "kube-ipvs0 is there": _LINK.exists,
    "iptables is being written": lambda: _TABLES.exists() and bool(_TABLES.read_text()),
}


@pytest.mark.parametrize(("name", "moment"), list(zip(("clusterip", "nodeport"), _HALF_WAY, strict=True)))
def test_killed_half_way_and_started_again_it_gets_there(name: str, moment: str) -> None:
    def kill_one(manifests: Path, config: Path, log: Path) -> None:
        agent = AgentProcess(manifests, config, log)
        try:
            _wait_until(_HALF_WAY[moment])
        finally:
            agent.kill()
        assert not _virtual_servers(), "killed too late: it was more than half-way"

    _assert_equal(run_case(CASES / name, before_start=kill_one))


def test_started_a_second_time_it_has_nothing_to_do() -> None:
    def run_one(manifests: Path, config: Path, log: Path) -> None:
        agent = AgentProcess(manifests, config, log)
        try:
            _wait_until(lambda: "first sync" in log.read_text())
        finally:
            agent.end()
        log.unlink()

    verdict = run_case(CASES / "nodeport", before_start=run_one)
    _assert_equal(verdict)
    first_sync = next(line for line in verdict.notes if "first sync" in line)
    assert ": nothing to do;" in first_sync


@pytest.fixture
def clusterip(tmp_path: Path) -> Path:
    """A copy of a case, to be changed."""
    return Path(shutil.copytree(CASES / "clusterip", tmp_path / "recorded_cases" / "clusterip"))


_LEFTOVERS = """
ip link add kube-ipvs0 type dummy
ip addr add 10.96.99.99/32 dev kube-ipvs0
ipvsadm -A -t 10.96.99.99:80 -s rr
ipvsadm -a -t 10.96.99.99:80 -r 10.244.9.9:8080 -m
ipset create KUBE-CLUSTER-IP hash:ip,port
ipset add KUBE-CLUSTER-IP 10.96.99.99,tcp:80
iptables -t nat -N SOMEBODY-ELSES
"""


def test_leftovers_of_pre_sh_go_and_what_is_foreign_stays(clusterip: Path) -> None:
    (clusterip / "pre.sh").write_text(_LEFTOVERS)
    recording = clusterip / "expected" / "iptables-save.txt"
    recording.write_text(recording.read_text().replace("*nat\n", "*nat\n:SOMEBODY-ELSES - [0:0]\n"))
    _assert_equal(run_case(clusterip))


def test_one_rule_in_another_place_is_a_difference(
    clusterip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "DEADLINE_S", 20.0)  # a start takes 1 s, and 5 s on a busy machine
    recording = clusterip / "expected" / "iptables-save.txt"
    lines = recording.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("-A KUBE-IPVS-FILTER"))
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    recording.write_text("\n".join(lines))
    status = main([str(clusterip.parent)])
    told = capsys.readouterr().out
    assert (status, told.count("DIFFERS"), told.splitlines()[-1]) == (1, 1, "0 equal, 1 differ")
    differing = [line.split()[0] for line in told.splitlines() if "-A KUBE-IPVS-FILTER" in line]
    assert sorted(differing) == ["+filter", "-filter"]


def test_a_malformed_case_counts_as_differing(clusterip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clusterip / "expected" / "ipset-save.txt").unlink()
    assert main([str(clusterip.parent)]) == 1
    assert "malformed" in capsys.readouterr().out


def test_an_agent_that_can_not_start_is_a_difference(clusterip: Path) -> None:
    (clusterip / "config.yaml").write_text("mode: iptables\n")
    verdict = run_case(clusterip)
    assert "the agent ended by itself" in verdict.trouble


@pytest.mark.parametrize("argv", [[], ["--only", "nowhere"]])
def test_no_case_is_not_success(tmp_path: Path, argv: list[str]) -> None:
    assert main([str(tmp_path), *argv]) == 2
