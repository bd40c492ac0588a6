"""Facts for doctor, from what /proc and the packages of Python say."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest

from kubeproxy_py.kernel.address.bridges import parse_bridges
from kubeproxy_py.kernel.address.rtnetlink import IFINFOMSG, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MASTER
from kubeproxy_py.kernel.doctor_facts import find_programs, outdated_libraries
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.rights import read_rights
from kubeproxy_py.kernel.host.sysctl import is_writable
from kubeproxy_py.kernel.netlink.attributes import attribute, nested, string, u8, u32
from kubeproxy_py.metrics.conntrack import collect_conntrack_metrics
from kubeproxy_py.model.host_facts import Outdated, Rights


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        ("000001ffffffffff", ()),
        ("0000000000003000", ()),
        ("0000000000001000", ("NET_RAW",)),
        ("0000000000000000", ("NET_ADMIN", "NET_RAW")),
    ],
)
def test_rights_are_those_in_force(tmp_path: Path, capabilities: str, missing: tuple[str, ...]) -> None:
    write(tmp_path, "proc/self/status", f"Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{capabilities}\n")
    assert read_rights(tmp_path) == Rights(os.geteuid(), missing)


def process(proc: Path, pid: int, *words: str, name: str = "x") -> None:
    write(proc, f"{pid}/cmdline", "\0".join(words) + "\0")
    write(proc, f"{pid}/stat", f"{pid} ({name}) S 1 0 0")
    write(proc, f"{pid}/comm", f"{name}\n")
    (proc / f"{pid}/net").mkdir()
    os.link(proc / "self/net/dev", proc / f"{pid}/net/dev")  # the same network namespace


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    write(tmp_path, "self/net/dev", "")
    process(tmp_path, 2, name="kthreadd")
    return tmp_path


def test_programs_are_known_by_their_name_or_their_script(proc: Path) -> None:
    process(proc, 812, "/usr/bin/python3", "-s", "/usr/sbin/firewalld", "--nofork")
    process(proc, 640, "/usr/sbin/keepalived", "-n")
    process(proc, 700, "vim", "/usr/sbin/firewalld")
    assert sorted(find_programs(("firewalld", "keepalived"), proc)) == [("firewalld", 812), ("keepalived", 640)]


def test_processes_of_a_container_say_nothing_of_the_host(proc: Path) -> None:
    (proc / "2/comm").write_text("sh\n")
    with pytest.raises(KernelError, match="only the processes of this container are visible"):
        find_programs(("firewalld",), proc)


def test_process_that_is_visible_is_found_in_any_container(proc: Path) -> None:
    (proc / "2/comm").write_text("sh\n")
    process(proc, 640, "/usr/sbin/keepalived")
    assert find_programs(("keepalived",), proc) == (("keepalived", 640),)


def test_installed_libraries_are_new_enough() -> None:
    assert outdated_libraries() == ()


def test_library_that_is_too_old_is_named_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"kubeproxy-py": "0", "h11": "0.14.0", "urllib3": "1.26.20", "msgspec": "0.18.6"}
    requires = ["h11>=0.14", "urllib3>=2", "msgspec>=0.18.6", 'build>=1.2; extra == "dev"']
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    monkeypatch.setattr(metadata, "requires", lambda _name: requires)
    assert outdated_libraries() == (Outdated("urllib3", "1.26.20", ">=2"),)


def test_sysctl_is_writable_as_its_file_is(tmp_path: Path) -> None:
    write(tmp_path, "proc/sys/net/ipv4/ip_forward", "1")
    assert is_writable("net/ipv4/ip_forward", root=tmp_path)
    assert not is_writable("net/ipv4/missing", root=tmp_path)


def bridge(index: int, name: str, flags: int = 0) -> bytes:
    named = attribute(IFLA_IFNAME, name.encode() + b"\0")
    info = nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, "bridge"))
    return IFINFOMSG.pack(0, 1, index, flags, 0) + named + info


def port(index: int, name: str, master: int, hairpin: int, kind: str = "bridge") -> bytes:
    slave = string(4, kind) + nested(5, u8(4, hairpin))  # IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA, IFLA_BRPORT_MODE
    info = nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, "veth"), slave)
    named = attribute(IFLA_IFNAME, name.encode() + b"\0")
    return IFINFOMSG.pack(0, 1, index, 0, 0) + named + info + u32(IFLA_MASTER, master)


def test_ports_without_hairpin_mode_are_named_unless_the_bridge_is_promiscuous() -> None:
    ports = [port(5, "veth1", 2, 0), port(6, "veth2", 2, 1), port(7, "veth3", 3, 0), port(8, "eth0", 4, 0, "bond")]
    links = [bridge(2, "cni0"), bridge(3, "cbr0", flags=0x100), bridge(4, "br0"), *ports]
    found = {each.name: each.hairpin_off for each in parse_bridges(links)}
    assert found == {"cni0": ("veth1",), "cbr0": (), "br0": ()}


def test_conntrack_metrics_are_entries_and_limit_where_there_are_some(tmp_path: Path) -> None:
    assert list(collect_conntrack_metrics(tmp_path)) == []
    write(tmp_path, "sys/net/netfilter/nf_conntrack_count", "12\n")
    write(tmp_path, "sys/net/netfilter/nf_conntrack_max", "100\n")
    found = {family.metric.name: dict(family.samples) for family in collect_conntrack_metrics(tmp_path)}
    assert found == {"kubeproxy_ipvs_conntrack_entries": {(): 12}, "kubeproxy_ipvs_conntrack_limit": {(): 100}}
