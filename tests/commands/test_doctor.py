"""What doctor prints: text for people and one document for programs, and the exit status of both."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from kubeproxy_py.checks.all_checks import CHECKS
from kubeproxy_py.checks.check import Check, Diagnosis, diagnose
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.commands import doctor as module
from kubeproxy_py.commands.doctor import doctor
from kubeproxy_py.commands.doctor_report import exit_status, report_json, summary_text, text_of
from kubeproxy_py.config.load import load
from tests.checks.examples import DOCTOR, EXAMPLES, WELL, with_doctor


def diagnoses(situation: Situation) -> tuple[Diagnosis, ...]:
    return tuple(diagnose(check, situation) for check in CHECKS)


HERE = replace(WELL, doctor=replace(DOCTOR, certificates=(), api_server=None))
UNREAD = with_doctor(unread={"iptables": "not permitted"})


@pytest.mark.parametrize(
    ("situation", "status", "summary"),
    [
        (WELL, 0, f"{len(CHECKS)} checks: {len(CHECKS)} ok\n"),
        (EXAMPLES["FirewallService"], 0, f"{len(CHECKS)} checks: {len(CHECKS) - 1} ok, 1 warning\n"),
        (EXAMPLES["HairpinOff"], 2, f"{len(CHECKS)} checks: {len(CHECKS) - 1} ok, 1 error\n"),
        (EXAMPLES["RightsMissing"], 1, f"{len(CHECKS)} checks: {len(CHECKS) - 2} ok, 2 unknown\n"),
        (UNREAD, 1, None),
        (replace(EXAMPLES["HairpinOff"], doctor=replace(DOCTOR, unread={"iptables": "x"})), 2, None),
    ],
)
def test_exit_status_is_that_of_the_worst_state(situation: Situation, status: int, summary: str | None) -> None:
    found = diagnoses(situation)
    assert exit_status(found) == status
    assert summary in (None, summary_text(found))
    assert json.loads(report_json(found))["exitStatus"] == status


def test_document_has_an_entry_for_each_finding_and_for_each_check_without_one() -> None:
    document = json.loads(report_json(diagnoses(EXAMPLES["ConntrackTableFull"])))
    assert (document["version"], document["state"]) == (1, "error")
    assert [entry["check"] for entry in document["checks"]] == [check.name for check in CHECKS]
    (entry,) = (entry for entry in document["checks"] if entry["state"] != "ok")
    assert entry["reason"] == "ConntrackTableFull"
    assert entry["cause"] == "conntrack: 130000 of 131072 connections are tracked"
    assert entry["effect"].startswith("when the table is full")
    assert entry["remedy"].startswith("sysctl -w net.netfilter.nf_conntrack_max=N")
    assert entry["evidence"] == "130000 of 131072 connections are tracked"


def test_text_has_one_line_for_what_is_well_and_four_for_a_finding() -> None:
    lines = {check.name: text_of(diagnose(check, EXAMPLES["HairpinOff"])).splitlines() for check in CHECKS}
    assert lines["rights"] == ["ok       rights             UID 0, with NET_ADMIN and NET_RAW"]
    first, *rest = lines["hairpin"]
    assert first.split() == ["error", "hairpin", "HairpinOff"]
    assert [line.split()[0] for line in rest] == ["cause", "effect", "remedy", "seen"]


def test_text_of_what_could_not_be_looked_at_says_why() -> None:
    (check,) = (check for check in CHECKS if check.name == "input")
    assert text_of(diagnose(check, UNREAD)).split(maxsplit=2)[2] == "could not look: iptables: not permitted\n"


def test_check_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_situation: Situation) -> object:
        raise ZeroDivisionError

    broken = Check(name="broken", about="", find=fail, reasons=())  # type: ignore[arg-type]
    monkeypatch.setattr(module, "CHECKS", (broken, *CHECKS))
    monkeypatch.setattr(module, "host_situation", lambda _loaded: HERE)
    assert doctor(load({"manifests": "/nowhere", "cluster-cidr": "10.244.0.0/16"}), as_json=False) == 1
    text = capsys.readouterr().out
    assert "unknown  broken             could not look: internal error (please report): ZeroDivisionError()" in text
    assert "ok       hairpin" in text


def test_without_a_pod_network_bridges_are_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "host_situation", lambda _loaded: HERE)
    assert doctor(load({"manifests": "/nowhere"}), as_json=True) == 1
    entries = json.loads(capsys.readouterr().out)["checks"]
    unknown = {entry["check"]: entry["cause"] for entry in entries if entry["state"] == "unknown"}
    assert set(unknown) == {"reverse-paths", "bridge-netfilter", "hairpin"}
    assert "pass --kubeconfig or --cluster-cidr" in unknown["hairpin"]
