"""Parts: what cannot be compiled, and what the host lacks, is reported once."""

import pytest

from kubeproxy_py.commands import parts
from kubeproxy_py.config.load import load
from kubeproxy_py.events.kube_events import KubeEvent
from kubeproxy_py.kernel import host_probe
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host_probe import HostProblem, ProbeResult
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.services import ServiceName


@pytest.mark.parametrize(
    ("name", "where"), [(ServiceName("shop", "web"), "Service shop/web"), (None, "Node node-a")], ids=str
)
def test_what_cannot_be_compiled_is_told(
    name: ServiceName | None, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[KubeEvent] = []
    error = ZeroDivisionError("a bug")
    parts._report_failure_to(events.append, "node-a")(name, error)
    (record,) = caplog.records
    assert record.values == {"object": where}  # type: ignore[attr-defined]
    assert record.exc_info
    assert record.exc_info[1] is error
    (event,) = events
    assert (event.reason, event.type, str(event.regarding)) == ("InternalError", "Warning", where)
    assert "ZeroDivisionError" in event.note
    assert "node-a" in event.note


def test_what_ends_the_start_is_raised_and_not_logged_as_well(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problems = (HostProblem("no IPVS", "modprobe ip_vs", fatal=True), HostProblem("no physdev", "modprobe xt_physdev"))
    result = ProbeResult(HostInfo(), "6.1.0", "legacy", (1, 8, 9), (), ipset_by_tool=False, problems=problems)
    monkeypatch.setattr(host_probe, "probe", lambda _flavour, **_policies: result)
    with pytest.raises(KernelError, match="no IPVS"):
        parts.probe_host(load({}), require=True)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [str(problems[1])]


def test_what_is_missing_is_logged_where_it_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problem = HostProblem("no IPVS", "modprobe ip_vs", fatal=True)
    result = ProbeResult(HostInfo(), "6.1.0", "legacy", (1, 8, 9), (), ipset_by_tool=False, problems=(problem,))
    monkeypatch.setattr(host_probe, "probe", lambda _flavour, **_policies: result)
    assert parts.probe_host(load({})) is result
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [str(problem)]
