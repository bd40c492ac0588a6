"""The sections of the demonstration: each function does something, prints it, and checks what it states."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from lab.network import Cluster
from tests.demo.kernel import Frontend, members, state_sizes, virtual_servers
from tests.demo.node import Agent, run_command, tool
from tests.demo.output import CheckFailedError, check, command, show
from tests.demo.traffic import Target, check_spread, send

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
MANIFESTS = Path("/run/manifests")  # on tmpfs, which supports inotify
FLAGS = ["--manifests", str(MANIFESTS), "--cluster-cidr", "10.244.0.0/16", "--hostname-override", "node-a"]
_SOCKET = Path("/run/kubeproxy-py/debug.sock")  # where status and explain look for the agent

# Addresses on which node A serves NodePorts: all of its own, without those of kube-ipvs0 and loopback.
_NODE_A = ("192.168.3.10", "172.16.5.10", "10.244.1.1")
_CLUSTER_IPS = (
    Frontend("TCP", "10.96.0.1", 443),
    Frontend("TCP", "10.96.0.10", 53),
    Frontend("UDP", "10.96.0.10", 53),
    Frontend("TCP", "10.101.13.80", 80),
    Frontend("TCP", "10.103.21.7", 80),
    Frontend("TCP", "10.109.78.218", 80),
)
_NODE_PORTS = tuple(Frontend("TCP", address, port) for port in (32047, 32327) for address in _NODE_A)
_DEMPAPP = (_CLUSTER_IPS[-1], *(front for front in _NODE_PORTS if front.port == 32327))

TO_DEMPAPP = Target("dempapp", "tcp", "10.109.78.218", 80)
TO_DEMPAPP_NODE_PORT = Target("dempapp's NodePort", "tcp", "192.168.3.10", 32327)
_TO_WORDPRESS = Target("wordpress's NodePort", "tcp", "192.168.3.10", 32047)
# The source address that each pod sees of masqueraded packets: that of node A's interface towards it.
_MASQUERADED = {
    "pod-a1": "10.244.1.1",
    "pod-a2": "10.244.1.1",
    "pod-b1": "192.168.3.10",
    "pod-b3": "192.168.3.10",
}
_DEMPAPP_SEES_NODE = {pod: _MASQUERADED[pod] for pod in ("pod-a1", "pod-b1")}
# Client, target, number of requests; pods that must answer and the client address they must see; what that shows.
_REQUESTS: tuple[tuple[str, Target, int, dict[str, str], str], ...] = (
    (
        "pod-a2",
        TO_DEMPAPP,
        4,
        dict.fromkeys(("pod-a1", "pod-b1"), "10.244.1.6"),
        "both pods answer alternately; a client in the cluster keeps its own address",
    ),
    ("node-a", TO_DEMPAPP, 4, _DEMPAPP_SEES_NODE, "the node itself uses its address towards each pod"),
    (
        "outside",
        TO_DEMPAPP_NODE_PORT,
        4,
        _DEMPAPP_SEES_NODE,
        "a client outside is masqueraded, so that answers return through this node",
    ),
    (
        "pod-a1",
        Target("kube-dns", "udp", "10.96.0.10", 53),
        4,
        dict.fromkeys(("pod-a2", "pod-b3"), "10.244.1.5"),
        "UDP works alike, with a target port that differs from the Service port",
    ),
    (
        "pod-a1",
        Target("kubernetes", "tcp", "10.96.0.1", 443),
        2,
        {"node-b": "10.244.1.5"},
        "the API server, whose endpoint is not a pod: port 6443 of node-b",
    ),
    (
        "pod-a1",
        Target("games", "tcp", "10.101.13.80", 80),
        2,
        {"pod-b2": "10.244.1.5"},
        "a Service without a selector, with an endpoint at port 8091 written by hand",
    ),
)
_TIMEOUT_S = 10.0


def start() -> Agent:
    """Copy the examples and start the agent with them."""
    shutil.copytree(EXAMPLES, MANIFESTS)
    files = sorted(path.name for path in MANIFESTS.iterdir())
    show([f"{MANIFESTS}: {', '.join(files)}", ""])
    flags = [*FLAGS, "--debug-socket", str(_SOCKET)]
    command("kubeproxy-py", "run", *flags)
    began = time.monotonic()
    agent = Agent(flags)
    first = agent.wait_for("first sync", timeout_s=60.0)
    took_s = time.monotonic() - began
    check(f"first sync done {took_s:.1f} s after the process was started", " 0 pending" in first, first)
    wait_until(_SOCKET.exists, agent)
    return agent


def table() -> None:
    """Print the status table and compare it with the kernel's virtual servers."""
    text, _ = run_command("status")
    show(["", *text.splitlines(), ""])
    servers = virtual_servers()
    fronts = {*_CLUSTER_IPS, *_NODE_PORTS}
    check(
        f"the kernel has {len(fronts)} virtual servers: {len(_CLUSTER_IPS)} for ClusterIPs, and one for each NodePort"
        " at each of the node's addresses",
        servers.keys() == fronts,
        sorted(servers),
    )
    missing = [front for front in fronts if f"{front.address}:{front.port}" not in text]
    check("the table lists each of them", not missing, missing)


def sets() -> None:
    """Print two sets with the ipset tool."""
    expected = {
        "KUBE-CLUSTER-IP": sorted(f"{front.address},{front.protocol.lower()}:{front.port}" for front in _CLUSTER_IPS),
        "KUBE-NODE-PORT-TCP": ["32047", "32327"],
    }
    for number, (name, entries) in enumerate(expected.items()):
        if number:
            show("")
        command("ipset", "list", name)
        listed = members(name)
        show(f"    {entry}" for entry in listed)
        check(f"{name} has exactly these entries", listed == entries, listed)


def not_proxied() -> None:
    """Check that headless and ExternalName Services have no kernel state."""
    show(["default/database   headless (clusterIP: None), port 5432", "default/billing    ExternalName", ""])
    rules = tool("iptables-save") + tool("ip6tables-save")
    state = f"{tool('ipvsadm', '-Sn')}{tool('ipset', 'save')}{rules}"
    found = [word for word in ("5432", "database", "billing") if word in state]
    check("neither has state in IPVS, ipsets or iptables", not found, found)


def packets(cluster: Cluster) -> None:
    """Requests from the three places that traffic comes from."""
    for who, target, count, expected, text in _REQUESTS:
        check_spread(send(cluster.namespaces, who, target, count), expected, text)
        show("")
    seen = send(cluster.namespaces, "outside", _TO_WORDPRESS, 4)
    names = {name for name, _ in seen}
    check("session affinity: one client stays with one pod", len(names) == 1 and names <= {"pod-a2", "pod-b2"}, names)


def scale(cluster: Cluster, agent: Agent) -> None:
    """Two more pods for dempapp, by an edit of its manifest."""
    path = MANIFESTS / "dempapp.yaml"
    added = "".join(
        f"  - addresses: [{address}]\n    conditions: {{ready: true}}\n    nodeName: {node}\n"
        for address, node in (("10.244.1.6", "node-a"), ("10.244.2.7", "node-b"))
    )
    changed = path.with_name(".dempapp.yaml.new")
    changed.write_text(f"{path.read_text().rstrip()}\n{added}")
    show([f"{path.name}:", *(f"  + {line}" for line in added.splitlines()), ""])
    lines = agent.line_count()
    expected = {"10.244.1.5", "10.244.1.6", "10.244.2.5", "10.244.2.7"}
    began = time.monotonic()
    changed.rename(path)
    took_s = wait_until(lambda: all(virtual_servers()[front] == expected for front in _DEMPAPP), agent) - began
    message = agent.wait_for("Synced", since=lines)
    check(
        f"{took_s * 1000:.0f} ms after the file was renamed into place, the kernel has 2 more real servers at each of"
        f" dempapp's {len(_DEMPAPP)} virtual servers",
        "Synced 1 Service:" in message and " 0 pending" in message,
        message,
    )
    show("")
    answers = send(cluster.namespaces, "outside", TO_DEMPAPP_NODE_PORT, 8)
    check_spread(answers, _MASQUERADED, "all four pods answer, equally often")


def compare() -> None:
    """Print the plan, which is empty."""
    text, _ = run_command("plan", *FLAGS)
    show(text)
    check("the kernel state matches the manifests", text.strip() == "nothing to do", text)


def end(cluster: Cluster, agent: Agent, drained_pod: str) -> None:
    """Stop the agent, then delete its kernel state; *drained_pod* was an endpoint of dempapp and is none any more."""
    command("kill -TERM", "AGENT")
    began = time.monotonic()
    status = agent.stop()
    took_s = time.monotonic() - began
    check(f"it exited within {took_s * 1000:.0f} ms with status 0", status == 0 and took_s < 2, (status, took_s))
    show("")
    answers = send(cluster.namespaces, "outside", TO_DEMPAPP_NODE_PORT, 6)
    left = {pod: source for pod, source in _MASQUERADED.items() if pod != drained_pod}
    check_spread(answers, left, "requests are still answered by the other pods: the kernel forwards them")
    show("")
    before = state_sizes()
    _, log = run_command("cleanup", *FLAGS)
    show(log[-1:])
    after = state_sizes()
    show(
        [
            "",
            f"{'lines of':<28}  before   after",
            *(f"{name:<28}{before[name]:8}{after[name]:8}" for name in before),
            "",
        ]
    )
    check("no state of the agent is left", all(before.values()) and not any(after.values()), after)


def wait_until(condition: Callable[[], bool], agent: Agent, timeout_s: float = _TIMEOUT_S) -> float:
    """Wait until *condition* and return the time.  Raises CheckFailedError on timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        agent.check()
        if time.monotonic() > deadline:
            raise CheckFailedError(f"the change is in the kernel within {timeout_s:.0f} s")
        time.sleep(0.0005)
    return time.monotonic()
