"""What the compiler desires for the recorded cases, against what kube-proxy had made of them.

Law: fast and pure, so it runs everywhere; the same comparison on a real kernel is in tests/e2e.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import Host, make_node_context
from kubeproxy_py.config.load import load
from kubeproxy_py.model.events import HostAddresses, ObjectProblem, Synced
from kubeproxy_py.model.node import HostAddress
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
    endpoint_text,
)
from kubeproxy_py.model.services import Family
from kubeproxy_py.sources.manifests.source import ManifestFolder
from tests.conformance.canon import lines_of, torn_tables

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
    """Every folder that holds objects and what was made of them."""
    return sorted(expected.parent for expected in CASES.glob("**/expected"))


def desired(state: Path, folder: Path, alter: Callable[[str], str] = str) -> Rows:
    case = CASES / state.relative_to(CASES).parts[0]
    config = load({}, (case / "config.yaml").read_bytes()).config
    compiler = Compiler(partial(make_node_context, config, Host("node-a")))
    compiler.handle_event(HostAddresses(ADDRESSES))
    (folder / "objects.yaml").write_text(alter((state / "objects.yaml").read_text()))
    for event in ManifestFolder(str(folder), "node-a").load():
        assert not isinstance(event, ObjectProblem), event
        if not isinstance(event, Synced):
            compiler.handle_event(event)
    compiler.compile()
    return compiler.desired.rows


def lines(path: Path, keep: str) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith(keep)]


@pytest.mark.parametrize("state", states(), ids=lambda state: str(state.relative_to(CASES)))
def test_the_desired_rows_are_what_was_recorded(state: Path, tmp_path: Path) -> None:
    rows, expected = desired(state, tmp_path), state / "expected"
    assert sorted(servers(rows)) == sorted(lines(expected / "ipvsadm-save.txt", "-"))
    assert sorted(f"add {key}" for key in rows if isinstance(key, IpsetEntry)) == sorted(
        lines(expected / "ipset-save.txt", "add")
    )
    assert sorted(addresses(rows)) == sorted(lines(expected / "addresses.txt", "inet"))
    for family, file in RULES.items():
        assert rules(rows, family, file, torn_tables(file, recorded(expected / file))) == [
            line for line in recorded(expected / file) if " -A " in line
        ]


def recorded(path: Path) -> list[str]:
    return lines_of(path.name, path.read_text())


def servers(rows: Rows) -> list[str]:
    """As ``ipvsadm -Sn`` prints them."""
    found = []
    for key, spec in rows.items():
        if isinstance(key, VirtualServer) and isinstance(spec, VirtualServerSpec):
            persistence = f" -p {spec.persistence_s}" if spec.persistence_s else ""
            found.append(f"-A {place(key)} -s {spec.scheduler}{persistence}")
        elif isinstance(key, RealServer):
            found.append(f"-a {place(key.virtual_server)} -r {endpoint_text(key.address, key.port)} -m -w 1")
    return found


def place(server: VirtualServer) -> str:
    return f"{OPTIONS[server.protocol]} {endpoint_text(server.address, server.port)}"


def addresses(rows: Rows) -> list[str]:
    return [
        f"inet6 {key.address}/128" if ":" in key.address else f"inet {key.address}/32"
        for key in rows
        if isinstance(key, Address)
    ]


def rules(rows: Rows, family: Family, file: str, torn: list[str]) -> list[str]:
    """The rules of *family* as a recording's *file* has them, but those in chains of ours in *torn* tables."""
    text = []
    for key, spec in reversed(rows.items()):  # each jump goes on top of the last
        if isinstance(key, Chain) and isinstance(spec, ChainSpec) and key.family == family and key.table not in torn:
            text += [f"*{key.table}", *(f"-A {key.name} {rule}" for rule in spec.rules)]
        elif isinstance(key, Jump) and isinstance(spec, JumpSpec) and key.family == family:
            text += [f"*{key.table}", f"-A {key.source} {spec.rule}"]
    return lines_of(file, "\n".join(text))


@pytest.mark.parametrize("state", states(), ids=lambda state: str(state.relative_to(CASES)))
def test_the_order_of_objects_does_not_matter(state: Path, tmp_path: Path) -> None:
    forwards, backwards = tmp_path / "forwards", tmp_path / "backwards"
    forwards.mkdir()
    backwards.mkdir()
    assert desired(state, backwards, reversed_documents) == desired(state, forwards)


def test_there_are_cases() -> None:
    assert len(states()) >= 22
