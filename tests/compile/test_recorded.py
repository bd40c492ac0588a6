"""Desired rows for the recorded cases, compared with the kernel state that kube-proxy produced.

This needs no kernel; tests/e2e/test_recorded_cases.py makes the same comparison on a real one.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import make_node_context
from kubeproxy_py.config.load import load
from kubeproxy_py.model.events import HostAddresses, Synced
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import (
    Address,
    Chain,
    ChainSpec,
    IpsetEntry,
    Jump,
    JumpSpec,
    RealServer,
    Rows,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.net import Family, join_host_port
from kubeproxy_py.sources.manifests.source import ManifestSource
from tests.conformance.canonical import canonical_lines, incomplete_tables

CASES = Path(__file__).parents[1] / "recorded_cases"

# The node of the recordings (tests/recorded_cases/README.md).
ADDRESSES = tuple(
    HostAddress(interface, address)
    for interface, address in (
        ("cni0", "10.244.1.1"),
        ("cni0", "fd00:10:244:1::1"),
        ("eth0", "192.168.3.10"),
        ("eth0", "fd00:3::10"),
        ("eth1", "172.16.5.10"),
        ("lo", "127.0.0.1"),
        ("lo", "::1"),
    )
)
RULES: dict[Family, str] = {"IPv4": "iptables-save.txt", "IPv6": "ip6tables-save.txt"}
OPTIONS = {"TCP": "-t", "UDP": "-u", "SCTP": "--sctp-service"}


def reversed_documents(text: str) -> str:
    return "\n---\n".join(reversed(re.split(r"^---$", text, flags=re.MULTILINE)))


def states() -> list[Path]:
    """Every folder with objects and expected kernel state."""
    return sorted(expected.parent for expected in CASES.glob("**/expected"))


def desired(state: Path, folder: Path, alter: Callable[[str], str] = str) -> Rows:
    case = CASES / state.relative_to(CASES).parts[0]
    config = load({}, (case / "config.yaml").read_bytes()).config
    compiler = Compiler(partial(make_node_context, config, HostInfo("node-a")))
    compiler.handle_event(HostAddresses(ADDRESSES))
    (folder / "objects.yaml").write_text(alter((state / "objects.yaml").read_text()))
    for event in ManifestSource(str(folder), "node-a").poll():
        if isinstance(event, Problem):
            assert event.is_warning, event
        elif not isinstance(event, Synced):
            compiler.handle_event(event)
    compiler.compile()
    return compiler.desired.rows


def lines_starting(path: Path, prefix: str) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith(prefix)]


@pytest.mark.parametrize("state", states(), ids=lambda state: str(state.relative_to(CASES)))
def test_desired_rows_equal_the_recorded_kernel_state(state: Path, tmp_path: Path) -> None:
    rows, expected = desired(state, tmp_path), state / "expected"
    assert sorted(servers(rows)) == sorted(lines_starting(expected / "ipvsadm-save.txt", "-"))
    assert sorted(f"add {key}" for key in rows if isinstance(key, IpsetEntry)) == sorted(
        lines_starting(expected / "ipset-save.txt", "add")
    )
    assert sorted(addresses(rows)) == sorted(lines_starting(expected / "addresses.txt", "inet"))
    for family, file in RULES.items():
        assert rules(rows, family, file, incomplete_tables(file, recorded(expected / file))) == [
            line for line in recorded(expected / file) if " -A " in line
        ]


def recorded(path: Path) -> list[str]:
    return canonical_lines(path.name, path.read_text())


def servers(rows: Rows) -> list[str]:
    """As ``ipvsadm -Sn`` prints them."""
    lines = []
    for key, spec in rows.items():
        if isinstance(key, VirtualServer) and isinstance(spec, VirtualServerSpec):
            persistence = f" -p {spec.persistence_s}" if spec.persistence_s else ""
            lines.append(f"-A {where(key)} -s {spec.scheduler}{persistence}")
        elif isinstance(key, RealServer):
            lines.append(f"-a {where(key.virtual_server)} -r {join_host_port(key.address, key.port)} -m -w 1")
    return lines


def where(server: VirtualServer) -> str:
    return f"{OPTIONS[server.protocol]} {join_host_port(server.address, server.port)}"


def addresses(rows: Rows) -> list[str]:
    return [
        f"inet6 {key.address}/128" if ":" in key.address else f"inet {key.address}/32"
        for key in rows
        if isinstance(key, Address)
    ]


def rules(rows: Rows, family: Family, file: str, torn: list[str]) -> list[str]:
    """The rules of *family* as in a recording's *file*, without KUBE-* chains in *torn* tables."""
    text = []
    for key, spec in reversed(rows.items()):  # each jump is inserted above the last
        if isinstance(key, Chain) and isinstance(spec, ChainSpec) and key.family == family and key.table not in torn:
            text += [f"*{key.table}", *(f"-A {key.name} {rule}" for rule in spec.rules)]
        elif isinstance(key, Jump) and isinstance(spec, JumpSpec) and key.family == family:
            text += [f"*{key.table}", f"-A {key.source} {spec.rule}"]
    return canonical_lines(file, "\n".join(text))


@pytest.mark.parametrize("state", states(), ids=lambda state: str(state.relative_to(CASES)))
def test_order_of_objects_does_not_change_desired_rows(state: Path, tmp_path: Path) -> None:
    forwards, backwards = tmp_path / "forwards", tmp_path / "backwards"
    forwards.mkdir()
    backwards.mkdir()
    assert desired(state, backwards, reversed_documents) == desired(state, forwards)


def test_recorded_cases_are_found() -> None:
    assert len(states()) >= 22
