"""Pages of the metrics server below /debug/: only if they are enabled."""

from __future__ import annotations

import pytest

from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.server.http_messages import Request, Response
from kubeproxy_py.server.metrics_pages import MetricsPages


def pages(*, enabled: bool) -> MetricsPages:
    served = MetricsPages(MetricsRegistry(), (), dict)
    if enabled:
        served.serve_documents(lambda request: Response(200, f"{request.path}?{request.query}".encode()))
    return served


@pytest.mark.parametrize(
    ("path", "asked"), [("/debug/state", b"/v1/state?a=b"), ("/debug/explain", b"/v1/explain?a=b")]
)
def test_documents_are_served_below_debug(path: str, asked: bytes) -> None:
    assert pages(enabled=True).answer(Request("GET", path, "a=b")).body == asked


@pytest.mark.parametrize("path", ["/debug/state", "/debug/", "/debug/pprof"])
def test_nothing_is_served_below_debug_without_profiling(path: str) -> None:
    assert pages(enabled=False).answer(Request("GET", path)).status == 404
