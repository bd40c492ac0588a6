"""Every field of the file: its default, a valid value, and an invalid one that is rejected with its path and a hint."""

from typing import Any, NamedTuple

import pytest

from kubeproxy_py.config.kubeproxy_fields import SCHEDULERS
from kubeproxy_py.net import SocketAddress
from tests.config.build import all_fields, document, from_file, problems, value_at


class Row(NamedTuple):
    """A field, and what a file may set it to."""

    path: str
    default: Any
    written: Any
    value: Any
    invalid: Any
    message: str  # part of the problem for the invalid value


def period(path: str, default: float) -> Row:
    return Row(path, default, "1m30s", 90.0, "-5s", "-5s is too short (more than 0s)")


def duration(path: str, default: float) -> Row:
    return Row(path, default, "250ms", 0.25, "-5s", "-5s is negative (0s or more)")


def boolean(path: str, *, default: bool = False) -> Row:
    return Row(path, default, not default, not default, "yes please", "expected true or false, got 'yes please'")


def text(path: str, default: str = "", written: str = "abc") -> Row:
    return Row(path, default, written, written, 7, "expected text, got 7 (put it in quotes)")


ROWS = (
    Row("featureGates", {}, {"KubeProxyIPVS": True}, {"KubeProxyIPVS": True}, {"KubeProxyIPVS": False}, "is off"),
    text("clientConnection.kubeconfig", written="/etc/kubeconfig"),
    text("clientConnection.acceptContentTypes"),
    text("clientConnection.contentType", "application/vnd.kubernetes.protobuf", "application/json"),
    Row("clientConnection.qps", 5.0, 7.5, 7.5, "fast", "expected a number, got 'fast'"),
    Row("clientConnection.burst", 10, 20, 20, -1, "-1 is out of range (0 to"),
    Row("logging.format", "text", "json", "json", "xml", "unknown log format 'xml' (one of text, json)"),
    Row("logging.flushFrequency", 5.0, 2_000_000_000, 2.0, "-1s", "-1s is negative"),
    Row("logging.verbosity", 0, 4, 4, -1, "-1 is out of range"),
    Row("logging.vmodule", (), [{"filePattern": "ag*", "verbosity": 3}], (("ag*", 3),), ["a=3"], "filePattern"),
    boolean("logging.options.text.splitStream"),
    Row("logging.options.text.infoBufferSize", "0", "64Mi", "64Mi", "big", "'big' is not a quantity (such as 0 or"),
    boolean("logging.options.json.splitStream"),
    Row("logging.options.json.infoBufferSize", "0", 4096, "4096", "-1", "'-1' is not a quantity"),
    Row("hostnameOverride", "", "Node-A", "Node-A", "  ", "only blanks (the name of this node's Node object)"),
    Row("bindAddress", "0.0.0.0", "192.168.3.10", "192.168.3.10", "eth0", "'eth0' is not an IP address (such as"),
    Row(
        "healthzBindAddress",
        SocketAddress("0.0.0.0", 10256),
        "[FD00::0:1]:99",
        SocketAddress("fd00::1", 99),
        "localhost:99",
        "the host 'localhost' is not an IP address (ADDRESS:PORT, such as 0.0.0.0:10256)",
    ),
    Row(
        "metricsBindAddress",
        SocketAddress("127.0.0.1", 10249),
        "10.0.0.1",
        SocketAddress("10.0.0.1", 10249),
        "10.0.0.1:65536",
        "the port '65536' is not in 1-65535 (ADDRESS:PORT",
    ),
    boolean("bindAddressHardFail"),
    boolean("enableProfiling"),
    Row("showHiddenMetricsForVersion", "", "1.35", "1.35", "latest", "'latest' is not a version (major.minor"),
    Row("mode", "ipvs", "ipvs", "ipvs", "userspace", "unknown mode 'userspace' (ipvs)"),
    Row("iptables.masqueradeBit", 14, 0, 0, 32, "32 is out of range (0 to 31)"),
    boolean("iptables.masqueradeAll"),
    boolean("iptables.localhostNodePorts", default=True),
    period("iptables.syncPeriod", 30.0),
    duration("iptables.minSyncPeriod", 1.0),
    period("ipvs.syncPeriod", 30.0),
    duration("ipvs.minSyncPeriod", 0.0),
    Row("ipvs.scheduler", "rr", "mh", "mh", "rrr", "unknown scheduler 'rrr' (one of rr, wrr, lc, wlc,"),
    Row("ipvs.excludeCIDRs", (), ["10.1.2.3/8"], ("10.0.0.0/8",), ["10.0.0.1", "x"], "'10.0.0.1', 'x': not a network"),
    boolean("ipvs.strictARP"),
    duration("ipvs.tcpTimeout", 0.0),
    duration("ipvs.tcpFinTimeout", 0.0),
    duration("ipvs.udpTimeout", 0.0),
    Row("nftables.masqueradeBit", 14, 1, 1, 32, "32 is out of range (0 to 31)"),
    boolean("nftables.masqueradeAll"),
    period("nftables.syncPeriod", 30.0),
    duration("nftables.minSyncPeriod", 1.0),
    text("winkernel.networkName"),
    text("winkernel.sourceVip"),
    boolean("winkernel.enableDSR"),
    text("winkernel.rootHnsEndpointName"),
    boolean("winkernel.forwardHealthCheckVip"),
    Row("detectLocalMode", "ClusterCIDR", "NodeCIDR", "NodeCIDR", "Magic", "unknown mode of local traffic det"),
    Row("detectLocal.bridgeInterface", "", "cni0", "cni0", "cni0 -j ACCEPT", "cannot be an interface name"),
    Row("detectLocal.interfaceNamePrefix", "", "veth", "veth", "a" * 16, "(at most 15 bytes, such as cni0)"),
    Row("clusterCIDR", (), "10.244.0.0/16, fd00::/56", ("10.244.0.0/16", "fd00::/56"), "10.244", "not a network"),
    Row("nodePortAddresses", (), ["172.16.5.1/24"], ("172.16.5.0/24",), ["1.2.3.4/33"], "'1.2.3.4/33': not a network"),
    Row("oomScoreAdj", -999, 0, 0, -1001, "-1001 is out of range (-1000 to 1000)"),
    Row("conntrack.maxPerCore", 32768, 0, 0, -1, "-1 is out of range (0 to"),
    Row("conntrack.min", 131072, 0, 0, "many", "expected an integer, got 'many' (without quotes)"),
    Row("conntrack.tcpEstablishedTimeout", 86400.0, "0s", 0.0, "-1s", "-1s is negative (0s or more)"),
    Row("conntrack.tcpCloseWaitTimeout", 3600.0, "0s", 0.0, 30, 'expected a duration, got 30 (a number with a unit'),
    boolean("conntrack.tcpBeLiberal"),
    duration("conntrack.udpTimeout", 0.0),
    duration("conntrack.udpStreamTimeout", 0.0),
    period("configSyncPeriod", 900.0),
    text("portRange"),
    boolean("windowsRunAsService"),
)  # fmt: skip
PATHS = [row.path for row in ROWS]

NO_DEFAULT_IN_A_FILE = {"mode"}


def test_the_table_has_every_field_once() -> None:
    assert sorted(PATHS) == sorted(path for path, _ in all_fields())


@pytest.mark.parametrize("row", ROWS, ids=PATHS)
def test_an_absent_field_has_kube_proxys_default(row: Row) -> None:
    assert value_at(from_file().config, row.path) == row.default


@pytest.mark.parametrize("row", [row for row in ROWS if row.path not in NO_DEFAULT_IN_A_FILE], ids=lambda row: row.path)
def test_null_means_the_default(row: Row) -> None:
    assert value_at(from_file({row.path: None}).config, row.path) == row.default


@pytest.mark.parametrize("row", ROWS, ids=PATHS)
def test_a_valid_value_is_accepted(row: Row) -> None:
    assert value_at(from_file({row.path: row.written}).config, row.path) == row.value


@pytest.mark.parametrize("row", ROWS, ids=PATHS)
def test_an_invalid_value_is_rejected_with_its_path_and_a_hint(row: Row) -> None:
    [problem] = problems(document({row.path: row.invalid}))
    assert problem.startswith(f"{row.path}: ")
    assert row.message in problem


@pytest.mark.parametrize("row", ROWS, ids=PATHS)
def test_a_value_of_the_wrong_type_is_rejected_with_its_path(row: Row) -> None:
    shapes: tuple[Any, ...] = ([[]], {"a": []})
    for wrong in shapes:
        [problem] = problems(document({row.path: wrong}))
        assert problem.startswith(f"{row.path}: ")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_of_the_kernel_is_accepted(scheduler: str) -> None:
    assert from_file({"ipvs.scheduler": scheduler}).config.ipvs.scheduler == scheduler


ZEROS = {
    "clientConnection.contentType": "", "clientConnection.qps": 0, "clientConnection.burst": 0,
    "logging.format": "", "logging.flushFrequency": 0,
    "bindAddress": "", "healthzBindAddress": "", "metricsBindAddress": "",
    "iptables.syncPeriod": "0s", "iptables.minSyncPeriod": "0s", "ipvs.syncPeriod": "0s", "ipvs.scheduler": "",
    "nftables.syncPeriod": "0s", "nftables.minSyncPeriod": "0s", "detectLocalMode": "", "configSyncPeriod": "0s",
}  # fmt: skip


@pytest.mark.parametrize("path", ZEROS)
def test_a_zero_that_kube_proxy_cannot_tell_from_absence_means_the_default(path: str) -> None:
    assert from_file({path: ZEROS[path]}).config == from_file().config


POINTER_ZEROS = {
    "iptables.masqueradeBit": 0, "iptables.localhostNodePorts": False, "oomScoreAdj": 0, "conntrack.maxPerCore": 0,
    "conntrack.min": 0, "conntrack.tcpEstablishedTimeout": "0s", "conntrack.tcpCloseWaitTimeout": "0s",
}  # fmt: skip


@pytest.mark.parametrize("path", POINTER_ZEROS)
def test_a_zero_of_a_pointer_field_is_used(path: str) -> None:
    assert value_at(from_file({path: POINTER_ZEROS[path]}).config, path) == 0


@pytest.mark.parametrize("mode", ["", None, "iptables", "nftables"])
def test_a_file_must_set_the_mode_to_ipvs(mode: str | None) -> None:
    [problem] = problems(document({"mode": mode}))
    assert problem.startswith("mode: ")
    assert "(mode: ipvs, or run kube-proxy)" in problem


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["primary"], ("primary",)),
        (["all"], ()),
        ([], ()),
        (["0.0.0.0/0"], ("0.0.0.0/0",)),
        (["10.1.2.3/8", "primary", "fd00::1/8"], ("10.0.0.0/8", "primary", "fd00::/8")),
        (["localhost", "primary"], ("localhost", "primary")),
        (["primary", "all", "10.0.0.0/8"], ()),
    ],
)
def test_node_port_addresses_may_be_keywords(words: list[str], value: tuple[str, ...]) -> None:
    assert from_file({"nodePortAddresses": words}).config.node_port_addresses == value


def test_an_invalid_network_among_keywords_is_rejected() -> None:
    [problem] = problems(document({"nodePortAddresses": ["all", "primary", "nonesuch"]}))
    assert problem.startswith("nodePortAddresses: 'nonesuch': not a network")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["localhost"], ["nodePortAddresses: localhost"]),
        (["primary"], []),
        (["all", "localhost"], []),
    ],
)
def test_localhost_is_accepted_with_a_warning(words: list[str], fields: list[str]) -> None:
    warnings = from_file({"nodePortAddresses": words}).warnings
    assert [warning.field for warning in warnings] == fields
    assert all(warning.message == "IPVS cannot serve NodePorts on loopback addresses" for warning in warnings)


def test_cluster_cidr_may_have_several_networks_of_a_family_but_not_any_number() -> None:
    several = ("10.0.0.0/8", "fd00::/8", "11.0.0.0/8")
    assert from_file({"clusterCIDR": ",".join(several)}).config.cluster_cidr == several
    [problem] = problems(document({"clusterCIDR": ",".join(f"10.{number}.0.0/16" for number in range(33))}))
    assert "33 networks (at most 32)" in problem


@pytest.mark.parametrize("name", ["-j", "!eth0", 'a"b', "a'b", "a\\b", "a/b", "a:b", "a\nb", "a b", "..", "ü" * 8])
def test_an_interface_name_cannot_end_its_word_in_a_rule(name: str) -> None:
    [problem] = problems(document({"detectLocal.bridgeInterface": name}))
    assert "cannot be an interface name" in problem
