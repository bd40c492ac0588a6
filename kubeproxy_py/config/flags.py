"""kube-proxy's flags and this agent's own: one table for parsing, help, documentation and tests.

Invariants:
- A flag is a name for a setting. How its text is read, and its default, follow from the setting. Flags without a
  setting (``--config``, the deprecated ports) are read in load.py.
- This module imports no argparse: documentation and tests use the table without a parser (flag_parser.py).
"""

from __future__ import annotations

from functools import cache

from msgspec import Struct

from kubeproxy_py.config.fields import FILE, FieldType, integer
from kubeproxy_py.config.types import AgentSettings, Field, KubeProxyConfiguration, Section, fields_of

_RUN = ("run",)
_PLAN = ("run", "plan", "trace")
_HOST = ("run", "plan", "trace", "doctor")
_READ = ("run", "plan", "status", "explain", "trace", "top")
_SOURCE_OF = (*_READ, "doctor", "check")
_KERNEL = ("run", "plan", "status", "explain", "trace", "top", "doctor", "dump", "cleanup")


class Flag(Struct, frozen=True, gc=False):
    """``--name`` sets the field at ``path`` of ``section``; without a path, ``field_type`` reads its text."""

    name: str
    path: str
    help: str
    section: type[Section] = KubeProxyConfiguration
    field_type: FieldType | None = None
    commands: tuple[str, ...] = _RUN  # whose help shows the flag; every command accepts it
    overrides_file: bool = False  # also with --config, with which most flags are ignored

    def __str__(self) -> str:
        return f"-{self.name}" if len(self.name) == 1 else f"--{self.name}"


_CONFIGURATION = (
    Flag(
        "config", "", "read a KubeProxyConfiguration from this file; most other flags are then ignored",
        field_type=FILE,
        commands=("run", "plan", "status", "explain", "trace", "top", "doctor", "check", "dump", "cleanup"),
    ),
    Flag("write-config-to", "writeConfigTo", "write the effective configuration to this file and exit", AgentSettings),
    Flag(
        "hostname-override", "hostnameOverride", "name of this node's Node object, if it is not the host name",
        commands=_SOURCE_OF, overrides_file=True,
    ),
    Flag(
        "bind-address", "bindAddress",
        "IP address of this node; 0.0.0.0 and :: mean the addresses of the Node object", commands=_READ,
    ),
    Flag(
        "cleanup", "cleanup", "delete all kernel state that this agent or kube-proxy created, and exit", AgentSettings
    ),
    Flag(
        "init-only", "initOnly", "apply the sysctls and IPVS timeouts, which need privileges, and exit", AgentSettings
    ),
)  # fmt: skip

_SOURCE = (
    Flag(
        "kubeconfig", "clientConnection.kubeconfig",
        "kubeconfig for the API server; without it, the pod's service account is used", commands=_SOURCE_OF,
    ),
    Flag("master", "master", "address of the API server; overrides the kubeconfig", AgentSettings, commands=_SOURCE_OF),
)  # fmt: skip
_AGENT_SOURCE = (
    Flag(
        "manifests", "manifests",
        "watch the Services, EndpointSlices and Nodes in the YAML and JSON files of this directory instead of an API "
        "server", AgentSettings, commands=_SOURCE_OF,
    ),
    Flag(
        "state-dir", "stateDir",
        "save the objects of the API server in this directory, and serve them after a boot while the server does not "
        "answer", AgentSettings, commands=_READ,
    ),
    Flag(
        "state-max-age", "stateMaxAge", "do not serve saved objects that are older than this; 0s: of any age",
        AgentSettings, commands=_READ,
    ),
    Flag(
        "removal-confirm-percent", "removalConfirmPercent",
        "a list of the API server that lacks more than this share of at least 10 known objects, or all of them, is "
        "used only if a second list confirms it; 0: every list is used at once", AgentSettings,
    ),
)  # fmt: skip

_TRAFFIC = (
    Flag("cluster-cidr", "clusterCIDR", "networks of all pods: up to 32, of either IP family", commands=_HOST),
    Flag(
        "detect-local-mode", "detectLocalMode", "how traffic from pods of this node is recognized", commands=_PLAN
    ),
    Flag(
        "pod-bridge-interface", "detectLocal.bridgeInterface",
        "bridge of the pods, for --detect-local-mode=BridgeInterface", commands=_PLAN,
    ),
    Flag(
        "pod-interface-name-prefix", "detectLocal.interfaceNamePrefix",
        "prefix of the pods' interfaces, for --detect-local-mode=InterfaceNamePrefix", commands=_PLAN,
    ),
    Flag(
        "nodeport-addresses", "nodePortAddresses",
        "serve NodePorts only on node addresses in these networks; primary: the node IP; localhost: loopback, with "
        "--policies=exact; all, or empty: on all",
        commands=_READ,
    ),
    Flag(
        "masquerade-all", "iptables.masqueradeAll", "masquerade (SNAT) all traffic to ClusterIPs", commands=_PLAN
    ),
    Flag(
        "iptables-masquerade-bit", "iptables.masqueradeBit", "bit of the packet mark that requests masquerading",
        commands=_PLAN,
    ),
)  # fmt: skip

_IPVS = (
    Flag("proxy-mode", "mode", "ipvs, the only supported mode"),
    Flag("ipvs-scheduler", "ipvs.scheduler", "scheduler of Services that name no other one", commands=_PLAN),
    Flag(
        "ipvs-exclude-cidrs", "ipvs.excludeCIDRs", "leave virtual servers in these networks to other programs",
        commands=(*_HOST, "cleanup"),
    ),
    Flag(
        "ipvs-strict-arp", "ipvs.strictARP", "set arp_ignore to 1 and arp_announce to 2, as MetalLB requires",
        commands=_HOST,
    ),
    Flag("ipvs-sync-period", "ipvs.syncPeriod", "interval between full comparisons with the kernel"),
    Flag("ipvs-min-sync-period", "ipvs.minSyncPeriod", "minimum interval between two syncs"),
    Flag("ipvs-tcp-timeout", "ipvs.tcpTimeout", "timeout of idle TCP connections; 0s: leave unchanged"),
    Flag("ipvs-tcpfin-timeout", "ipvs.tcpFinTimeout", "timeout of TCP connections after a FIN; 0s: leave unchanged"),
    Flag("ipvs-udp-timeout", "ipvs.udpTimeout", "timeout of UDP flows; 0s: leave unchanged"),
)  # fmt: skip
_AGENT_IPVS = (
    Flag("drain-deadline", "drainDeadline", "longest time that a real server drains; 0s: no limit", AgentSettings),
    Flag(
        "keep-foreign-virtual-servers", "keepForeignVirtualServers",
        "do not delete virtual servers that neither our sets nor kube-ipvs0 name; they belong to other programs",
        AgentSettings, commands=_HOST,
    ),
    Flag(
        "reserve-node-ports", "reserveNodePorts",
        "add NodePorts within net.ipv4.ip_local_port_range to net.ipv4.ip_local_reserved_ports", AgentSettings,
    ),
    Flag(
        "watch-nodes", "watchNodes",
        "give no new connections to endpoints on nodes that do not answer, long before Kubernetes withdraws them",
        AgentSettings,
    ),
)  # fmt: skip

_AGENT_POLICIES = (
    Flag(
        "policies", "policies",
        "which endpoints each client reaches: as in kube-proxy's IPVS mode, or exactly as the traffic policies say",
        AgentSettings, commands=_PLAN,
    ),
    Flag(
        "policy-mark-mask", "policyMarkMask",
        "the bits of packet marks that --policies=exact uses: one for all, and a number for each Service port",
        AgentSettings, commands=(*_PLAN, "cleanup"),
    ),
    Flag(
        "node-port-range", "nodePortRange",
        "the API server's range of NodePorts, for localhost in --nodeport-addresses with --policies=exact",
        AgentSettings, commands=_PLAN,
    ),
    Flag(
        "service-cidr", "serviceCIDR",
        "networks of ClusterIPs; with --policies=exact, requests to an address there that no Service has are dropped",
        AgentSettings, commands=_PLAN,
    ),
)  # fmt: skip

_AGENT_IPTABLES = (
    Flag(
        "iptables-flavour", "iptablesFlavour", "which iptables to use; auto: the one that the node already uses",
        AgentSettings, commands=_KERNEL,
    ),
    Flag(
        "iptables-backend", "iptablesBackend",
        "how rules are written: iptables-restore, or libiptc (needs python-iptables and legacy iptables)",
        AgentSettings, commands=_KERNEL,
    ),
)  # fmt: skip

_CONNTRACK = (
    Flag(
        "conntrack-max-per-core", "conntrack.maxPerCore",
        "maximum of tracked connections per CPU core; 0: leave the limit unchanged", commands=_HOST,
    ),
    Flag(
        "conntrack-min", "conntrack.min", "minimum of the limit, regardless of --conntrack-max-per-core",
        commands=_HOST,
    ),
    Flag(
        "conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout",
        "timeout of idle TCP connections; 0s: leave unchanged", commands=_HOST,
    ),
    Flag(
        "conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout",
        "timeout of TCP connections in CLOSE_WAIT; 0s: leave unchanged", commands=_HOST,
    ),
    Flag(
        "conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", "do not mark out-of-window TCP packets as invalid",
        commands=_HOST,
    ),
    Flag(
        "conntrack-udp-timeout", "conntrack.udpTimeout", "timeout of unanswered UDP flows; 0s: leave unchanged",
        commands=_HOST,
    ),
    Flag(
        "conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout",
        "timeout of answered UDP flows; 0s: leave unchanged", commands=_HOST,
    ),
)  # fmt: skip

_SERVERS = (
    Flag("healthz-bind-address", "healthzBindAddress", "address of the health server"),
    Flag("metrics-bind-address", "metricsBindAddress", "address of the metrics server"),
    Flag(
        "profiling", "enableProfiling",
        "serve the state of the agent below /debug/ of the metrics server; there is no other profiling endpoint",
    ),
    Flag("bind-address-hard-fail", "bindAddressHardFail", "exit if a server cannot listen on its address"),
    Flag(
        "healthz-port", "", "deprecated: port of the health server; 0 turns it off",
        field_type=integer(0, 65535, metavar="PORT"),
    ),
    Flag("metrics-port", "", "deprecated: port of the metrics server", field_type=integer(1, 65535, metavar="PORT")),
)  # fmt: skip
_AGENT_SERVERS = (
    Flag(
        "debug-socket", "debugSocket",
        "Unix socket that serves the state of the agent to root; commands try it before they read the kernel",
        AgentSettings, commands=("run", "plan", "status", "explain", "trace", "top", "doctor"),
    ),
    Flag(
        "ui", "ui",
        "serve a page that shows the state of the agent, /ui, at this loopback address, for example 127.0.0.1:10247",
        AgentSettings,
    ),
    Flag(
        "traffic-series", "trafficSeries", "number of Service ports with traffic metrics of their own; 0: none",
        AgentSettings,
    ),
    Flag(
        "traffic-services-max", "trafficServicesMax", "with more Service ports than this, no traffic metrics",
        AgentSettings,
    ),
    Flag(
        "healthz-at-service-addresses", "healthzAtServiceAddresses",
        "answer /healthz at Service addresses too, where passthrough load balancers ask; needs a health server on all "
        "addresses", AgentSettings, commands=_PLAN,
    ),
)  # fmt: skip

_PROCESS = (
    Flag("oom-score-adj", "oomScoreAdj", "oom_score_adj of this process: which processes the kernel kills first"),
    Flag(
        "v",
        "logging.verbosity",
        "verbosity of the log; 4 is the highest in use",
        commands=_KERNEL,
        overrides_file=True,
    ),
    Flag("logging-format", "logging.format", "format of the log", commands=_KERNEL, overrides_file=True),
)

_IGNORED = (
    Flag("config-sync-period", "configSyncPeriod", "ignored; every change of an object is watched"),
    Flag("feature-gates", "featureGates", "ignored, except that KubeProxyIPVS=false is refused"),
    Flag("kube-api-content-type", "clientConnection.contentType", "ignored; JSON is always used"),
    Flag("kube-api-qps", "clientConnection.qps", "ignored; this agent only lists and watches"),
    Flag("kube-api-burst", "clientConnection.burst", "ignored; this agent only lists and watches"),

    Flag("show-hidden-metrics-for-version", "showHiddenMetricsForVersion", "ignored; no metrics are hidden"),
    Flag(
        "iptables-localhost-nodeports", "iptables.localhostNodePorts",
        "ignored; see localhost in --nodeport-addresses",
    ),
    Flag("iptables-sync-period", "iptables.syncPeriod", "ignored; see --ipvs-sync-period"),
    Flag("iptables-min-sync-period", "iptables.minSyncPeriod", "ignored; see --ipvs-min-sync-period"),
    Flag("vmodule", "logging.vmodule", "ignored; -v applies to all modules", overrides_file=True),
    Flag("log-flush-frequency", "logging.flushFrequency", "ignored; each line is written at once", overrides_file=True),
    Flag(
        "log-text-split-stream", "logging.options.text.splitStream", "ignored; the log is written to stderr",
        overrides_file=True,
    ),
    Flag(
        "log-text-info-buffer-size", "logging.options.text.infoBufferSize", "ignored; the log is not buffered",
        overrides_file=True,
    ),
    Flag(
        "log-json-split-stream", "logging.options.json.splitStream", "ignored; the log is written to stderr",
        overrides_file=True,
    ),
    Flag(
        "log-json-info-buffer-size", "logging.options.json.infoBufferSize", "ignored; the log is not buffered",
        overrides_file=True,
    ),
)  # fmt: skip

GROUPS: tuple[tuple[str, tuple[Flag, ...]], ...] = (
    ("Configuration", _CONFIGURATION),
    ("Kubernetes objects", _SOURCE + _AGENT_SOURCE),
    ("Traffic", _TRAFFIC + _AGENT_POLICIES),
    ("IPVS", _IPVS + _AGENT_IPVS),
    ("iptables", _AGENT_IPTABLES),
    ("Connection tracking (sysctls)", _CONNTRACK),
    ("Health and metrics", _SERVERS + _AGENT_SERVERS),
    ("Process and log", _PROCESS),
    ("Flags of kube-proxy that are accepted and ignored", _IGNORED),
)
"""Every flag, by subject, in the order of the help."""

AGENT_FLAGS = _AGENT_SOURCE + _AGENT_POLICIES + _AGENT_IPTABLES + _AGENT_SERVERS + _AGENT_IPVS
"""The flags that kube-proxy does not have."""

FLAGS = tuple(flag for _, flags in GROUPS for flag in flags)
UPSTREAM_FLAGS = tuple(flag for flag in FLAGS if flag not in AGENT_FLAGS)


def field_type_of(flag: Flag) -> FieldType:
    """Return the type that reads the text of *flag*."""
    field_type = flag.field_type or field_of(flag).field_type
    assert field_type is not None, f"{flag} names a group of settings"
    return field_type


@cache
def field_of(flag: Flag) -> Field:
    """Return the setting that *flag* names."""
    section = flag.section
    *groups, key = flag.path.split(".")
    for group in groups:
        section = type(_field(section, group).default)
    return _field(section, key)


def default_text(flag: Flag) -> str:
    """Return the default of *flag* as its text, "" if it is empty, zero or false."""
    if not flag.path or not (default := field_of(flag).default):
        return ""
    return "true" if default is True else str(field_type_of(flag).write(default))


def _field(section: type[Section], key: str) -> Field:
    return next(field for field in fields_of(section) if field.key == key)
