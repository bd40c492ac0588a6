"""The sections in which something is wrong: what the agent does about it, and which command names it."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import ExitStack

from lab.client import NoAnswer, QueryError, Unreachable, connect, query, read_answer
from lab.job import REPOSITORY
from lab.network import Cluster
from tests.demo.kernel import Frontend, virtual_servers
from tests.demo.node import Agent, run_command, tool
from tests.demo.output import check, command, show
from tests.demo.sections import FLAGS, MANIFESTS, TO_DEMPAPP, TO_DEMPAPP_NODE_PORT, wait_until
from tests.demo.traffic import Target, send

_CLUSTER_IP = f"{TO_DEMPAPP.address}:{TO_DEMPAPP.port}"
_REPAIR_TIMEOUT_S = 40.0  # at the latest by the full compare, once in 30 s
_DRAIN_TIMEOUT_S = 40.0  # a connection that was reset is known for 10 s; then the next look, after up to 16 s
_POD_ADDRESSES = {"pod-a1": "10.244.1.5", "pod-a2": "10.244.1.6", "pod-b1": "10.244.2.5", "pod-b3": "10.244.2.7"}
# Where nobody connected before: IPVS remembers a closed connection for two minutes, and what drains stays as long.
_TO_FRESH = TO_DEMPAPP_NODE_PORT._replace(address="10.244.1.1")
_PORT_UNREACHABLE = (3, 3)  # RFC 792
_SNAPSHOT_S = 1.1  # the agent answers from a snapshot that may be a second old
_removed: list[str] = []  # the address of the endpoint that drains

_SHOP = """\
apiVersion: v1
kind: Service
metadata: {{name: shop, namespace: default}}
spec:
  clusterIP: 10.96.7.7
  ports:
    - {{name: http, port: 80, targetPort: {target}}}
    - {{name: metrics, port: 9100, targetPort: metrics}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: shop-1, namespace: default, labels: {{kubernetes.io/service-name: shop}}}}
addressType: IPv4
ports: [{{name: metrics, port: 9100}}{port}]
endpoints: [{{addresses: [10.244.1.5], nodeName: node-a, conditions: {{ready: true}}}}]
"""
_TO_SHOP = Target("shop", "tcp", "10.96.7.7", 80)

_GUARDED = """\
apiVersion: v1
kind: Service
metadata: {{name: guarded, namespace: default}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.7.8
  ports: [{{name: http, port: 80, targetPort: 8080}}]
  loadBalancerSourceRanges: [{ranges}]
status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.20}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: guarded-1, namespace: default, labels: {{kubernetes.io/service-name: guarded}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [10.244.1.5], nodeName: node-a, conditions: {{ready: true}}}}]
"""
_TO_GUARDED = Target("guarded", "tcp", "203.0.113.20", 80)
_CLIENT = "192.168.3.175"  # of "outside"

_COMMANDS = (
    ("kubeproxy-py check  --config /var/lib/kube-proxy/config.conf", "is kube-proxy's own file understood?"),
    ("kubeproxy-py plan   --config /var/lib/kube-proxy/config.conf", "what would change here? Nothing is changed"),
    ("kubeproxy-py doctor --config /var/lib/kube-proxy/config.conf", "what else hurts Services on this node?"),
)
_PAGES = (
    ("docs/migrate.md", "from kube-proxy, one node at a time, and back"),
    ("docs/install-kubeadm.md", "and the other pages docs/install-*.md: kubespray, k3s, kind, a VM"),
    ("docs/troubleshooting.md", "some thirty complaints, and the command that names the cause of each"),
    ("docs/differences.md", "what is different from kube-proxy, and why"),
)


def repair(cluster: Cluster, agent: Agent) -> None:
    """Delete a virtual server and a rule, and wait until both are back."""
    front = Frontend("TCP", TO_DEMPAPP.address, TO_DEMPAPP.port)
    before, rules = virtual_servers()[front], _rules()
    lines = agent.line_count()
    deletions = (("ipvsadm", "-D", "-t", _CLUSTER_IP), ("iptables", "-w", "-t", "nat", "-D", "KUBE-SERVICES", "1"))
    for words in deletions:
        command(*words)
        tool(*words)
    began = time.monotonic()
    took_s = wait_until(lambda: virtual_servers().get(front) == before, agent, _REPAIR_TIMEOUT_S) - began
    wait_until(lambda: _rules() == rules, agent, _REPAIR_TIMEOUT_S)
    message = agent.wait_for("restoring them", since=lines, timeout_s=_REPAIR_TIMEOUT_S)
    named = [line for line in (f"VirtualServer {_CLUSTER_IP}/TCP", "KUBE-SERVICES") if line in _since(agent, lines)]
    check(f"the log names what was deleted: VirtualServer {_CLUSTER_IP}/TCP", named[:1] != [], message)
    check(f"{took_s:.1f} s after it was deleted, the virtual server is back with all of its real servers", took_s > 0)
    check("the rules are those of before", _rules() == rules)
    answers = send(cluster.namespaces, "node-a", TO_DEMPAPP, 4)
    check("requests are answered again", answers.total() == 4, answers)


def _rules() -> list[str]:
    return [line for line in tool("iptables-save", "-t", "nat").splitlines() if line.startswith("-A")]


def _since(agent: Agent, line: int) -> str:
    return "\n".join(agent.lines()[line:])


def drain(cluster: Cluster, agent: Agent) -> None:
    """Remove the endpoint to which a client is connected."""
    target, client = _TO_FRESH, cluster.namespaces["pod-b2"]
    with ExitStack() as stack:
        sock = stack.enter_context(connect(client, target.protocol, target.address, target.port, 5.0))
        pod = read_answer(sock).name
        address = _POD_ADDRESSES[pod]
        _removed.append(address)
        show([f"pod-b2 is connected to {target}, and {pod} answered.", "", *_remove_endpoint(address), ""])
        front = Frontend("TCP", target.address, target.port)
        wait_until(lambda: _weight(front, address) == "0", agent)
        text, _ = run_command("status", "default/dempapp", "--address", target.address)
        lines = text.splitlines()
        show(["", *lines, ""])
        drains = [line for line in lines if address in line and "draining since" in line]
        check(f"{pod} is draining: its weight is 0, and its connection is open", len(drains) == 1, text)
        sock.sendall(b"still there?\n")
        check(f"{pod} still answers on that connection", sock.recv(100) == b"still there?\n")
        answers = send(cluster.namespaces, "pod-b2", target, 6)
        others = _POD_ADDRESSES.keys() - {pod}
        check("new connections go to the other three pods", {name for name, _ in answers} == others, answers)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # the sooner it is forgotten


def _remove_endpoint(address: str) -> list[str]:
    """Delete the endpoint from the manifest of dempapp; return the change as lines."""
    path = MANIFESTS / "dempapp.yaml"
    lines = path.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if f"addresses: [{address}]" in line)
    _write("dempapp", "\n".join([*lines[:first], *lines[first + 3 :], ""]))
    return [f"{path.name}:", *(f"  - {line}" for line in lines[first : first + 3])]


def _write(name: str, text: str) -> None:
    """Write a manifest, by renaming, so that the agent never reads a part of it."""
    written = MANIFESTS / f".{name}.yaml.new"
    written.write_text(text)
    written.rename(MANIFESTS / f"{name}.yaml")


def _weight(front: Frontend, address: str) -> str:
    """Return the weight of the real server at *address* behind *front*; "" if there is none."""
    listed = tool("ipvsadm", "-Ln", "-t", f"{front.address}:{front.port}").splitlines()
    found = [line.split() for line in listed if f"-> {address}:" in line]
    return found[0][3] if found else ""


def drained(agent: Agent) -> None:
    """Wait until the endpoint of which the last connection was closed is gone."""
    (address,) = _removed
    front = Frontend("TCP", _TO_FRESH.address, _TO_FRESH.port)
    wait_until(lambda: address not in virtual_servers()[front], agent, _DRAIN_TIMEOUT_S)
    check(f"{address} is no real server of {_TO_FRESH} any more", len(virtual_servers()[front]) == 3)


def drained_pod() -> str:
    """Return the pod of which the endpoint was removed."""
    return next(pod for pod, address in _POD_ADDRESSES.items() if address in _removed)


def wrong_port(cluster: Cluster, agent: Agent) -> None:
    """Serve a Service with a misspelt targetPort, ask why it does not answer, and correct it."""
    lines = agent.line_count()
    _write("shop", _SHOP.format(target="htpp", port=""))
    wait_until(lambda: _failure(cluster, "pod-a2", _TO_SHOP) == "refused", agent)
    agent.wait_for("Synced", since=lines)
    time.sleep(_SNAPSHOT_S)
    reason = _failure(cluster, "pod-a2", _TO_SHOP)
    show(f"pod-a2  ->  {_TO_SHOP}    {reason}")
    check("the connection is refused", reason == "refused", reason)
    show("")
    text, _ = run_command("explain", "default/shop:http", status=2)
    head, _, _ = text.partition("\n\n")
    show([*head.splitlines(), "...", ""])
    check("it names the cause", 'no port "http" in its slices (they have: metrics)' in head, text)
    check("it names the remedy", 'set targetPort of port "http"' in head, text)
    show(["", "shop.yaml:", "  - targetPort: htpp", "  + targetPort: http", ""])
    _write("shop", _SHOP.format(target="http", port=", {name: http, port: 8080}"))
    wait_until(lambda: bool(virtual_servers()[Frontend("TCP", _TO_SHOP.address, _TO_SHOP.port)]), agent)
    answers = send(cluster.namespaces, "pod-a2", _TO_SHOP, 2)
    check("the Service answers", {name for name, _ in answers} == {"pod-a1"}, answers)


def source_ranges(cluster: Cluster, agent: Agent) -> None:
    """Shut a client out by loadBalancerSourceRanges, trace its packet, and let it in."""
    _write("guarded", _GUARDED.format(ranges="198.18.0.0/15"))
    wait_until(lambda: _failure(cluster, "outside", _TO_GUARDED) == "no answer", agent)
    reason = _failure(cluster, "outside", _TO_GUARDED)
    show(f"outside  ->  {_TO_GUARDED}    {reason}")
    check("the client gets no answer", reason == "no answer", reason)
    show("")
    text, _ = run_command(
        "trace", "--from", _CLIENT, "--to", f"{_TO_GUARDED.address}:{_TO_GUARDED.port}", *FLAGS, status=2
    )
    show([*text.splitlines(), ""])
    check(
        "it names the rule, the range and the remedy",
        f"dropped by KUBE-SOURCE-RANGES-FIREWALL: source {_CLIENT} is not in loadBalancerSourceRanges of "
        "default/guarded (198.18.0.0/15)"
        in text
        and "add the client's network to spec.loadBalancerSourceRanges" in text,
        text,
    )
    show(["", "guarded.yaml:", "  + loadBalancerSourceRanges: [198.18.0.0/15, 192.168.3.0/24]", ""])
    _write("guarded", _GUARDED.format(ranges="198.18.0.0/15, 192.168.3.0/24"))
    wait_until(lambda: _failure(cluster, "outside", _TO_GUARDED) == "", agent)
    answers = send(cluster.namespaces, "outside", _TO_GUARDED, 2)
    check("the client is answered", {name for name, _ in answers} == {"pod-a1"}, answers)


def _failure(cluster: Cluster, client: str, target: Target) -> str:
    """Return how a request fails, in words; "" if it does not."""
    try:
        query(cluster.namespaces[client], target.protocol, target.address, target.port, timeout_s=1.0)
    except NoAnswer:
        return "no answer"
    except Unreachable as error:
        return "refused" if error.icmp == _PORT_UNREACHABLE else str(error)
    except QueryError as error:
        return str(error)
    return ""


def next_steps() -> None:
    """Print commands to copy and pages to read."""
    for line, question in _COMMANDS:
        command(line)
        show([f"      {question}", ""])
    show(["To read:", *(f"  {page:<24} {text}" for page, text in _PAGES), ""])
    missing = [page for page, _ in _PAGES if not (REPOSITORY / page).exists()]
    check("these pages are in this checkout", not missing, missing)
    known, _ = run_command("help")
    check("kubeproxy-py has these commands", all(line.split()[1] in known for line, _ in _COMMANDS), known)
