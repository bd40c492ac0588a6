"""Annotations with odd values: each is used or named by an Event, and each Service is served all the same."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubeproxy_py.sources.decode.settings import PREFIX, SETTINGS
from kubeproxy_py.sources.saved.folder import NAME
from lab.client import query
from lab.network import Cluster
from lab.pristine import reset_host_state
from tests.apiserver.certificates import Authority
from tests.apiserver.client import Client
from tests.e2e.agent_process import wait_until
from tests.e2e.control_plane import Agent, ControlPlane, running_control_plane
from tests.e2e.handing_on import node
from tests.e2e.kernel_state import kernel_state, run
from tests.e2e.manifests import Port, endpoint_slice, service
from tests.e2e.serving import cluster_fixture

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(280)]

PORTS = [Port(80, protocol, 8080) for protocol in ("TCP", "UDP", "SCTP")]
PODS = ("pod-a1", "pod-b1")
ODD = (
    "",
    "\x00",
    "\x1b[31mred",
    "\u65e5\u672c",
    "\uff13\uff10s",  # digits, but not those of ASCII
    "9" * 5000,
    "\U0001f600" * 300,
    "30s,30s",
    "null",
    "WRR",
    "zone/a=1,zone/a=1",
    "own-node=65535,others=1",
    "ipv4/24,ipv6/129",
    "1h",
    "2147483647",
    "tunnel",
    "sh",
    "tcp",
)

cluster = cluster_fixture


def reset(cluster: Cluster) -> None:
    """Make node A one that has just booted, and forwards IPv6, which no kube-proxy switches on."""
    with cluster.node_a.inside():
        reset_host_state()
    run(cluster.node_a, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")


@pytest.fixture
def control_plane(cluster: Cluster, authority: Authority, tmp_path: Path) -> Iterator[ControlPlane]:
    reset(cluster)
    with running_control_plane(cluster, authority, tmp_path) as running:
        running.apply(node("node-a"), node("node-b"))
        for number, value in enumerate(ODD):
            addresses = [f"10.96.90.{number}", f"fd00:10:96::9:{number}"]
            made = service(f"odd-{number}", addresses, PORTS, sessionAffinity="ClientIP")
            made["metadata"]["annotations"] = {PREFIX + name: value for name in SETTINGS}
            slices = (endpoint_slice(f"odd-{number}", PODS, PORTS, version=version) for version in (4, 6))
            running.apply(made, *slices)
        yield running


def named(cluster: Cluster, control_plane: ControlPlane, authority: Authority) -> dict[str, set[str]]:
    """Return by Service the annotations that Events name."""
    token = next(iter(control_plane.server.faults.tokens or ()))
    with cluster.node_a.inside():
        client = Client(control_plane.server.url, token, authority.file)
        _, listed = client.request_json("GET", "/apis/events.k8s.io/v1/events")
    found: dict[str, set[str]] = {}
    for event in listed["items"]:
        if event["reason"] == "SettingIgnored":
            words = event["note"].removeprefix("node node-a: ")
            assert words.startswith(PREFIX), event
            assert "ignored" in words, event
            found.setdefault(event["regarding"]["name"], set()).update(
                name for name in SETTINGS if f"{PREFIX}{name}=" in words
            )
    return found


def test_each_odd_value_is_used_or_named_and_all_is_served(
    cluster: Cluster, control_plane: ControlPlane, authority: Authority, tmp_path: Path
) -> None:
    socket_path, state_path = str(tmp_path / "debug.sock"), tmp_path / "state" / NAME
    flags = (f"--state-dir={state_path.parent}", "--policies=exact", "--debug-socket", socket_path)

    def used() -> dict[str, set[str]]:
        """Return by Service the settings that are in force."""
        words = ("status", "-o", "json", "--debug-socket", socket_path)
        state: dict[str, Any] = json.loads(run(cluster.node_a, sys.executable, "-m", "kubeproxy_py", *words))
        return {one["name"]: {text.removeprefix(PREFIX) for text in one["settings"]} for one in state["services"]}

    def unsaid() -> dict[str, set[str]]:
        """Return by Service the settings that are neither in force nor named."""
        events = named(cluster, control_plane, authority)
        missing = {name: SETTINGS.keys() - in_force - events.get(name, set()) for name, in_force in used().items()}
        return {name: settings for name, settings in missing.items() if settings}

    with Agent(cluster, control_plane, *flags) as agent:
        agent.wait_synced()
        wait_until(lambda: not unsaid(), lambda: f"{unsaid()}", timeout_s=150.0, poll_s=2.0)
        events, in_force = named(cluster, control_plane, authority), used()
        both = {
            name: events[name] & settings for name, settings in in_force.items() if events.get(name, set()) & settings
        }
        assert (len(in_force), both) == (len(ODD), {})
        for number, value in enumerate(ODD):
            for address in (f"10.96.90.{number}", f"fd00:10:96::9:{number}"):
                assert query(cluster["outside"], "tcp", address, 80, 10.0).name in PODS, (address, value[:20])
        assert not [line for line in agent.lines() if line.startswith("E")]
        words = ("explain", "shop/odd-5", "--debug-socket", socket_path)
        run(cluster.node_a, sys.executable, "-m", "kubeproxy_py", *words, status=2)
        wait_until(state_path.exists)
        agent.wait_for('"Saved objects"')
        before = kernel_state(cluster.node_a)
        agent.stop(signal.SIGKILL)
    control_plane.server.stop()
    reset(cluster)
    with Agent(cluster, control_plane, *flags) as again:
        again.wait_synced()
        assert kernel_state(cluster.node_a) == before, "the saved settings say the same"
