"""The metrics server's pages: /metrics, /metrics/slis, /healthz, /proxyMode, /configz, /statusz.

Law: a page that can't be made answers 500 and says why in the log, and the others go on.  What can't be gathered for a
scrape is left out of it; all else is there.

Source: kubernetes cmd/kube-proxy/app/server.go, serveMetrics, and component-base (healthz, configz, zpages), 1.36.
"""

import json
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

from kubeproxy_py import __version__
from kubeproxy_py.metrics.exposition import encode
from kubeproxy_py.metrics.registry import MetricFamily, MetricsRegistry, family
from kubeproxy_py.server.http_text import NOT_FOUND, TEXT, Request, Response

_NOSNIFF = ("X-Content-Type-Options", "nosniff")
_SLIS = ("kubernetes_healthcheck", "kubernetes_healthchecks_total")
_CHECKS = ("ping",)

Gather = Callable[[], Iterable[MetricFamily]]

log = logging.getLogger(__name__)


class MetricsPages:
    """Answers from *numbers*, from what each of *gather* tells at the scrape, and from *config*, asked each time."""

    def __init__(
        self, numbers: MetricsRegistry, gather: Iterable[Gather], config: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._numbers = numbers
        self._gather = tuple(gather)
        self._config = config
        self._started_s = time.time()
        self._complaint = ""
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
        """Any method will do, as upstream."""
        page = self._pages.get(request.path)
        return page(request) if page else NOT_FOUND

    def _metrics(self, request: Request) -> Response:
        return _exposed(self._families, request)

    def _slis(self, request: Request) -> Response:
        return _exposed(lambda: (each for each in self._numbers.families() if each.metric.name in _SLIS), request)

    def _families(self) -> Iterator[MetricFamily]:
        """All numbers, and how long gathering them took."""
        began_s = time.perf_counter()
        yield from (each for each in self._numbers.families() if each.metric.name not in _SLIS)
        yield family("kubeproxy_ipvs_build_info", [((__version__, platform.python_version(), platform.machine()), 1)])
        for gather in self._gather:
            yield from self._gathered(gather)
        yield family("kubeproxy_ipvs_scrape_duration_seconds", [((), time.perf_counter() - began_s)])

    def _gathered(self, gather: Gather) -> list[MetricFamily]:
        """What *gather* tells; nothing, and once a line in the log, if it can't."""
        try:
            return list(gather())
        except Exception as error:  # whatever it asks may fail in its own way, and a scrape is not to end for it
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning(f"some metrics are left out: {error}")
            return []

    def _healthz(self, request: Request) -> Response:
        """``ok``: that we answer is all that is checked; ``?verbose`` lists it."""
        for check in _CHECKS:
            self._numbers.add("kubernetes_healthchecks_total", check, "success", "healthz")
            self._numbers.put("kubernetes_healthcheck", 1, check, "healthz")
        wordy = request.path == "/healthz" and "verbose" in parse_qs(request.query, keep_blank_values=True)
        body = "".join(f"[+]{check} ok\n" for check in _CHECKS) + "healthz check passed\n" if wordy else "ok"
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


def _exposed(families: Gather, request: Request) -> Response:
    body, content_type = encode(families, request.headers.get("accept", ""))
    return Response(200, body, (("Content-Type", content_type),))
