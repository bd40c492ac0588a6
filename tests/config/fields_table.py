"""Every field of the file with its default, a valid value, and an invalid one with part of its problem."""

from typing import Any, NamedTuple

from kubeproxy_py.net import SocketAddress


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
    Row("hostnameOverride", "", "Node-A", "Node-A", "  ", "only whitespace (the name of this node's Node object)"),
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
