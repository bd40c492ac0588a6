"""A hundred starts: each jump is there once, and foreign rules are unchanged, byte for byte and in their place."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.conformance.agent_lifetime import AgentLifetime
from tests.conformance.agent_process import OBJECTS, write_atomically
from tests.conformance.node import clean_kernel, pristine_node
from tests.conformance.objects import endpoint_slice, node, service
from tests.conformance.spec_case import CONFIG

pytestmark = pytest.mark.kernel

STARTS = 100
JUMPS = 9  # of a family
FAMILIES = ("", "6")
# Other rules of a node: kubelet's chains and marks, those of a container engine, an administrator's rules.
FOREIGN = """
for i in iptables ip6tables; do
    $i -t mangle -N KUBE-IPTABLES-HINT
    $i -t nat -N KUBE-KUBELET-CANARY
    $i -N KUBE-FIREWALL
    $i -A KUBE-FIREWALL -m comment --comment "somebody's own" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
    $i -A INPUT -j KUBE-FIREWALL
    $i -A OUTPUT -j KUBE-FIREWALL
    $i -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
    $i -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
    $i -P FORWARD DROP
    $i -t nat -N DOCKER
    $i -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
    $i -t nat -A DOCKER -i cni0 -j RETURN
done
"""
# Inserted above our jumps: the agent must not move its jumps back to the top.
ABOVE = """
for i in iptables ip6tables; do
    $i -I INPUT -i lo -j ACCEPT
    $i -I FORWARD -m comment --comment "kubernetes forwarding rules" -j ACCEPT
    $i -t nat -I POSTROUTING -o cni0 -j RETURN
done
"""


class Restarts(NamedTuple):
    """iptables-save and ip6tables-save, without counters and comments."""

    foreign: list[str]  # before any start
    first: list[str]
    last: list[str]


def shell(script: str) -> None:
    subprocess.run(["/bin/sh", "-ec", script], check=True)


def saved() -> list[str]:
    texts = (subprocess.check_output([f"ip{family}tables-save"], text=True) for family in FAMILIES)
    return [re.sub(r"^#.*\n|\[\d+:\d+\]", "", text, flags=re.MULTILINE) for text in texts]


def objects(number: int) -> str:
    """Return a Service that has a node port at every second start, so that rules are added and deleted."""
    web = {"type": "NodePort", "ip": "10.96.90.1", "ports": ["80 node 30901" if number % 2 else "80"]}
    endpoints = {"of": "web", "ports": [8080], "endpoints": ["10.244.2.5 node-b"]}
    return yaml.safe_dump_all([node(), service("web", web), endpoint_slice("web-1", endpoints)])


def start(folder: Path, number: int) -> None:
    write_atomically(folder / OBJECTS, objects(number))
    with AgentLifetime(folder, yaml.safe_dump(dict(CONFIG))) as life:
        life.sync_until_idle()
        assert (bool(life.steps), life.problems) == (True, [])


@pytest.fixture(scope="module")
def restarts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restarts]:
    folder = tmp_path_factory.mktemp("manifests")
    with pristine_node(), clean_kernel():
        shell(FOREIGN)
        foreign = saved()
        start(folder, 0)
        shell(ABOVE)
        first = saved()
        for number in range(1, STARTS + 1):
            start(folder, number)
        yield Restarts(foreign, first, saved())


def test_each_jump_is_there_once(restarts: Restarts) -> None:
    for text in restarts.last:
        jumps = Counter(re.findall(r"^-A (?!KUBE-).* -j KUBE-(?!FIREWALL)\S+$", text, re.MULTILINE))
        assert (len(jumps), set(jumps.values())) == (JUMPS, {1})


def test_tables_are_the_same_byte_for_byte(restarts: Restarts) -> None:
    assert restarts.last == restarts.first


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_foreign_rules_and_chains_are_unchanged(restarts: Restarts, family: int) -> None:
    inserted = {"-A INPUT -i lo -j ACCEPT", "-A POSTROUTING -o cni0 -j RETURN"}
    inserted.add('-A FORWARD -m comment --comment "kubernetes forwarding rules" -j ACCEPT')
    ours = re.compile(r"(:|-A )KUBE-(?!FIREWALL|KUBELET|IPTABLES)|-A .* -j KUBE-(?!FIREWALL)")
    foreign = [line for line in restarts.last[family].splitlines() if not ours.match(line) and line not in inserted]
    assert foreign == restarts.foreign[family].splitlines()


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_rules_inserted_above_our_jumps_stay_there(restarts: Restarts, family: int) -> None:
    text = restarts.last[family]
    tops = [re.search(rf"^-A {chain} .*$", text, re.MULTILINE) for chain in ("INPUT", "FORWARD", "POSTROUTING")]
    assert [top[0].split()[-1] if top else "" for top in tops] == ["ACCEPT", "ACCEPT", "RETURN"]
