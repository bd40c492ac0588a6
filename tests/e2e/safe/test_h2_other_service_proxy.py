"""Another service proxy beside the agent is named: by its process, its port, and rows that it changes again."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lab.namespace import Namespace, new_namespace
from tests.e2e.agent_process import SYNCED, AgentProcess, wait_until
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder

pytestmark = pytest.mark.kernel

ADDRESS = "10.96.0.10"
REPORTED = "Node node-a: AnotherServiceProxy"
METRIC = "kubeproxy_ipvs_other_service_proxies"
SERVER = """
import http.server, sys
answers = {"/proxyMode": b"iptables", "/healthz": b'{"lastUpdated": "x"}'}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(answers[self.path])
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
"""


@contextmanager
def process(namespace: Namespace, *argv: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(namespace.wrap(list(argv)), stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def kube_proxy(namespace: Namespace) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start a process with kube-proxy's name, which nsenter becomes; it has no other effect."""
    return process(namespace, "bash", "-c", "exec -a /usr/local/bin/kube-proxy sleep 1000")


def metric(namespace: Namespace) -> float:
    with namespace.inside(), urllib.request.urlopen("http://127.0.0.1:10249/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(METRIC)).split()[1])


def test_kube_proxy_is_named_with_its_pid(namespace: Namespace, folder: Folder) -> None:
    with kube_proxy(namespace) as rival:
        wait_until(lambda: b"kube-proxy" in Path(f"/proc/{rival.pid}/cmdline").read_bytes())
        with AgentProcess(namespace, folder.path) as agent:
            line = agent.wait_for(REPORTED)
            assert f"{REPORTED}: kube-proxy (pid {rival.pid}): " in line
            assert line.startswith("W")
            wait_until(lambda: metric(namespace) == 1)


def test_kube_proxy_of_another_network_namespace_is_not_named(namespace: Namespace, folder: Folder) -> None:
    with (
        new_namespace("other-node") as other,
        kube_proxy(other) as rival,
        AgentProcess(namespace, folder.path) as agent,
    ):
        wait_until(lambda: b"kube-proxy" in Path(f"/proc/{rival.pid}/cmdline").read_bytes())
        agent.wait_synced()
        assert metric(namespace) == 0
        assert REPORTED not in "\n".join(agent.lines())


@pytest.mark.parametrize(
    ("port", "subject"),
    [
        ("10249", "a kube-proxy in iptables mode, which answers at port 10249"),
        ("10256", "a service proxy, which answers health checks at port 10256"),
    ],
)
def test_a_proxy_whose_process_is_not_visible_is_named_by_its_port(
    namespace: Namespace, folder: Folder, port: str, subject: str
) -> None:
    with process(namespace, sys.executable, "-c", SERVER, port) as rival:
        assert rival.stdout
        assert rival.stdout.readline() == "listening\n"
        with AgentProcess(namespace, folder.path) as agent:
            assert f"{REPORTED}: {subject}: " in agent.wait_for(REPORTED)


def test_rows_that_are_deleted_again_and_again_are_named(namespace: Namespace, folder: Folder) -> None:
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        for _ in range(3):
            with agent.syncing(SYNCED):
                shell(namespace, f"ip address del {ADDRESS}/32 dev kube-ipvs0")
        line = agent.wait_for("RepeatedDrift")
        assert f"RepeatedDrift: Address {ADDRESS}: " in line
        assert "another program changes them again each time after they were repaired" in line
        with agent.syncing(SYNCED):
            shell(namespace, f"ip address del {ADDRESS}/32 dev kube-ipvs0")
        assert len([line for line in agent.lines() if "RepeatedDrift" in line]) == 1
