"""kube-proxy's flags, and ours: one table for parsing, help, documentation and tests.

Law: a flag is a name for a setting.  How its text is read, and its default, follow from the setting that it names;
what it does not name (``--config``, the deprecated ports) is read in ``load.py``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct

from kubeproxy_py.config.fields import BOOLEAN, TEXT, FieldType, whole
from kubeproxy_py.config.types import Field, KubeProxyConfiguration, OwnSettings, Section, fields_of

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


class Flag(Struct, frozen=True, gc=False):
    """``--name`` sets the field at ``path`` of ``section``; without a path, ``kind`` says how it is read."""

    name: str
    path: str
    help: str
    section: type[Section] = KubeProxyConfiguration
    kind: FieldType | None = None
    wins: bool = False  # over the configuration file, which all others do not

    def __str__(self) -> str:
        return f"-{self.name}" if len(self.name) == 1 else f"--{self.name}"


# The order is that of `kube-proxy --help` by subject; texts are ours.
UPSTREAM_FLAGS: tuple[Flag, ...] = (
    Flag("config", "", "file with a KubeProxyConfiguration; most other flags are then ignored", kind=TEXT),
    Flag("write-config-to", "writeConfigTo", "write the effective configuration to this file and exit", OwnSettings),
    Flag("cleanup", "cleanup", "remove everything that this agent and kube-proxy made, and exit", OwnSettings),
    Flag("init-only", "initOnly", "set what needs privileges (sysctls, timeouts), and exit", OwnSettings),
    Flag("kubeconfig", "clientConnection.kubeconfig", "file that says how to reach the API server"),
    Flag("master", "master", "URL of the API server, instead of the kubeconfig's", OwnSettings),
    Flag("kube-api-content-type", "clientConnection.contentType", "accepted; JSON is spoken"),
    Flag("kube-api-qps", "clientConnection.qps", "accepted; this agent only lists and watches"),
    Flag("kube-api-burst", "clientConnection.burst", "accepted; this agent only lists and watches"),
    Flag("hostname-override", "hostnameOverride", "name of this node, instead of the host's", wins=True),
    Flag("bind-address", "bindAddress", "this node's IP, if not 0.0.0.0 or ::, instead of the Node object's"),
    Flag("healthz-bind-address", "healthzBindAddress", "where the health server listens"),
    Flag("metrics-bind-address", "metricsBindAddress", "where the metrics server listens"),
    Flag("healthz-port", "", "deprecated: port of the health server; 0 turns it off", kind=whole(0, 65535)),
    Flag("metrics-port", "", "deprecated: port of the metrics server", kind=whole(1, 65535)),
    Flag("bind-address-hard-fail", "bindAddressHardFail", "exit if a server can't listen"),
    Flag("profiling", "enableProfiling", "accepted; there is nothing of Go to profile"),
    Flag("show-hidden-metrics-for-version", "showHiddenMetricsForVersion", "accepted; no metric is hidden"),
    Flag("feature-gates", "featureGates", "accepted; only KubeProxyIPVS is looked at"),
    Flag("proxy-mode", "mode", "ipvs, the only mode"),
    Flag("iptables-masquerade-bit", "iptables.masqueradeBit", "bit of the packet mark that asks for masquerade"),
    Flag("masquerade-all", "iptables.masqueradeAll", "masquerade all traffic to ClusterIPs"),
    Flag("iptables-localhost-nodeports", "iptables.localhostNodePorts", "accepted; IPVS can't serve loopback"),
    Flag("iptables-sync-period", "iptables.syncPeriod", "accepted; see --ipvs-sync-period"),
    Flag("iptables-min-sync-period", "iptables.minSyncPeriod", "accepted; see --ipvs-min-sync-period"),
    Flag("ipvs-sync-period", "ipvs.syncPeriod", "how often the kernel is compared in full"),
    Flag("ipvs-min-sync-period", "ipvs.minSyncPeriod", "least time between two syncs"),
    Flag("ipvs-scheduler", "ipvs.scheduler", "scheduler of all virtual servers"),
    Flag("ipvs-exclude-cidrs", "ipvs.excludeCIDRs", "networks whose virtual servers are somebody else's"),
    Flag("ipvs-strict-arp", "ipvs.strictARP", "answer ARP on the interface that has the address only"),
    Flag("ipvs-tcp-timeout", "ipvs.tcpTimeout", "idle TCP connections; 0s: as the kernel has it"),
    Flag("ipvs-tcpfin-timeout", "ipvs.tcpFinTimeout", "TCP connections after FIN; 0s: as the kernel has it"),
    Flag("ipvs-udp-timeout", "ipvs.udpTimeout", "idle UDP flows; 0s: as the kernel has it"),
    Flag("detect-local-mode", "detectLocalMode", "how traffic of this node's pods is known"),
    Flag("pod-bridge-interface", "detectLocal.bridgeInterface", "bridge of the pods, for BridgeInterface"),
    Flag("pod-interface-name-prefix", "detectLocal.interfaceNamePrefix", "for InterfaceNamePrefix"),
    Flag("cluster-cidr", "clusterCIDR", "networks of all pods, one of each family"),
    Flag("nodeport-addresses", "nodePortAddresses", "networks, primary, all: where NodePorts are served"),
    Flag("oom-score-adj", "oomScoreAdj", "of this process, for the kernel's OOM killer"),
    Flag("config-sync-period", "configSyncPeriod", "how often all objects are looked at anew"),
    Flag("conntrack-max-per-core", "conntrack.maxPerCore", "tracked connections for each core; 0: leave the limit"),
    Flag("conntrack-min", "conntrack.min", "least limit, whatever --conntrack-max-per-core says"),
    Flag("conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", "idle TCP; 0s: leave it"),
    Flag("conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", "half-closed TCP; 0s: leave it"),
    Flag("conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", "let TCP packets outside the window pass"),
    Flag("conntrack-udp-timeout", "conntrack.udpTimeout", "UDP that was not answered; 0s: leave it"),
    Flag("conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", "answered UDP; 0s: leave it"),
    Flag("v", "logging.verbosity", "how much is logged, 0-10", wins=True),
    Flag("vmodule", "logging.vmodule", "accepted; -v is for all modules", wins=True),
    Flag("logging-format", "logging.format", "of the log", wins=True),
    Flag("log-flush-frequency", "logging.flushFrequency", "accepted; each line is written at once", wins=True),
    Flag("log-text-split-stream", "logging.options.text.splitStream", "accepted; the log is stderr", wins=True),
    Flag("log-text-info-buffer-size", "logging.options.text.infoBufferSize", "accepted", wins=True),
    Flag("log-json-split-stream", "logging.options.json.splitStream", "accepted; the log is stderr", wins=True),
    Flag("log-json-info-buffer-size", "logging.options.json.infoBufferSize", "accepted", wins=True),
)

OWN_FLAGS: tuple[Flag, ...] = (
    Flag("manifests", "manifests", "folder of YAML or JSON objects to watch, instead of an API server", OwnSettings),
    Flag("iptables-flavour", "iptablesFlavour", "which iptables tables; auto: those that the node uses", OwnSettings),
    Flag("iptables-backend", "iptablesBackend", "libiptc: python-iptables, for legacy tables", OwnSettings),
    Flag("traffic-series", "trafficSeries", "service ports with traffic metrics of their own; 0: none", OwnSettings),
    Flag("traffic-services-max", "trafficServicesMax", "above so many service ports, no traffic metrics", OwnSettings),
    Flag("drain-deadline", "drainDeadline", "longest time that a real server drains; 0s: no limit", OwnSettings),
)  # fmt: skip

FLAGS = UPSTREAM_FLAGS + OWN_FLAGS


def add_to(parser: ArgumentParser) -> None:
    """Let *parser* know every flag, in two groups.  A flag that is not given leaves no trace in the namespace."""
    from argparse import SUPPRESS

    for title, flags in (("kube-proxy's flags", UPSTREAM_FLAGS), ("flags of this agent's own", OWN_FLAGS)):
        group = parser.add_argument_group(title)
        for flag in flags:
            kind = kind_of(flag)
            may_stand_alone = kind.read is BOOLEAN.read  # --masquerade-all means --masquerade-all=true
            group.add_argument(
                *_spellings(flag),
                dest=_destination(flag),
                action="append",
                default=SUPPRESS,
                metavar=kind.metavar,
                help=_help(flag),
                nargs="?" if may_stand_alone else None,
                const="true" if may_stand_alone else None,
            )


def given(namespace: Namespace) -> dict[str, str]:
    """The flags that were given, by name; of one given twice the last counts, or both where values add up."""
    attributes = vars(namespace)
    return {
        flag.name: ",".join(texts) if kind_of(flag).adds_up else texts[-1]
        for flag in FLAGS
        if (texts := attributes.get(_destination(flag)))
    }


def _destination(flag: Flag) -> str:
    return f"flag:{flag.name}"  # no attribute of the command line's own can be called so


def kind_of(flag: Flag) -> FieldType:
    """How the flag's text is read."""
    kind = flag.kind or field_of(flag).kind
    assert kind is not None, f"{flag} names a group of settings"
    return kind


@cache
def field_of(flag: Flag) -> Field:
    """The setting that *flag* names."""
    section = flag.section
    *groups, key = flag.path.split(".")
    for group in groups:
        section = type(_field(section, group).default)
    return _field(section, key)


def _field(section: type[Section], key: str) -> Field:
    return next(field for field in fields_of(section) if field.key == key)


def _spellings(flag: Flag) -> tuple[str, ...]:
    """kube-proxy takes ``--v`` as well as ``-v``."""
    return (f"-{flag.name}", f"--{flag.name}") if len(flag.name) == 1 else (f"--{flag.name}",)


def _help(flag: Flag) -> str:
    default = _default_text(flag)
    return f"{flag.help} (default {default})" if default else flag.help


def _default_text(flag: Flag) -> str:
    """The default as the flag would take it; "" where it says nothing."""
    if not flag.path or not (default := field_of(flag).default):
        return ""
    return "true" if default is True else str(kind_of(flag).write(default))
