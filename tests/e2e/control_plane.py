"""An API server in node A's namespace, with a kubeconfig like kubeadm's, and an agent that uses it.

It is the stand-in (tests/apiserver) over TLS.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.client import QueryError, query
from lab.network import Cluster
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import FLAGS, AgentProcess
from tests.e2e.manifests import Object

WEB = "10.96.80.1"
NODE: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}
KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: default
clusters: [{{name: default, cluster: {{server: "{url}", certificate-authority: "{authority}"}}}}]
contexts: [{{name: default, context: {{cluster: default, user: default}}}}]
users: [{{name: default, user: {{tokenFile: "{token}"}}}}]
"""


class ControlPlane:
    """The API server, and a kubeconfig for it."""

    def __init__(self, server: ApiServer, authority: Authority, folder: Path) -> None:
        self.server = server
        self._token = folder / "token"
        self.set_token("first")
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(KUBECONFIG.format(url=server.url, authority=authority.file, token=self._token))

    def set_token(self, token: str) -> None:
        """Rotate the token: the server accepts only this one."""
        self._token.write_text(f"{token}\n")
        self.server.faults.tokens = {token}

    def apply(self, *objects: Object) -> None:
        for item in objects:
            self.server.apply(item)


class Agent(AgentProcess):
    """An agent that uses the API server, with *flags* besides FLAGS."""

    def __init__(self, cluster: Cluster, control_plane: ControlPlane, *flags: str) -> None:
        super().__init__(cluster.node_a, Path("/nowhere"))
        source = ("--kubeconfig", str(control_plane.kubeconfig))
        self._argv = [sys.executable, "-m", "kubeproxy_py", "run", *source, *FLAGS, *flags]


@contextmanager
def running_control_plane(cluster: Cluster, authority: Authority, folder: Path) -> Iterator[ControlPlane]:
    """Run an API server that node A reaches and that knows NODE; its kubeconfig is in *folder*."""
    with cluster.node_a.inside():
        server = ApiServer(tls=authority.server_context())
    server.start()
    created = ControlPlane(server, authority, folder)
    created.apply(NODE)
    yield created
    server.stop()


def responders(cluster: Cluster, address: str = WEB, count: int = 4, port: int = 80) -> set[str]:
    """Return the pods that respond to a pod at *address* and *port*; empty if none does."""
    try:
        return {query(cluster["pod-a2"], "tcp", address, port, 5.0).name for _ in range(count)}
    except QueryError:
        return set()
