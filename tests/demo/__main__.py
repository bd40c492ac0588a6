"""python -m tests.demo: the cluster, the agent and the story; inside the lab kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab.client import QueryError
from lab.echo import EchoServers, Listener, Protocol
from lab.network import Cluster
from tests.demo import chapters
from tests.demo.say import Chapters, NotSo, show

_PICTURE = """
 outside 192.168.3.175
    |
    +---- node-a  192.168.3.10, 172.16.5.10      pod-a1 10.244.1.5    pod-a2 10.244.1.6
    |     (here runs the agent)
    |
    +---- node-b  192.168.3.11                   pod-b1 10.244.2.5    pod-b2 10.244.2.6
                                                 pod-b3 10.244.2.7"""

# Who listens where: machine, protocol, port.  Each answers with its own name and the address that it saw.
_SERVERS: tuple[tuple[str, Protocol, int], ...] = (
    *((pod, "tcp", 8080) for pod in ("pod-a1", "pod-b1", "pod-a2", "pod-b2", "pod-b3")),
    *((pod, protocol, 5353) for pod in ("pod-a2", "pod-b3") for protocol in ("udp", "tcp")),
    ("pod-b2", "tcp", 8091),
    ("node-b", "tcp", 6443),
)


def main() -> int:
    """Tell the story; 0 if all of it was so."""
    if not Path("/proc/net/ip_vs").exists():
        print("this kernel has no IPVS; hint: make run", file=sys.stderr)
        return 2
    began = time.monotonic()
    print("kubeproxy-py: from a Service to an answered packet\n", flush=True)
    show(f"A small cluster inside one real Linux {os.uname().release} kernel; network namespaces play the machines:")
    show(_PICTURE)
    try:
        with Cluster(node_a="initial") as cluster:
            servers = [Listener(name, cluster[name], protocol, port) for name, protocol, port in _SERVERS]
            with EchoServers(servers):
                _tell(cluster)
    except (NotSo, QueryError, subprocess.CalledProcessError) as error:
        print(f"\nNOT SO: {error}", flush=True)
        return 1
    print(f"\nEverything above was checked as it was printed. It took {time.monotonic() - began:.0f} s.")
    return 0


def _tell(cluster: Cluster) -> None:
    begin = Chapters().begin
    begin("Start the agent", "It reads Services from a folder of manifests; an API server is not needed.")
    agent = chapters.start()
    story: tuple[tuple[str, str, Callable[[], None]], ...] = (
        (
            "The table",
            "Every Service port became a virtual server of IPVS, the kernel's load balancer, and every pod behind it a"
            " real server.",
            chapters.table,
        ),
        ("The sets", "The rules of iptables are few; they look up in ipsets which Services there are.", chapters.sets),
        ("Left alone", "Some Services are not for a proxy.", chapters.left_alone),
        (
            "Packets",
            "From a pod, from the node and from outside; each pod tells which address it saw.",
            lambda: chapters.packets(cluster),
        ),
        ("Scale", "dempapp gets two more pods, by an edit of its manifest.", lambda: chapters.scale(cluster, agent)),
        ("Compare", "plan reads the kernel and prints what a sync would change.", chapters.compare),
        (
            "The end",
            "A stopped agent leaves the kernel's state in place; cleanup removes all that is ours.",
            lambda: chapters.end(cluster, agent),
        ),
    )
    try:
        for title, why, tell in story:
            begin(title, why)
            agent.check()
            tell()
    finally:
        agent.end()


if __name__ == "__main__":
    sys.exit(main())
