"""dump and plan --kernel-state: kernel state in a file, and the plan with it, which needs neither root nor a kernel."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kubeproxy_py import cli
from kubeproxy_py.commands import dump
from kubeproxy_py.commands.parts import HostPlatform, make_parts
from kubeproxy_py.commands.plan import desired_rows
from kubeproxy_py.config.load import load
from kubeproxy_py.kernel.kernel_state import HostWire, KernelState, contents_of, decode, encode
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.kube_names import POLICY_IPSET_DEFINITIONS, ipsets
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import (
    DRAINING,
    PREFERRED,
    SERVING,
    Address,
    AddressSpec,
    Chain,
    ChainSpec,
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Jump,
    JumpSpec,
    Key,
    Link,
    RealServer,
    RealServerSpec,
    Rows,
    Sysctl,
    VirtualServer,
    VirtualServerSpec,
    mark_server,
)
from tests.sources import manifest_objects

SERVER = VirtualServer("10.96.0.10", 80, "TCP")
POD = RealServer(SERVER, "10.1.0.5", 8080)
NODE_ADDRESS = HostAddress("eth0", "192.168.3.10", 24)
HOST = HostInfo(
    kernel_version=(5, 4, 7),
    cpus=3,
    families=("IPv4",),
    random_fully=False,
    missing_extensions={"IPv4": frozenset(("physdev", "comment"))},
    outgoing_addresses=("192.168.3.10",),
)

ROWS: Rows = {
    Sysctl("net/ipv4/ip_forward"): "1",
    Link("kube-ipvs0"): None,
    Address("10.96.0.10"): None,
    Address("fd00::1"): PREFERRED,
    Address("10.96.0.7"): AddressSpec(prefix_length=24),
    Address("fd00::7"): AddressSpec(preferred=True, prefix_length=64),
    Ipset("KUBE-CLUSTER-IP"): IpsetSpec("hash:ip,port", "IPv4", 2048, 99),
    IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"): None,
    IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.9,tcp:80"): None,
    Ipset("KUBE-NODE-PORT-TCP"): IpsetSpec("bitmap:port", None),
    Chain("IPv4", "nat", "KUBE-SERVICES"): ChainSpec(("-j KUBE-MARK-MASQ", '-m comment --comment "a b" -j RETURN')),
    Jump("IPv4", "nat", "PREROUTING", "KUBE-SERVICES"): JumpSpec("-j KUBE-SERVICES", "CNI-HOSTPORT-DNAT"),
    SERVER: VirtualServerSpec("mh", 0x11, 10800),
    VirtualServer("fd00::1", 53, "UDP"): VirtualServerSpec(),
    RealServer(SERVER, "10.1.0.7", 8080): DRAINING,
    POD: SERVING,
    RealServer(SERVER, "10.1.0.8", 8080): RealServerSpec(3, 100, 90),
}


def state_of(rows: Rows, **fields: Any) -> KernelState:
    host = HostWire.of("Node-A", "5.4.7-test", HOST)
    addresses = (NODE_ADDRESS, HostAddress("kube-ipvs0", "10.96.0.10", 32))
    return KernelState(
        written_by="test", written_at="2026-01-01T00:00:00Z", host=host, **contents_of(rows, addresses), **fields
    )


def of_kind(rows: Rows, kind: type[Key]) -> list[tuple[Key, object]]:
    return [(key, spec) for key, spec in rows.items() if type(key) is kind]


def test_rows_and_host_are_read_back_as_they_were_written_in_the_same_order_within_each_kind() -> None:
    state = decode(encode(state_of(ROWS, gateways={"192.168.3.1": "eth0"})), "test")
    rows = state.rows()
    assert rows == ROWS
    for kind in set(map(type, ROWS)):
        assert of_kind(rows, kind) == of_kind(ROWS, kind)
    assert state.host.info("node-b") == msgspec.structs.replace(HOST, node_name="node-b")
    assert state.addresses() == (NODE_ADDRESS,)  # those of kube-ipvs0 are rows
    assert state.gateways == {"192.168.3.1": "eth0"}


@pytest.mark.parametrize("path", [".", "/", "missing/file"])
def test_path_that_cannot_be_written_is_an_error(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not dump._write(Path(path), b"{}")
    assert list(tmp_path.iterdir()) == []


# plan --kernel-state

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "web.json").write_text(json.dumps(manifest_objects.service()))
    (folder / "slice.json").write_text(json.dumps(manifest_objects.endpoint_slice()))
    return folder


@pytest.fixture
def rows(folder: Path) -> Rows:
    """The rows that the objects of *folder* require on the host of `state_of`."""
    loaded = load({"manifests": str(folder), "hostname-override": "node-a"})
    kernel = MemoryKernel()
    kernel.addresses = (NODE_ADDRESS,)
    return dict(desired_rows(make_parts(loaded, HostPlatform(kernel, HOST))))


@pytest.fixture
def plan(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that plans with the kernel state of some rows; without rows, with the file as it is."""
    file = tmp_path / "kernel.json"

    def run(rows: Rows | None, *flags: str) -> tuple[int, str, str]:
        if rows is not None:
            file.write_bytes(encode(state_of(rows)))
        status = cli.main(["plan", f"--kernel-state={file}", f"--manifests={folder}", *flags])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_plan_with_the_kernel_state_of_a_synced_host_has_nothing_to_do_and_exits_with_0(rows: Rows, plan: Run) -> None:
    assert plan(rows) == (0, "nothing to do\n", "")


def test_plan_with_changes_exits_with_2_and_groups_them_by_service(rows: Rows, plan: Run) -> None:
    del rows[POD]
    rows[RealServer(SERVER, "10.1.0.9", 8080)] = SERVING
    stray = VirtualServer("203.0.113.9", 80, "TCP")
    rows[stray] = VirtualServerSpec()
    rows[Sysctl("net/ipv4/ip_forward")] = "0"
    assert plan(rows) == (
        2,
        "Service shop/web\n"
        "+ RealServer    10.96.0.10:80/TCP -> 10.1.0.5:8080\n"
        "~ RealServer    10.96.0.10:80/TCP -> 10.1.0.9:8080  (weight 1 -> weight 0)\n"
        "\n"
        "All Services\n"
        "~ Sysctl        net/ipv4/ip_forward  (0 -> 1)\n"
        "\n"
        "No Service\n"
        "- VirtualServer 203.0.113.9:80/TCP\n"
        "\n"
        "1 added, 1 changed, 1 deleted, 1 draining\n",
        "",
    )


@pytest.mark.parametrize(("mask", "mark"), [("", 0x2001), ("0x3c0000", 0x240000)])
def test_plan_keeps_virtual_servers_by_mark_whose_connections_have_not_ended(
    rows: Rows, plan: Run, mask: str, mark: int
) -> None:
    """As the agent does, with a mask of marks that is not the default too, after exact policies were switched off."""
    resting = mark_server("IPv4", mark)
    for ipset, header in ipsets("IPv4", None, POLICY_IPSET_DEFINITIONS).items():
        rows[ipset] = header
    rows |= {resting: VirtualServerSpec(), RealServer(resting, "10.1.0.5", 8080): DRAINING}
    _, printed, _ = plan(rows, *([f"--policy-mark-mask={mask}"] if mask else []))
    assert "fwmark" not in printed


def test_rows_that_no_service_wants_any_more_belong_to_the_only_service_at_their_address(
    rows: Rows, plan: Run, folder: Path
) -> None:
    old_port = VirtualServer(SERVER.address, 81, "TCP")
    rows[old_port] = VirtualServerSpec()
    rows[RealServer(old_port, "10.1.0.5", 8080)] = SERVING
    rows[IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:81")] = None
    rows[Address("10.96.0.77")] = None
    groups = plan(rows)[1].split("\n\n")[:-1]
    assert [group.splitlines()[0] for group in groups] == ["Service shop/web", "No Service"]
    assert [group.count("\n- ") for group in groups] == [3, 1]
    other = manifest_objects.service("other", port=82, externalIPs=["10.96.0.10"], clusterIP="10.96.0.11")
    (folder / "other.json").write_text(json.dumps(other))
    status, printed, _ = plan(rows)
    (none,) = [group for group in printed.split("\n\n") if group.startswith("No Service")]
    assert (status, none.count("10.96.0.10")) == (2, 3)  # two Services have the address now


def test_plan_names_the_service_of_each_row_in_json(rows: Rows, plan: Run) -> None:
    del rows[POD]
    status, printed, _ = plan(rows, "--output=json")
    assert status == 2
    assert json.loads(printed) == [
        {
            "verb": "add",
            "kind": "RealServer",
            "key": "10.96.0.10:80/TCP -> 10.1.0.5:8080",
            "spec": "weight 1",
            "before": None,
            "services": ["shop/web"],
        }
    ]
    assert plan({**rows, POD: SERVING}, "--output=json")[:2] == (0, "[]\n")


def test_plan_as_a_diff_has_the_rows_before_and_after(rows: Rows, plan: Run) -> None:
    chain = next(key for key in rows if isinstance(key, Chain) and key.name == "KUBE-POSTROUTING")
    spec = rows[chain]
    assert isinstance(spec, ChainSpec)
    rows[POD] = DRAINING
    rows[chain] = ChainSpec((*spec.rules, "-j LOG"))
    status, printed, _ = plan(rows, "--output=diff")
    assert status == 2
    service, _, others = printed.partition("--- kernel: All Services\n")
    assert service.splitlines() == [
        "--- kernel: Service shop/web",
        "+++ after a sync: Service shop/web",
        "@@ -1 +1 @@",
        "-RealServer    10.96.0.10:80/TCP -> 10.1.0.5:8080  (weight 0)",
        "+RealServer    10.96.0.10:80/TCP -> 10.1.0.5:8080  (weight 1)",
    ]
    changed = [line for line in others.splitlines()[2:] if line[0] in "+-"]
    assert changed == ["-    -j LOG"]
    assert plan({**rows, POD: SERVING, chain: spec}, "--output=diff") == (0, "", "")


def test_sysctls_that_the_configuration_does_not_set_are_left_alone(rows: Rows, plan: Run) -> None:
    rows[Sysctl("net/ipv4/conf/all/arp_ignore")] = "0"
    assert plan(rows)[0] == 0
    status, printed, _ = plan(rows, "--ipvs-strict-arp")
    assert status == 2
    assert "~ Sysctl        net/ipv4/conf/all/arp_ignore  (0 -> 1)\n" in printed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a valid kernel state: Input data was truncated"),
        (b"[]", "not a valid kernel state: Expected `object`, got `array`"),
        (b'{"kind": "Status"}', "not a kernel state (kind: KernelState)"),
        (b'{"kind": "KernelState", "version": 2}', "version 2 of the format; this program reads version 1"),
        (b'{"kind": "KernelState", "version": 1}', "not a valid kernel state: Object missing required field"),
    ],
)
def test_a_file_that_is_no_kernel_state_is_an_error(plan: Run, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "kernel.json").write_bytes(content)
    status, printed, log = plan(None)
    assert (status, printed) == (1, "")
    assert log.startswith(f"error: kernel state {tmp_path}/kernel.json: {message}")
    assert log.count("\n") == 1


@pytest.mark.parametrize("address", ["10.96.0", "::ffff:10.96.0.10", "FD00::1", "\u0661.1.1.1"])
def test_an_address_in_another_form_is_an_error(plan: Run, tmp_path: Path, address: str) -> None:
    document = json.loads(encode(state_of(ROWS)))
    document["virtualServers"][0]["realServers"][0]["address"] = address
    (tmp_path / "kernel.json").write_text(json.dumps(document))
    status, _, log = plan(None)
    assert status == 1
    assert "not a valid kernel state" in log


def test_a_file_that_is_missing_is_an_error(plan: Run) -> None:
    status, printed, log = plan(None)
    assert (status, printed) == (1, "")
    assert "kernel.json: No such file or directory (check the path" in log


def test_a_part_that_could_not_be_read_is_an_error_as_on_the_host(plan: Run, tmp_path: Path) -> None:
    (tmp_path / "kernel.json").write_bytes(encode(state_of(ROWS, unread={"ipset KUBE-CLUSTER-IP": "busy"})))
    status, printed, log = plan(None)
    assert (status, printed) == (1, "")
    assert "kernel.json: ipset KUBE-CLUSTER-IP could not be read there: busy (write it again, as root)\n" in log


def test_node_name_is_that_of_the_dumped_host(rows: Rows, plan: Run, folder: Path) -> None:
    (folder / "node.json").write_text(json.dumps(manifest_objects.node("node-a")))
    _, _, log = plan(rows, "-v1")
    assert "No Node" not in log
    _, _, log = plan(rows, "-v1", "--hostname-override=node-z")
    assert "No Node among the manifests" in log


# Colours


def test_colours_are_printed_on_a_terminal_only_and_never_with_no_color(
    rows: Rows, plan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    del rows[POD]
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    line = "+ RealServer    10.96.0.10:80/TCP -> 10.1.0.5:8080"
    assert f"\n{line}\n" in plan(rows)[1]
    assert f"\x1b[1mService shop/web\x1b[0m\n\x1b[32m{line}\x1b[0m\n" in plan(rows, "--color=always")[1]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[32m" in plan(rows)[1]
    assert "\x1b[" not in plan(rows, "--color=never")[1]
    assert "\x1b[" not in plan(rows, "--output=json")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in plan(rows)[1]
    assert "\x1b[32m" in plan(rows, "--color=always", "--output=diff")[1]
