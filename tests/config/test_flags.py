"""Flags: every flag of kube-proxy exists, sets its field, and has kube-proxy's precedence over the file."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from kubeproxy_py.config import flags
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.flag_parser import add_flags, given_flags
from kubeproxy_py.config.load import LoadedConfig, load, read_input
from kubeproxy_py.config.types import AgentSettings, KubeProxyConfiguration
from kubeproxy_py.net import SocketAddress
from tests.config.build import document, from_file, value_at

KUBE_PROXY_1_36 = """
    config write-config-to cleanup init-only kubeconfig master kube-api-content-type kube-api-qps kube-api-burst
    hostname-override bind-address healthz-bind-address metrics-bind-address bind-address-hard-fail profiling
    show-hidden-metrics-for-version feature-gates proxy-mode iptables-masquerade-bit masquerade-all
    iptables-localhost-nodeports iptables-sync-period iptables-min-sync-period ipvs-sync-period ipvs-min-sync-period
    ipvs-scheduler ipvs-exclude-cidrs ipvs-strict-arp ipvs-tcp-timeout ipvs-tcpfin-timeout ipvs-udp-timeout
    detect-local-mode pod-bridge-interface pod-interface-name-prefix cluster-cidr nodeport-addresses oom-score-adj
    config-sync-period conntrack-max-per-core conntrack-min conntrack-tcp-timeout-established
    conntrack-tcp-timeout-close-wait conntrack-tcp-be-liberal conntrack-udp-timeout conntrack-udp-timeout-stream
    healthz-port metrics-port v vmodule logging-format log-flush-frequency log-text-split-stream
    log-text-info-buffer-size log-json-split-stream log-json-info-buffer-size
"""

# flag: a valid text, the value of the field then, an invalid text, and part of the problem for it
SETS: dict[str, tuple[str, object, str, str]] = {
    "write-config-to": ("/tmp/x", "/tmp/x", "", ""),
    "cleanup": ("true", True, "si", "expected true or false, got 'si'"),
    "init-only": ("T", True, "si", "expected true or false"),
    "kubeconfig": ("/k", "/k", "", ""),
    "master": ("https://api", "https://api", "", ""),
    "kube-api-content-type": ("application/json", "application/json", "", ""),
    "kube-api-qps": ("0.5", 0.5, "x", "expected a number, got 'x'"),
    "kube-api-burst": ("7", 7, "-1", "-1 is out of range"),
    "hostname-override": ("b", "b", "  ", "only whitespace"),
    "bind-address": ("10.0.0.1", "10.0.0.1", "host", "'host' is not an IP address"),
    "healthz-bind-address": ("10.0.0.1", SocketAddress("10.0.0.1", 10256), ":1", "the host '' is not an IP address"),
    "metrics-bind-address": ("[::]:1", SocketAddress("::", 1), "1.1.1.1:0", "the port '0' is not in 1-65535"),
    "bind-address-hard-fail": ("1", True, "2", "expected true or false"),
    "profiling": ("t", True, "on", "expected true or false"),
    "show-hidden-metrics-for-version": ("1.35", "1.35", "1", "'1' is not a version"),
    "feature-gates": ("A=true,B=f", {"A": True, "B": False}, "A", "expected true or false, got ''"),
    "proxy-mode": ("ipvs", "ipvs", "iptables", "this agent supports only IPVS"),
    "iptables-masquerade-bit": ("0", 0, "32", "32 is out of range (0 to 31)"),
    "masquerade-all": ("TRUE", True, "yes", "expected true or false, got 'yes'"),
    "iptables-localhost-nodeports": ("false", False, "no", "expected true or false"),
    "iptables-sync-period": ("1m", 60.0, "0s", "0s is too short"),
    "iptables-min-sync-period": ("0s", 0.0, "-1s", "-1s is negative"),
    "ipvs-sync-period": ("1h30m", 5400.0, "0s", "0s is too short (more than 0s)"),
    "ipvs-min-sync-period": ("5s", 5.0, "5", "'5' is not a duration: no number with a unit"),
    "ipvs-scheduler": ("sed", "sed", "rrr", "unknown scheduler 'rrr' (one of rr, wrr"),
    "ipvs-exclude-cidrs": ("10.0.0.0/8, fd00::/8", ("10.0.0.0/8", "fd00::/8"), "10.0.0.0", "not a network"),
    "ipvs-strict-arp": ("true", True, "x", "expected true or false"),
    "ipvs-tcp-timeout": ("15m", 900.0, "x", "'x' is not a duration"),
    "ipvs-tcpfin-timeout": ("1s", 1.0, "-1s", "-1s is negative"),
    "ipvs-udp-timeout": ("1s", 1.0, "-1s", "-1s is negative"),
    "detect-local-mode": ("NodeCIDR", "NodeCIDR", "x", "unknown mode of local traffic detection 'x'"),
    "pod-bridge-interface": ("cni0", "cni0", "a b", "cannot be an interface name"),
    "pod-interface-name-prefix": ("veth", "veth", "a/b", "cannot be an interface name"),
    "cluster-cidr": ("10.0.0.0/8,fd00::/8", ("10.0.0.0/8", "fd00::/8"), "10.0.0.0/8,x", "'x': not a network"),
    "nodeport-addresses": ("primary", ("primary",), "x", "'x': not a network"),
    "oom-score-adj": ("-1000", -1000, "1001", "1001 is out of range"),
    "config-sync-period": ("1m", 60.0, "0s", "0s is too short"),
    "conntrack-max-per-core": ("0", 0, "x", "expected an integer, got 'x'"),
    "conntrack-min": ("0", 0, "-1", "-1 is out of range"),
    "conntrack-tcp-timeout-established": ("0s", 0.0, "x", "not a duration"),
    "conntrack-tcp-timeout-close-wait": ("0s", 0.0, "x", "not a duration"),
    "conntrack-tcp-be-liberal": ("true", True, "x", "expected true or false"),
    "conntrack-udp-timeout": ("10s", 10.0, "x", "not a duration"),
    "conntrack-udp-timeout-stream": ("10s", 10.0, "x", "not a duration"),
    "v": ("4", 4, "-1", "-1 is out of range"),
    "vmodule": ("a=1,b*=2", (("a", 1), ("b*", 2)), "a", "expected PATTERN=LEVEL,..., got 'a'"),
    "logging-format": ("json", "json", "xml", "unknown log format 'xml' (one of text, json)"),
    "log-flush-frequency": ("1s", 1.0, "x", "not a duration"),
    "log-text-split-stream": ("true", True, "x", "expected true or false"),
    "log-text-info-buffer-size": ("1Ki", "1Ki", "x", "'x' is not a quantity"),
    "log-json-split-stream": ("true", True, "x", "expected true or false"),
    "log-json-info-buffer-size": ("1Ki", "1Ki", "x", "'x' is not a quantity"),
    "manifests": ("/etc/objects", "/etc/objects", "", ""),
    "iptables-flavour": ("nft", "nft", "x", "unknown iptables flavour 'x' (one of auto, legacy, nft)"),
    "iptables-backend": ("libiptc", "libiptc", "x", "unknown iptables backend 'x' (one of restore, libiptc)"),
    "traffic-series": ("50", 50, "-1", "-1 is out of range"),
    "traffic-services-max": ("500", 500, "x", "expected an integer"),
    "drain-deadline": ("5m", 300.0, "-1s", "-1s is negative"),
    "state-dir": ("/var/lib/x", "/var/lib/x", "", ""),
    "debug-socket": ("/run/x/debug.sock", "/run/x/debug.sock", "", ""),
    "ui": ("127.0.0.2", SocketAddress("127.0.0.2", 10247), "0.0.0.0:80", "not a loopback address"),
    "state-max-age": ("0s", 0.0, "-1s", "-1s is negative"),
    "removal-confirm-percent": ("0", 0, "101", "101 is out of range (0 to 100)"),
    "healthz-at-service-addresses": ("true", True, "x", "expected true or false"),
    "keep-foreign-virtual-servers": ("true", True, "x", "expected true or false"),
    "policies": ("exact", "exact", "x", "unknown policies 'x' (one of kube-proxy, exact)"),
    "policy-mark-mask": ("0xff", 0xFF, "0xx", "expected bits of marks"),
    "node-port-range": ("20000-22767", "20000-22767", "22767-20000", "not a range of ports"),
    "service-cidr": ("10.96.0.0/12,fd00:10:96::/108", ("10.96.0.0/12", "fd00:10:96::/108"), "x", "not a network"),
    "reserve-node-ports": ("false", False, "x", "expected true or false"),
    "watch-nodes": ("true", True, "x", "expected true or false"),
}
WITHOUT_FIELD = {"config", "healthz-port", "metrics-port"}
BY_NAME = {flag.name: flag for flag in flags.FLAGS}


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, "run")
    return parser.parse_args(argv)


def from_flags(*argv: str) -> LoadedConfig:
    config_input = read_input(given_flags(parsed(*argv)))
    return load(config_input.flags, config_input.content)


def problems(*argv: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        from_flags(*argv)
    return [str(problem) for problem in raised.value.problems]


def test_upstream_flags_are_exactly_those_of_kube_proxy() -> None:
    assert sorted(flag.name for flag in flags.UPSTREAM_FLAGS) == sorted(KUBE_PROXY_1_36.split())


def test_the_table_has_every_flag() -> None:
    assert BY_NAME.keys() - WITHOUT_FIELD == SETS.keys()


@pytest.mark.parametrize("name", SETS)
def test_a_flag_sets_its_field(name: str) -> None:
    text, value, _, _ = SETS[name]
    loaded = load({name: text})
    flag = BY_NAME[name]
    assert value_at(loaded.agent if flag.section is AgentSettings else loaded.config, flag.path) == value


@pytest.mark.parametrize("name", [name for name, row in SETS.items() if row[2]])
def test_an_invalid_text_is_rejected_with_the_flags_name(name: str) -> None:
    _, _, invalid, message = SETS[name]
    [problem] = problems(f"--{name}={invalid}")
    assert problem.startswith(f"{BY_NAME[name]}: ")
    assert message in problem


def test_without_flags_and_file_the_defaults_are_kube_proxys_in_ipvs_mode() -> None:
    assert from_flags() == LoadedConfig(KubeProxyConfiguration(), AgentSettings())


@pytest.mark.parametrize("argv", [["--ipvs-scheduler=lc"], ["--ipvs-scheduler", "lc"]], ids=["equals", "space"])
def test_a_value_follows_an_equals_sign_or_a_space(argv: list[str]) -> None:
    assert from_flags(*argv).config.ipvs.scheduler == "lc"


@pytest.mark.parametrize("argv", [["-v2"], ["-v=2"], ["-v", "2"], ["--v=2"], ["--v", "2"]], ids=" ".join)
def test_verbosity_is_accepted_in_every_common_form(argv: list[str]) -> None:
    assert from_flags(*argv).config.logging.verbosity == 2


def test_a_boolean_flag_without_a_value_is_true() -> None:
    assert from_flags("--masquerade-all", "--ipvs-strict-arp").config.iptables.masquerade_all


def test_a_boolean_flag_can_be_set_to_false() -> None:
    assert not from_flags("--masquerade-all=false").config.iptables.masquerade_all


def test_a_negative_number_is_a_value_and_no_flag() -> None:
    assert from_flags("--oom-score-adj", "-500").config.oom_score_adj == -500


def test_the_last_of_a_repeated_flag_is_used() -> None:
    assert from_flags("--ipvs-scheduler=lc", "--ipvs-scheduler=sh").config.ipvs.scheduler == "sh"


def test_repeated_lists_accumulate() -> None:
    config = from_flags("--nodeport-addresses=10.0.0.0/8,11.0.0.0/8", "--nodeport-addresses=fd00::/8").config
    assert config.node_port_addresses == ("10.0.0.0/8", "11.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in ("v", "manifests")])
def test_an_empty_text_is_the_same_as_no_flag(name: str) -> None:
    assert load({name: ""}) == load({})


def test_the_problems_of_all_flags_are_reported_at_once() -> None:
    reported = problems("--oom-score-adj=x", "--ipvs-scheduler=x", "--metrics-port=0", "--iptables-flavour=x")
    assert [problem.partition(":")[0] for problem in reported] == [
        "--metrics-port", "--oom-score-adj", "--ipvs-scheduler", "--iptables-flavour",
    ]  # fmt: skip


def test_a_contradiction_is_reported_with_the_flags_name() -> None:
    [problem] = problems("--ipvs-min-sync-period=1h")
    assert problem.startswith("--ipvs-min-sync-period: 1h0m0s is longer than ipvs.syncPeriod, 30s")


@pytest.mark.parametrize(
    ("mask", "problem"),
    [("0x1ffffffff", "8589934591 is out of range"), ("0", "0 is out of range"), ("-1", "expected bits of marks")],
)
def test_a_mask_that_no_mark_has_is_refused(mask: str, problem: str) -> None:
    (found,) = problems(f"--policy-mark-mask={mask}")
    assert problem in found


@pytest.mark.parametrize("text", ["0x3fff", "0X3FFF", "16383"])
def test_a_mask_is_hexadecimal_or_decimal(text: str) -> None:
    assert from_flags(f"--policy-mark-mask={text}").agent.policy_mark_mask == 0x3FFF


@pytest.mark.parametrize(
    ("networks", "problem"),
    [
        ("0.0.0.0/0", "0.0.0.0/0 is every address"),
        ("10.96.0.0/12,::/0", "::/0 is every address"),
        ("10.244.0.0/16", "10.244.0.0/16 contains 10.244.0.0/16, the pods of clusterCIDR"),
        ("fd00::/16", "fd00::/16 contains fd00:10::/64, the pods of clusterCIDR"),
    ],
)
def test_service_network_of_pods_is_a_contradiction_with_exact_policies(networks: str, problem: str) -> None:
    flags = ("--cluster-cidr=10.244.0.0/16,fd00:10::/64", f"--service-cidr={networks}")
    [found] = problems("--policies=exact", *flags)
    assert found.startswith(f"--service-cidr: {problem}")
    assert from_flags(*flags).agent.service_cidr == tuple(networks.split(","))


def test_service_network_may_be_a_part_of_cluster_cidr() -> None:
    flags = ("--policies=exact", "--cluster-cidr=10.0.0.0/8", "--service-cidr=10.96.0.0/12,fd00::/108")
    assert from_flags(*flags).agent.service_cidr == ("10.96.0.0/12", "fd00::/108")


# Precedence of the file and the flags

OVERRIDES_FILE = {
    "hostname-override", "v", "vmodule", "logging-format", "log-flush-frequency", "log-text-split-stream",
    "log-text-info-buffer-size", "log-json-split-stream", "log-json-info-buffer-size",
}  # fmt: skip
BESIDE_A_FILE = [(name, row) for name, row in SETS.items() if BY_NAME[name].section is KubeProxyConfiguration]


@pytest.mark.parametrize(("name", "row"), BESIDE_A_FILE, ids=[name for name, _ in BESIDE_A_FILE])
def test_only_the_host_name_and_log_flags_override_the_file(name: str, row: tuple[str, object, str, str]) -> None:
    loaded = load({"config": "proxy.yaml", name: row[0]}, document())
    value = value_at(loaded.config, BY_NAME[name].path)
    ignored = f"{BY_NAME[name]}: ignored, because --config is given"
    if name in OVERRIDES_FILE:
        assert (value, ignored in map(str, loaded.warnings)) == (row[1], False)
    else:
        default = value_at(KubeProxyConfiguration(), BY_NAME[name].path)
        assert (value, ignored in map(str, loaded.warnings)) == (default, True)


def test_the_host_name_flag_overrides_the_file() -> None:
    assert from_file({"hostnameOverride": "file"}, hostname_override="flag").config.hostname_override == "flag"


def test_an_empty_host_name_flag_does_not_override_the_file() -> None:
    assert from_file({"hostnameOverride": "file"}, hostname_override="").config.hostname_override == "file"


def test_vmodule_of_file_and_flag_accumulate() -> None:
    file = {"logging.vmodule": [{"filePattern": "a", "verbosity": 1}]}
    assert from_file(file, vmodule="b=2").config.logging.vmodule == (("a", 1), ("b", 2))


def test_a_log_flag_does_not_hide_an_invalid_logging_section() -> None:
    with pytest.raises(ConfigError, match="logging: expected fields, got 5"):
        from_file({"logging": 5}, v="2")


def test_flags_without_a_field_in_the_file_are_used_beside_it() -> None:
    settings = from_file(master="https://api", cleanup="true", iptables_flavour="nft").agent
    assert settings == AgentSettings(master="https://api", cleanup=True, iptables_flavour="nft")


def test_the_file_of_the_config_flag_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.conf").write_bytes(document({"ipvs.scheduler": "lc"}))
    assert from_flags("--config", str(tmp_path / "config.conf")).config.ipvs.scheduler == "lc"


# Addresses of the servers


@pytest.mark.parametrize(
    ("texts", "healthz", "metrics"),
    [
        ({}, "0.0.0.0:10256", "127.0.0.1:10249"),
        ({"bind-address": "10.0.0.1"}, "0.0.0.0:10256", "127.0.0.1:10249"),
        ({"bind-address": "fd00::1"}, "[::]:10256", "[::1]:10249"),
        ({"bind-address": "::ffff:10.0.0.1"}, "0.0.0.0:10256", "127.0.0.1:10249"),
        ({"healthz-port": "99"}, "0.0.0.0:99", "127.0.0.1:10249"),
        ({"healthz-bind-address": "10.0.0.1", "healthz-port": "99"}, "10.0.0.1:99", "127.0.0.1:10249"),
        ({"healthz-bind-address": "10.0.0.1:1", "healthz-port": "99"}, "10.0.0.1:1", "127.0.0.1:10249"),
        ({"metrics-bind-address": "::", "metrics-port": "99"}, "0.0.0.0:10256", "[::]:99"),
    ],
)
def test_the_servers_addresses(texts: dict[str, str], healthz: str, metrics: str) -> None:
    config = load(texts).config
    assert (str(config.healthz_bind_address), str(config.metrics_bind_address)) == (healthz, metrics)


def test_servers_listen_in_the_family_of_the_bind_address_in_the_file() -> None:
    config = from_file({"bindAddress": "::"}).config
    assert (str(config.healthz_bind_address), str(config.metrics_bind_address)) == ("[::]:10256", "[::1]:10249")


def test_an_explicit_server_address_of_the_other_family_is_used() -> None:
    config = from_file({"bindAddress": "::", "healthzBindAddress": "0.0.0.0:10256"}).config
    assert str(config.healthz_bind_address) == "0.0.0.0:10256"


def test_health_port_0_turns_the_server_off() -> None:
    assert load({"healthz-port": "0", "healthz-bind-address": "10.0.0.1"}).config.healthz_bind_address is None


def test_health_port_0_is_ignored_beside_a_file() -> None:
    assert from_file(healthz_port="0").config.healthz_bind_address == SocketAddress("0.0.0.0", 10256)


def test_metrics_port_0_is_refused() -> None:
    assert problems("--metrics-port=0") == ["--metrics-port: 0 is out of range (1 to 65535)"]


# Help


def test_the_help_of_run_has_every_flag_with_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, "run")
    text = " ".join(parser.format_help().split())
    assert all(f"--{flag.name} " in text for flag in flags.FLAGS)
    assert "--ipvs-sync-period DURATION interval between full comparisons with the kernel (default 30s)" in text


def test_importing_the_flag_table_loads_no_heavy_module() -> None:
    program = "import sys, kubeproxy_py.config.flags; print(*sys.modules)"
    # socket is loaded: net.py decides the one form of an address by inet_ntop, which costs 2-4 ms.
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.split()
    assert set(loaded) & {"yaml", "json", "logging", "argparse", "http", "kubernetes", "pyroute2", "difflib"} == set()


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        ("0x7fff", "0x7fff contains 0x4000, the mark of iptables.masqueradeBit"),
        ("0x8000", "0x8000 is not a run of 2 to 32 bits"),
        ("0x18000", "0x18000 contains 0x8000, with which kubelet marks packets to be dropped"),
        ("0x3f0f", "0x3f0f is not a run of 2 to 32 bits"),
    ],
)
def test_a_mask_of_marks_that_others_use_is_refused_with_exact_policies(mask: str, problem: str) -> None:
    (found,) = problems("--policies=exact", f"--policy-mark-mask={mask}")
    assert problem in found
    from_flags(f"--policy-mark-mask={mask}")  # which has no effect without
