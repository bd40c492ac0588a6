"""`python -m tests.demo.picture FILE.svg`, inside the lab kernel: draw what `status` and `explain` say of a small node.

The commands ask a running agent; nothing of their output is edited.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from lab.client import query
from lab.namespace import Namespace
from tests.demo.terminal_picture import Shown, svg
from tests.e2e.agent_process import AgentProcess
from tests.e2e.manifests import Folder, Port, endpoint_slice, service, service_with_slice
from tests.e2e.serving import serving_cluster

_COMMANDS = ("status", "explain shop/cart")
_TCP = [Port(80, "TCP", 8080)]


def main() -> None:
    """Run the commands, and write the picture."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name, serving_cluster() as cluster:
        folder, socket = Folder(Path(name, "services")), Path(name, "debug.sock")
        folder.path.mkdir()
        _write_services(folder)
        with AgentProcess(cluster.node_a, folder.path, f"--debug-socket={socket}") as agent:
            agent.wait_synced()
            for _ in range(6):
                query(cluster["pod-a2"], "tcp", "10.96.0.10", 80)
            shown = [Shown(f"kubeproxy-py {words}", _said(cluster.node_a, socket, words)) for words in _COMMANDS]
    target.write_text(svg("kubeproxy-py status and explain", shown))
    for command, output in shown:
        print(f"$ {command}\n{output}")


def _write_services(folder: Folder) -> None:
    web = service("web", "10.96.0.10", [Port(80, "TCP", 8080, 30080)], type="NodePort")
    folder.write("web", [web, endpoint_slice("web", ["pod-a1", "pod-b1"], _TCP)])
    folder.write("dns", service_with_slice("dns", "10.96.0.53", ["pod-b2"], [Port(53, "UDP", 8080)]))
    broken = endpoint_slice("cart", ["pod-b3"], [Port(81, "TCP", 8080)])  # another port name: no endpoint has the port
    folder.write("cart", [service("cart", "10.96.0.11", _TCP), broken])


def _said(node: Namespace, socket: Path, words: str) -> str:
    name, *arguments = words.split()
    argv = [sys.executable, "-m", "kubeproxy_py", name, f"--debug-socket={socket}", *arguments]
    with node.inside():
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 2):
        raise SystemExit(f"{words}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
