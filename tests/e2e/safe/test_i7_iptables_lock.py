"""iptables' lock cannot be had: every row that waits for it has one message, which names the cause and the remedy."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator

import pytest

from kubeproxy_py.kernel.dispatch import Adapter
from kubeproxy_py.kernel.iptables import backend
from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter
from kubeproxy_py.kernel.iptables.errors import LOCK
from kubeproxy_py.kernel.iptables.libiptc import LibiptcAdapter
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import ChainSpec
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import FAMILIES
from lab.namespace import new_namespace
from tests.host_tools.iptables_mode import commands_of

pytestmark = pytest.mark.kernel

STEPS = [Step("add", chain, ChainSpec(())) for family in FAMILIES for chain in kube_names.chains(family)]


@pytest.fixture(params=["iptables-restore", "libiptc"])
def rules(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Adapter]:
    monkeypatch.setattr(backend, "LOCK_WAIT_S", 1)
    monkeypatch.setattr("kubeproxy_py.kernel.iptables.libiptc.LOCK_WAIT_S", 0.2)
    commands = commands_of("legacy")
    with new_namespace("lock") as namespace, namespace.inside():
        yield (IptablesAdapter(commands) if request.param == "iptables-restore" else LibiptcAdapter(commands, "legacy"))


def test_a_lock_file_that_is_a_directory_is_named_with_the_remedy(rules: Adapter) -> None:
    LOCK.unlink(missing_ok=True)
    LOCK.mkdir()
    try:
        failures = rules.apply(STEPS)
    finally:
        LOCK.rmdir()
    assert len(failures) == len(STEPS)
    assert {failure.message for failure in failures} == {
        f"{LOCK} is a directory (rmdir {LOCK}; if a hostPath volume made it, give the volume type: FileOrCreate)"
    }
    assert rules.apply(STEPS) == []


def test_a_lock_that_another_program_holds_has_one_message_for_all_rows(rules: Adapter) -> None:
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failures = rules.apply(STEPS)
    assert len(failures) == len(STEPS)
    (message,) = {failure.message for failure in failures}
    assert message.startswith(f"another program holds the lock of iptables (fuser -v {LOCK}")
    assert rules.apply(STEPS) == []
