"""probing: HTTP as kubelets, cloud load balancers and Prometheus ask, from any machine of the cluster.

Law: one connection for one request, as probes do it; what does not answer within _PATIENCE_S fails the test.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from lab.ask import connect
from lab.namespace import Namespace

_PATIENCE_S = 20.0

HEALTHZ, METRICS = 10256, 10249


class Probe(NamedTuple):
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def weight(self) -> tuple[int, str]:
        """What a load balancer looks at: the status, and how much traffic this node wants."""
        return self.status, self.headers["X-Load-Balancing-Endpoint-Weight"]


def get(
    namespace: Namespace, address: str, port: int, path: str = "/", headers: Mapping[str, str] | None = None
) -> Probe:
    """GET *path* from *namespace*.  Raises lab.ask.Refused where nobody listens."""
    with connect(namespace, "tcp", address, port, _PATIENCE_S) as sock:
        client = http.client.HTTPConnection(address, port)
        client.sock = sock
        client.request("GET", path, headers={"Connection": "close", **(headers or {})})
        answer = client.getresponse()
        return Probe(answer.status, dict(answer.getheaders()), answer.read())


def scrape(namespace: Namespace) -> str:
    """What Prometheus is told, as text."""
    answer = get(namespace, "127.0.0.1", METRICS, "/metrics")
    assert answer.status == 200, answer.body
    return answer.body.decode()
