"""Preparation of the host: sysctls on a kernel in memory, the scheduler check on a fake IPVS."""

from collections.abc import Sequence
from errno import EACCES, ENOENT, EPERM, EROFS
from pathlib import Path

import pytest

from kubeproxy_py.commands.startup import (
    apply_sysctls,
    check_pod_networks,
    desired_host_sysctls,
    ipvs_timeouts,
    release_api_server,
    set_oom_score,
)
from kubeproxy_py.compile.base import CONNTRACK_BUCKETS, CONNTRACK_MAX
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import LoadedConfig, load
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.constants import Timeouts
from kubeproxy_py.kernel.ipvs.scheduler_probe import PROBE, check_scheduler
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.rows import (
    IPVS_DEVICE,
    Address,
    IpsetEntry,
    Link,
    Rows,
    Sysctl,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.steps import Outcome, Plan, Step, StepFailure
from kubeproxy_py.net import SocketAddress

FORWARD = Sysctl("net/ipv4/ip_forward")
VS_CONNTRACK = Sysctl("net/ipv4/vs/conntrack")
TIMEOUT = Sysctl("net/netfilter/nf_conntrack_tcp_timeout_established")
LIBERAL = Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal")
BIG, SMALL = str(1 << 22), "1000"


def limit(loaded: LoadedConfig, present: str, cpus: int = 2) -> object:
    """Return the desired nf_conntrack_max on a host where it is *present*."""
    return desired_host_sysctls(loaded, MemoryKernel({CONNTRACK_MAX: present}), HostInfo(cpus=cpus))[CONNTRACK_MAX]


def test_a_default_conntrack_limit_raises_the_kernels_but_never_lowers_it() -> None:
    assert limit(load({}), SMALL) == "131072"
    assert limit(load({}), BIG) == BIG


@pytest.mark.parametrize("flag", ["conntrack-max-per-core", "conntrack-min"])
def test_a_configured_conntrack_limit_is_applied_as_it_is(flag: str) -> None:
    assert limit(load({flag: "70000"}), BIG) == ("140000" if flag == "conntrack-max-per-core" else "70000")


def test_a_default_that_is_given_counts_as_configured() -> None:
    assert limit(load({"conntrack-max-per-core": "32768"}), BIG) == "131072"


def test_the_cap_applies_to_the_limit_per_core_and_not_to_conntrack_min() -> None:
    assert limit(load({}), SMALL, cpus=64) == str(1 << 20)
    assert limit(load({"conntrack-min": str(1 << 21)}), SMALL) == str(1 << 21)


def test_the_conntrack_hash_table_is_never_shrunk() -> None:
    loaded = load({"conntrack-max-per-core": "1000", "conntrack-min": "0"})
    rows = desired_host_sysctls(loaded, MemoryKernel({CONNTRACK_MAX: BIG, CONNTRACK_BUCKETS: "65536"}), HostInfo())
    assert (rows[CONNTRACK_MAX], rows[CONNTRACK_BUCKETS]) == ("1000", "65536")


def test_sysctls_that_are_right_are_not_written_and_need_not_be_writable() -> None:
    kernel = MemoryKernel({FORWARD: "1"})
    kernel.fault = lambda _step: EROFS
    assert apply_sysctls(kernel, {FORWARD: "1"}) == {FORWARD: "1"}
    assert kernel.applied == []


def test_an_error_names_every_sysctl_that_cannot_be_set() -> None:
    kernel = NamingKernel({FORWARD: "0"})
    kernel.fault = lambda _step: EROFS
    with pytest.raises(KernelError) as raised:
        apply_sysctls(kernel, {FORWARD: "1", VS_CONNTRACK: "1", CONNTRACK_MAX: "5", CONNTRACK_BUCKETS: "6"})
    assert str(raised.value) == f"{FORWARD}=1; {VS_CONNTRACK}=1"


@pytest.mark.parametrize("errno", [EROFS, EACCES, EPERM])
@pytest.mark.parametrize("sysctl", [CONNTRACK_MAX, TIMEOUT, LIBERAL, CONNTRACK_BUCKETS])
def test_read_only_connection_tracking_is_a_warning(
    sysctl: Sysctl, errno: int, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = NamingKernel({FORWARD: "0", sysctl: "4"})
    kernel.fault = lambda step: errno if step.key == sysctl else 0
    assert apply_sysctls(kernel, {FORWARD: "1", sysctl: "6"}) == {FORWARD: "1"}
    (record,) = caplog.records
    assert (record.levelname, record.message) == (
        "WARNING",
        "Failed to set an optional sysctl, continuing without it",
    )


def test_connection_tracking_without_its_module_is_an_error() -> None:
    kernel = NamingKernel({})
    kernel.fault = lambda _step: ENOENT
    with pytest.raises(KernelError):
        apply_sysctls(kernel, {CONNTRACK_MAX: "5"})


@pytest.mark.parametrize("sysctl", [CONNTRACK_MAX, CONNTRACK_BUCKETS])
def test_a_limit_that_cannot_be_lowered_is_not_worth_a_warning(
    sysctl: Sysctl, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = NamingKernel({sysctl: BIG})
    kernel.fault = lambda _step: EROFS
    assert apply_sysctls(kernel, {sysctl: SMALL}) == {}
    assert caplog.records == []


def test_a_hash_table_that_cannot_be_resized_is_not_an_error() -> None:
    kernel = NamingKernel({FORWARD: "0", CONNTRACK_BUCKETS: "4"})
    kernel.fault = lambda step: EROFS if step.key == CONNTRACK_BUCKETS else 0
    assert apply_sysctls(kernel, {FORWARD: "1", CONNTRACK_BUCKETS: "6"}) == {FORWARD: "1"}


def test_a_sysctl_that_the_kernel_rounds_is_returned_as_the_kernel_reports_it() -> None:
    class Rounding(MemoryKernel):
        def read(self, scope: object) -> Rows:
            return {key: "512" if spec == "250" else spec for key, spec in self.rows.items()}

    assert apply_sysctls(Rounding({}), {CONNTRACK_BUCKETS: "250"}) == {CONNTRACK_BUCKETS: "512"}


class NamingKernel(MemoryKernel):
    """A kernel whose failures name the sysctl and its desired value."""

    def apply(self, plan: Plan) -> Outcome:
        outcome = super().apply(plan)
        failed = (StepFailure(f.step, f.errno, f"{f.step.key}={f.step.spec}") for f in outcome.failures)
        return Outcome(tuple(failed))


class Ipvs:
    """Fake IPVS that supports *schedulers* and has *servers*."""

    def __init__(self, schedulers: set[str], servers: dict[VirtualServer, str] | None = None) -> None:
        self.schedulers = schedulers
        self.servers = servers or {}
        self.steps: list[str] = []

    def virtual_servers(self) -> list[Rows]:
        return [{key: VirtualServerSpec(scheduler)} for key, scheduler in self.servers.items()]

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        for step in steps:
            self.steps.append(f"{step.verb} {step.key}")
            if isinstance(step.spec, VirtualServerSpec) and step.spec.scheduler not in self.schedulers:
                return [StepFailure(step, ENOENT, "no such scheduler")]
        return []


def test_a_scheduler_is_checked_by_a_temporary_virtual_server() -> None:
    ipvs = Ipvs({"rr"})
    check_scheduler(ipvs, "rr")
    assert ipvs.steps == [f"add {PROBE}", f"delete {PROBE}"]


def test_a_scheduler_that_is_in_use_needs_no_check() -> None:
    ipvs = Ipvs(set(), {VirtualServer("10.96.0.10", 80, "TCP"): "lc"})
    check_scheduler(ipvs, "lc")
    assert ipvs.steps == []


def test_a_temporary_virtual_server_of_an_earlier_check_is_ignored_and_deleted() -> None:
    ipvs = Ipvs({"rr"}, {PROBE: "rr"})
    check_scheduler(ipvs, "rr")
    assert ipvs.steps[-1] == f"delete {PROBE}"


def test_a_missing_scheduler_is_named_with_the_remedy() -> None:
    with pytest.raises(KernelError, match=r"scheduler sed: no such scheduler \(install .* another ipvs.scheduler"):
        check_scheduler(Ipvs({"rr"}), "sed")


def test_a_cluster_cidr_without_a_served_family_is_rejected() -> None:
    config = load({"cluster-cidr": "fd00::/56"}).config
    check_pod_networks(config, ("IPv4", "IPv6"))
    with pytest.raises(ConfigError, match="clusterCIDR: fd00::/56: this host serves only IPv4"):
        check_pod_networks(config, ("IPv4",))


def test_ipvs_timeouts_are_integral_seconds() -> None:
    config = load({"ipvs-tcp-timeout": "15m", "ipvs-udp-timeout": "1500ms"}).config
    assert ipvs_timeouts(config) == Timeouts(900, 0, 1)


def test_the_oom_score_is_written_only_if_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "score"
    path.write_text("0\n")
    set_oom_score(-999, path)
    assert path.read_text() == "-999"
    set_oom_score(-999, tmp_path / "none")  # a failure is only logged


API_SERVER = SocketAddress("192.168.3.11", 6443)
HIDING: Rows = {
    Link(IPVS_DEVICE): None,
    Address(API_SERVER.address): None,
    VirtualServer(API_SERVER.address, 6443, "TCP"): VirtualServerSpec(),
    VirtualServer(API_SERVER.address, 80, "TCP"): VirtualServerSpec(),
    IpsetEntry("KUBE-EXTERNAL-IP", "192.168.3.11,tcp:6443"): None,
}


def test_api_server_s_address_is_released_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    kernel = MemoryKernel(HIDING)
    release_api_server(kernel, [API_SERVER])
    assert [key for key in HIDING if key not in kernel.rows] == [
        Address(API_SERVER.address),
        VirtualServer(API_SERVER.address, 6443, "TCP"),
    ]
    assert [str(record.values["key"]) for record in caplog.records] == [  # type: ignore[attr-defined]
        "192.168.3.11",
        "192.168.3.11:6443/TCP",
    ]


def test_cluster_ip_through_which_the_api_server_is_reached_stays() -> None:
    entry = IpsetEntry("KUBE-CLUSTER-IP", "192.168.3.11,tcp:6443")
    kernel = MemoryKernel({**HIDING, entry: None})
    release_api_server(kernel, [API_SERVER])
    assert kernel.applied == []


def test_kernel_that_cannot_be_read_does_not_stop_the_start(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_scope: object) -> Rows:
        raise KernelError("no netlink")

    kernel = MemoryKernel(HIDING)
    kernel.read = fail  # type: ignore[method-assign, assignment]
    release_api_server(kernel, [API_SERVER])
    assert "no netlink" in str(caplog.records[0].values)  # type: ignore[attr-defined]
