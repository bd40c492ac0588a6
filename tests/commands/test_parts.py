"""Parts: what cannot be compiled is reported by a log line with the traceback, and by an Event."""

import pytest

from kubeproxy_py.commands import parts
from kubeproxy_py.events.kube_events import KubeEvent
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
