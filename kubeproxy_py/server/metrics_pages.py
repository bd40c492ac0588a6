"""MetricsPages: /metrics, /metrics/slis, /healthz, /proxyMode, /configz and /statusz of the metrics server.

Below /debug/ are the documents of the agent's state, if the configuration enables profiling.

Invariants:
  - A page that fails is answered with status 500 and logged (http.py); the other pages are not affected.
  - If a collector fails, its metrics are missing from the scrape and all others are served.

Source: kubernetes cmd/kube-proxy/app/server.go, serveMetrics, and component-base (healthz, configz, zpages), 1.36.
"""

import json
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

from msgspec.structs import replace

from kubeproxy_py import __version__
from kubeproxy_py.logging_setup import values
from kubeproxy_py.metrics.exposition import Collect, encode
from kubeproxy_py.metrics.registry import MetricFamily, MetricsRegistry, metric_family
from kubeproxy_py.server.http_messages import NOT_FOUND, TEXT, Request, Response

_NOSNIFF = ("X-Content-Type-Options", "nosniff")
_SLIS = ("kubernetes_healthcheck", "kubernetes_healthchecks_total")
_CHECKS = ("ping",)
_DEBUG = "/debug/"

log = logging.getLogger(__name__)


class MetricsPages:
    """Serves what *registry* recorded, what the *collectors* read during the scrape, and the current *config*."""

    def __init__(
        self, registry: MetricsRegistry, collectors: Iterable[Collect], config: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._registry = registry
        self._collectors = tuple(collectors)
        self._config = config
        self._documents: Callable[[Request], Response] | None = None
        self._started_s = time.time()
        self._last_error = ""  # so that a lasting error is logged once
        self._pages: dict[str, Callable[[Request], Response]] = {
            "/metrics": self._metrics,
            "/metrics/slis": self._slis,
            "/healthz": self._healthz,
            "/healthz/ping": self._healthz,
            "/proxyMode": lambda _request: Response(200, b"ipvs", (("Content-Type", TEXT), _NOSNIFF)),
            "/configz": self._configz,
            "/statusz": self._statusz,
        }

    def answer(self, request: Request) -> Response:
        """Answer a request with any method, as kube-proxy does."""
        page = self._pages.get(request.path)
        if page is None and request.path.startswith(_DEBUG) and self._documents:
            return self._documents(replace(request, path=f"/v1/{request.path.removeprefix(_DEBUG)}"))
        return page(request) if page else NOT_FOUND

    def serve_documents(self, answer: Callable[[Request], Response]) -> None:
        """Answer requests below /debug/ by *answer*, which gets them below /v1/; before the server starts."""
        self._documents = answer

    def _metrics(self, request: Request) -> Response:
        return _exposition(self._collect, request)

    def _slis(self, request: Request) -> Response:
        return _exposition(
            lambda: (family for family in self._registry.collect() if family.metric.name in _SLIS), request
        )

    def _collect(self) -> Iterator[MetricFamily]:
        """Yield all metrics but the SLIs, and how long collecting them took."""
        start_s = time.perf_counter()
        yield from (family for family in self._registry.collect() if family.metric.name not in _SLIS)
        build = (__version__, platform.python_version(), platform.machine())
        yield metric_family("kubeproxy_ipvs_build_info", [(build, 1)])
        for collect in self._collectors:
            yield from self._collect_safely(collect)
        yield metric_family("kubeproxy_ipvs_scrape_duration_seconds", [((), time.perf_counter() - start_s)])

    def _collect_safely(self, collect: Collect) -> list[MetricFamily]:
        """Return the families that *collect* yields; if it fails, log each new error once and return none."""
        try:
            return list(collect())
        except Exception as error:  # a collector may read the kernel and raise anything; the scrape goes on without it
            if str(error) != self._last_error:
                self._last_error = str(error)
                log.warning("Failed to collect some metrics; they are missing from scrapes", extra=values(err=error))
            return []

    def _healthz(self, request: Request) -> Response:
        """Answer ``ok``: that the server answers is the only check.  ``?verbose`` lists it."""
        for check in _CHECKS:
            self._registry.inc("kubernetes_healthchecks_total", check, "success", "healthz")
            self._registry.set("kubernetes_healthcheck", 1, check, "healthz")
        verbose = request.path == "/healthz" and "verbose" in parse_qs(request.query, keep_blank_values=True)
        body = "".join(f"[+]{check} ok\n" for check in _CHECKS) + "healthz check passed\n" if verbose else "ok"
        return Response(200, body.encode(), (("Content-Type", TEXT), _NOSNIFF))

    def _configz(self, _request: Request) -> Response:
        body = json.dumps({"kubeproxy.config.k8s.io": self._config()}, separators=(",", ":"))
        return Response(200, body.encode(), (("Content-Type", "application/json"), _NOSNIFF))

    def _statusz(self, _request: Request) -> Response:
        up_s = int(time.time() - self._started_s)
        lines = (
            "kube-proxy statusz",
            "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees "
            "and is for debugging purposes only.",
            "",
            f"Started: {time.strftime('%a %b %d %H:%M:%S UTC %Y', time.gmtime(self._started_s))}",
            f"Up: {up_s // 3600} hr {up_s // 60 % 60:02} min {up_s % 60:02} sec",
            f"Python version: {platform.python_version()}",
            f"Binary version: kubeproxy-py {__version__}",
            f"Paths: {' '.join(sorted(self._pages))}",
        )
        return Response(200, ("\n".join(lines) + "\n").encode())


def _exposition(collect: Collect, request: Request) -> Response:
    body, content_type = encode(collect, request.headers.get("accept", ""))
    return Response(200, body, (("Content-Type", content_type),))
