"""chapters: the story.  Each function is one chapter: what is done, what is shown, what is claimed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from lab.network import Cluster
from tests.demo.node import Agent, tool, verb
from tests.demo.say import NotSo, claim, command, show
from tests.demo.seen import Front, members, traces, virtual_servers
from tests.demo.traffic import Target, claim_spread, send

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
MANIFESTS = Path("/run/manifests")  # on tmpfs, where the kernel tells of changed files
FLAGS = ["--manifests", str(MANIFESTS), "--cluster-cidr", "10.244.0.0/16", "--hostname-override", "node-a"]

# Where node A serves NodePorts: each of its own addresses but those of kube-ipvs0 and loopback.
_NODE_A = ("192.168.3.10", "172.16.5.10", "10.244.1.1")
_CLUSTER_IPS = (
    Front("TCP", "10.96.0.1", 443),
    Front("TCP", "10.96.0.10", 53),
    Front("UDP", "10.96.0.10", 53),
    Front("TCP", "10.101.13.80", 80),
    Front("TCP", "10.103.21.7", 80),
    Front("TCP", "10.109.78.218", 80),
)
_NODE_PORTS = tuple(Front("TCP", address, port) for port in (32047, 32327) for address in _NODE_A)
_DEMPAPP = (_CLUSTER_IPS[-1], *(front for front in _NODE_PORTS if front.port == 32327))

_TO_DEMPAPP = Target("dempapp", "tcp", "10.109.78.218", 80)
_TO_DEMPAPP_NODE_PORT = Target("dempapp's NodePort", "tcp", "192.168.3.10", 32327)
_TO_WORDPRESS = Target("wordpress's NodePort", "tcp", "192.168.3.10", 32047)
# The address that node A shows to each pod when it masquerades: that of the interface towards it.
_MASQUERADED = {
    "pod-a1": "10.244.1.1",
    "pod-a2": "10.244.1.1",
    "pod-b1": "192.168.3.10",
    "pod-b3": "192.168.3.10",
}
_DEMPAPP_SEES_NODE = {pod: _MASQUERADED[pod] for pod in ("pod-a1", "pod-b1")}
# Who asks whom, how often; who must have answered, and whom they must have seen; what that shows.
_REQUESTS: tuple[tuple[str, Target, int, dict[str, str], str], ...] = (
    (
        "pod-a2",
        _TO_DEMPAPP,
        4,
        dict.fromkeys(("pod-a1", "pod-b1"), "10.244.1.6"),
        "both pods in turn; a client in the cluster keeps its own address",
    ),
    ("node-a", _TO_DEMPAPP, 4, _DEMPAPP_SEES_NODE, "the node itself, by its address towards each pod"),
    (
        "outside",
        _TO_DEMPAPP_NODE_PORT,
        4,
        _DEMPAPP_SEES_NODE,
        "a client outside is masqueraded, so that answers come back through this node",
    ),
    (
        "pod-a1",
        Target("kube-dns", "udp", "10.96.0.10", 53),
        4,
        dict.fromkeys(("pod-a2", "pod-b3"), "10.244.1.5"),
        "UDP alike, and at another port than was asked",
    ),
    (
        "pod-a1",
        Target("kubernetes", "tcp", "10.96.0.1", 443),
        2,
        {"node-b": "10.244.1.5"},
        "the API server, which is no pod: port 6443 of node-b",
    ),
    (
        "pod-a1",
        Target("games", "tcp", "10.101.13.80", 80),
        2,
        {"pod-b2": "10.244.1.5"},
        "a Service without a selector, whose endpoint at port 8091 was written by hand",
    ),
)
_PATIENCE_S = 10.0


def start() -> Agent:
    """Copy the examples, start the agent on them."""
    shutil.copytree(EXAMPLES, MANIFESTS)
    files = sorted(path.name for path in MANIFESTS.iterdir())
    show([f"{MANIFESTS}: {', '.join(files)}", ""])
    command("kubeproxy-py", "run", *FLAGS)
    began = time.monotonic()
    agent = Agent(FLAGS)
    first = agent.wait_for("first sync")
    took_s = time.monotonic() - began
    claim(f"in sync {took_s:.1f} s after the process was started", " 0 pending" in first, first)
    return agent


def table() -> None:
    """The status table, held against the kernel's own list."""
    text, _ = verb("status", FLAGS)
    show(["", *text.splitlines(), ""])
    servers = virtual_servers()
    fronts = {*_CLUSTER_IPS, *_NODE_PORTS}
    claim(
        f"the kernel has {len(fronts)} virtual servers: {len(_CLUSTER_IPS)} for ClusterIPs, and one for each NodePort"
        " at each of the node's addresses",
        servers.keys() == fronts,
        sorted(servers),
    )
    untold = [front for front in fronts if f"{front.address}:{front.port}" not in text]
    claim("the table tells each of them", not untold, untold)


def sets() -> None:
    """Two sets, by the ipset tool."""
    expected = {
        "KUBE-CLUSTER-IP": sorted(f"{front.address},{front.protocol.lower()}:{front.port}" for front in _CLUSTER_IPS),
        "KUBE-NODE-PORT-TCP": ["32047", "32327"],
    }
    for number, (name, entries) in enumerate(expected.items()):
        if number:
            show("")
        command("ipset", "list", name)
        found = members(name)
        show(f"    {entry}" for entry in found)
        claim(f"{name} holds these and no others", found == entries, found)


def left_alone() -> None:
    """Services that a proxy has nothing to do for."""
    show(["default/database   headless (clusterIP: None), port 5432", "default/billing    ExternalName", ""])
    rules = tool("iptables-save") + tool("ip6tables-save")
    state = f"{tool('ipvsadm', '-Sn')}{tool('ipset', 'save')}{rules}"
    traces_of = [word for word in ("5432", "database", "billing") if word in state]
    claim("neither left a trace in IPVS, ipsets or iptables", not traces_of, traces_of)


def packets(cluster: Cluster) -> None:
    """Requests from the three places that traffic comes from."""
    for who, target, count, expected, text in _REQUESTS:
        claim_spread(send(cluster.namespaces, who, target, count), expected, text)
        show("")
    seen = send(cluster.namespaces, "outside", _TO_WORDPRESS, 4)
    names = {name for name, _ in seen}
    claim("session affinity: one client stays with one pod", len(names) == 1 and names <= {"pod-a2", "pod-b2"}, names)


def scale(cluster: Cluster, agent: Agent) -> None:
    """Two more pods for dempapp, by an edit of its manifest."""
    path = MANIFESTS / "dempapp.yaml"
    added = "".join(
        f"  - addresses: [{address}]\n    conditions: {{ready: true}}\n    nodeName: {node}\n"
        for address, node in (("10.244.1.6", "node-a"), ("10.244.2.7", "node-b"))
    )
    half = path.with_name(".dempapp.yaml.half")
    half.write_text(f"{path.read_text().rstrip()}\n{added}")
    show([f"{path.name}:", *(f"  + {line}" for line in added.splitlines()), ""])
    lines = agent.heard()
    wanted = {"10.244.1.5", "10.244.1.6", "10.244.2.5", "10.244.2.7"}
    began = time.monotonic()
    half.rename(path)
    took_s = _wait_until(lambda: all(virtual_servers()[front] == wanted for front in _DEMPAPP), agent) - began
    said = agent.wait_for("synced", since=lines)
    claim(
        f"{took_s * 1000:.0f} ms after the file was renamed into place, the kernel has 2 more real servers at each of"
        f" dempapp's {len(_DEMPAPP)} virtual servers",
        "Synced 1 Service:" in said and " 0 pending" in said,
        said,
    )
    show("")
    seen = send(cluster.namespaces, "outside", _TO_DEMPAPP_NODE_PORT, 8)
    claim_spread(seen, _MASQUERADED, "all four pods answer, equally often")


def compare() -> None:
    """What the kernel has against what it should have."""
    text, _ = verb("plan", FLAGS)
    show(text)
    claim("the kernel is as the manifests ask", text.strip() == "nothing to do", text)


def end(cluster: Cluster, agent: Agent) -> None:
    """The agent goes, then what it made."""
    command("kill -TERM", "AGENT")
    began = time.monotonic()
    status = agent.end()
    took_s = time.monotonic() - began
    claim(f"it ended within {took_s * 1000:.0f} ms, with status 0", status == 0 and took_s < 2, (status, took_s))
    show("")
    seen = send(cluster.namespaces, "outside", _TO_DEMPAPP_NODE_PORT, 4)
    claim_spread(seen, _MASQUERADED, "requests are still answered, by all four pods: the kernel does the work")
    show("")
    before = traces()
    _, said = verb("cleanup", FLAGS)
    show(said[-1:])
    after = traces()
    show(
        [
            "",
            f"{'lines of':<28}  before     now",
            *(f"{name:<28}{before[name]:8}{after[name]:8}" for name in before),
            "",
        ]
    )
    claim("nothing is left", all(before.values()) and not any(after.values()), after)


def _wait_until(holds: Callable[[], bool], agent: Agent) -> float:
    """The time at which *holds* was first seen to."""
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        agent.check()
        if time.monotonic() > deadline:
            raise NotSo(f"the change arrives within {_PATIENCE_S:.0f} s")
        time.sleep(0.0005)
    return time.monotonic()
