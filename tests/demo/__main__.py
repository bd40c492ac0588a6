"""`python -m tests.demo`: the cluster, the agent and the sections, inside the lab kernel."""

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
from tests.demo import sections, troubles
from tests.demo.output import CheckFailedError, Sections, paint, show, use_colours

_PICTURE = """
 outside 192.168.3.175
    |
    +---- node-a  192.168.3.10, 172.16.5.10      pod-a1 10.244.1.5    pod-a2 10.244.1.6
    |     (runs the agent)
    |
    +---- node-b  192.168.3.11                   pod-b1 10.244.2.5    pod-b2 10.244.2.6
                                                 pod-b3 10.244.2.7"""

# Servers: machine, protocol, port.  Each answers with its name and the client's address as it sees it.
_SERVERS: tuple[tuple[str, Protocol, int], ...] = (
    *((pod, "tcp", 8080) for pod in ("pod-a1", "pod-b1", "pod-a2", "pod-b2", "pod-b3")),
    *((pod, protocol, 5353) for pod in ("pod-a2", "pod-b3") for protocol in ("udp", "tcp")),
    ("pod-b2", "tcp", 8091),
    ("node-b", "tcp", 6443),
)


def main(arguments: list[str]) -> int:
    """Run all sections; return 0 if every check passed.  `--terminal`: the output, outside of the lab, is one."""
    use_colours(os.environ, is_terminal="--terminal" in arguments)
    if not Path("/proc/net/ip_vs").exists():
        print("this kernel has no IPVS; hint: make run", file=sys.stderr)
        return 2
    began = time.monotonic()
    print("kubeproxy-py: from a Service to an answered packet\n", flush=True)
    show(f"A small cluster in one real Linux {os.uname().release} kernel; network namespaces act as machines:")
    show(_PICTURE)
    try:
        with Cluster(node_a="initial") as cluster:
            servers = [Listener(name, cluster[name], protocol, port) for name, protocol, port in _SERVERS]
            with EchoServers(servers):
                _run_sections(cluster)
    except (CheckFailedError, QueryError, subprocess.CalledProcessError) as error:
        print(paint("failed", f"\nCHECK FAILED: {error}"), flush=True)
        return 1
    print(f"\nAll statements above were checked. This took {time.monotonic() - began:.0f} s.")
    return 0


def _run_sections(cluster: Cluster) -> None:
    begin = Sections().begin
    begin("Start the agent", "It reads Services from a folder of manifests; no API server is needed.")
    agent = sections.start()
    steps: tuple[tuple[str, str, Callable[[], None]], ...] = (
        (
            "Virtual servers",
            "Every Service port is a virtual server of IPVS, the kernel's load balancer, and every endpoint a real"
            " server.",
            sections.table,
        ),
        ("Sets", "The iptables rules are few and do not grow: they look up Services in ipsets.", sections.sets),
        ("Services without a proxy", "Headless and ExternalName Services need no rules.", sections.not_proxied),
        (
            "Packets",
            "From a pod, from the node and from outside; each pod reports the client address that it sees.",
            lambda: sections.packets(cluster),
        ),
        (
            "Scale up",
            "dempapp gets two more pods, by a change of its manifest.",
            lambda: sections.scale(cluster, agent),
        ),
        ("Plan", "plan reads the kernel and prints what a sync would change.", sections.compare),
        (
            "Repair",
            "Somebody deletes a virtual server and a rule: the agent notices, says what, and restores both.",
            lambda: troubles.repair(cluster, agent),
        ),
        (
            "Drain",
            "An endpoint is removed while a client is connected to it: it gets no new connections, and keeps this one.",
            lambda: troubles.drain(cluster, agent),
        ),
        (
            "Explain",
            "A Service does not answer, because its targetPort names no port of its pods. explain says so.",
            lambda: troubles.wrong_port(cluster, agent),
        ),
        (
            "Trace",
            "A client gets no answer from a load balancer address. trace follows its packet to the rule that drops it.",
            lambda: troubles.source_ranges(cluster, agent),
        ),
        (
            "Drained",
            "Meanwhile the connection of chapter 9 was closed.",
            lambda: troubles.drained(agent),
        ),
        (
            "Stop and clean up",
            "A stopped agent leaves the kernel state in place; cleanup deletes everything the agent made.",
            lambda: sections.end(cluster, agent, troubles.drained_pod()),
        ),
    )
    try:
        for title, summary, run in steps:
            begin(title, summary)
            agent.check()
            run()
    finally:
        agent.stop()
    begin("What to do next", "This was all on one machine. On a node of yours:")
    troubles.next_steps()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
