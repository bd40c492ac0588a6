"""HTTP requests as kubelets, cloud load balancers and Prometheus send them, from any machine of the cluster.

Each request has a connection of its own, as probes do it; a server that does not answer in time fails the test.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lab.client import QueryError, connect, query
from lab.namespace import Namespace
from lab.network import Cluster
from tests.e2e.agent_process import wait_until

_TIMEOUT_S = 20.0

HEALTHZ, METRICS = 10256, 10249


class Probe(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def weight(self) -> tuple[int, str]:
        """What a load balancer reads: the status, and the weight of this node."""
        return self.status, self.headers["X-Load-Balancing-Endpoint-Weight"]


def get(
    namespace: Namespace, address: str, port: int, path: str = "/", headers: Mapping[str, str] | None = None
) -> Probe:
    """Send GET *path* from *namespace*.  Raises lab.client.Refused if nobody listens."""
    with connect(namespace, "tcp", address, port, _TIMEOUT_S) as sock:
        client = http.client.HTTPConnection(address, port)
        client.sock = sock
        client.request("GET", path, headers={"Connection": "close", **(headers or {})})
        answer = client.getresponse()
        return Probe(answer.status, dict(answer.getheaders()), answer.read())


def wait_served(cluster: Cluster, client: str, addresses: Iterable[str], port: int) -> None:
    """Wait until TCP requests of *client* are answered at *addresses*.

    On a busy machine rules may still be under way when the first sync ends, and addresses wait for them.
    """
    for address in addresses:
        wait_until(lambda address=address: _is_served(cluster[client], address, port))  # type: ignore[misc]


def _is_served(client: Namespace, address: str, port: int) -> bool:
    try:
        query(client, "tcp", address, port, timeout_s=2.0)
    except QueryError:
        return False
    return True


def scrape(namespace: Namespace) -> str:
    """Return the metrics page as Prometheus reads it."""
    answer = get(namespace, "127.0.0.1", METRICS, "/metrics")
    assert answer.status == 200, answer.body
    return answer.body.decode()
