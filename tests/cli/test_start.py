"""What is done at start: settings on a kernel in memory, the scheduler on one that is told what it has."""

from collections.abc import Sequence
from errno import ENOENT, EROFS
from pathlib import Path

import pytest

from kubeproxy_py.commands.startup import check_pod_networks, make_settings, set_oom_score, timeouts_of, wanted_settings
from kubeproxy_py.compile.base import CONNTRACK_BUCKETS, CONNTRACK_MAX, Machine
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import LoadedConfig, load
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.constants import Timeouts
from kubeproxy_py.kernel.ipvs.scheduler_probe import PROBE, check_scheduler
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.rows import Rows, Sysctl, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.steps import Step, StepFailure

FORWARD = Sysctl("net/ipv4/ip_forward")
BIG, SMALL = str(1 << 22), "1000"


def limit(loaded: LoadedConfig, present: str, cpus: int = 2) -> object:
    """What nf_conntrack_max shall be where it is *present*."""
    return wanted_settings(loaded, MemoryKernel({CONNTRACK_MAX: present}), Machine((6, 1), cpus))[CONNTRACK_MAX]


def test_a_limit_that_nobody_configured_is_raised_but_never_lowered() -> None:
    assert limit(load({}), SMALL) == "131072"
    assert limit(load({}), BIG) == BIG


@pytest.mark.parametrize("flag", ["conntrack-max-per-core", "conntrack-min"])
def test_a_limit_that_is_configured_is_the_limit(flag: str) -> None:
    assert limit(load({flag: "70000"}), BIG) == ("140000" if flag == "conntrack-max-per-core" else "70000")


def test_a_default_that_is_written_out_is_configured() -> None:
    assert limit(load({"conntrack-max-per-core": "32768"}), BIG) == "131072"


def test_the_cap_is_on_what_cores_come_to_and_not_on_what_is_asked_for() -> None:
    assert limit(load({}), SMALL, cpus=64) == str(1 << 20)
    assert limit(load({"conntrack-min": str(1 << 21)}), SMALL) == str(1 << 21)


def test_the_hash_table_is_never_lowered() -> None:
    loaded = load({"conntrack-max-per-core": "1000", "conntrack-min": "0"})
    rows = wanted_settings(loaded, MemoryKernel({CONNTRACK_MAX: BIG, CONNTRACK_BUCKETS: "65536"}), Machine())
    assert (rows[CONNTRACK_MAX], rows[CONNTRACK_BUCKETS]) == ("1000", "65536")


def test_settings_that_are_right_are_not_written_and_need_not_be_writable() -> None:
    kernel = MemoryKernel({FORWARD: "1"})
    kernel.fault = lambda _step: EROFS
    assert make_settings(kernel, {FORWARD: "1"}) == {FORWARD: "1"}
    assert kernel.applied == []


def test_all_settings_that_cannot_be_made_are_named_at_once() -> None:
    kernel = SayingKernel({FORWARD: "0"})
    kernel.fault = lambda _step: EROFS
    with pytest.raises(KernelError) as raised:
        make_settings(kernel, {FORWARD: "1", CONNTRACK_MAX: "5", CONNTRACK_BUCKETS: "6"})
    assert str(raised.value) == f"{FORWARD}=1; {CONNTRACK_MAX}=5"


def test_a_hash_table_that_stays_small_is_no_reason_to_end() -> None:
    kernel = SayingKernel({FORWARD: "0", CONNTRACK_BUCKETS: "4"})
    kernel.fault = lambda step: EROFS if step.key == CONNTRACK_BUCKETS else 0
    assert make_settings(kernel, {FORWARD: "1", CONNTRACK_BUCKETS: "6"}) == {FORWARD: "1"}


def test_what_the_kernel_rounds_is_kept_as_it_says() -> None:
    class Rounding(MemoryKernel):
        def read(self, scope: object) -> Rows:
            return {key: "512" if spec == "250" else spec for key, spec in self.rows.items()}

    assert make_settings(Rounding({}), {CONNTRACK_BUCKETS: "250"}) == {CONNTRACK_BUCKETS: "512"}


class SayingKernel(MemoryKernel):
    """Its failures say which setting was to become what."""

    def apply(self, plan):  # type: ignore[no-untyped-def]
        outcome = super().apply(plan)
        failed = (StepFailure(each.step, each.errno, f"{each.step.key}={each.step.spec}") for each in outcome.failed)
        return type(outcome)(tuple(failed))


class Ipvs:
    """Knows the *schedulers*, and has *servers*."""

    def __init__(self, schedulers: set[str], servers: dict[VirtualServer, str] | None = None) -> None:
        self.schedulers = schedulers
        self.servers = servers or {}
        self.done: list[str] = []

    def virtual_servers(self) -> list[Rows]:
        return [{key: VirtualServerSpec(scheduler)} for key, scheduler in self.servers.items()]

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        for step in steps:
            self.done.append(f"{step.verb} {step.key}")
            if isinstance(step.spec, VirtualServerSpec) and step.spec.scheduler not in self.schedulers:
                return [StepFailure(step, ENOENT, "no such scheduler")]
        return []


def test_a_scheduler_is_tried_by_a_virtual_server_that_goes_again() -> None:
    ipvs = Ipvs({"rr"})
    check_scheduler(ipvs, "rr")
    assert ipvs.done == [f"add {PROBE}", f"delete {PROBE}"]


def test_a_scheduler_in_use_is_proof_enough() -> None:
    ipvs = Ipvs(set(), {VirtualServer("10.96.0.10", 80, "TCP"): "lc"})
    check_scheduler(ipvs, "lc")
    assert ipvs.done == []


def test_a_probe_that_was_left_behind_is_no_proof_and_goes() -> None:
    ipvs = Ipvs({"rr"}, {PROBE: "rr"})
    check_scheduler(ipvs, "rr")
    assert ipvs.done[-1] == f"delete {PROBE}"


def test_a_scheduler_that_is_missing_is_named_with_what_to_do() -> None:
    with pytest.raises(KernelError, match=r"scheduler sed: no such scheduler \(install .* another ipvs.scheduler"):
        check_scheduler(Ipvs({"rr"}), "sed")


def test_pod_networks_of_a_family_that_is_not_served_are_refused() -> None:
    config = load({"cluster-cidr": "fd00::/56"}).config
    check_pod_networks(config, ("IPv4", "IPv6"))
    with pytest.raises(ConfigError, match="clusterCIDR: fd00::/56: this host serves IPv4 alone"):
        check_pod_networks(config, ("IPv4",))


def test_timeouts_are_whole_seconds() -> None:
    config = load({"ipvs-tcp-timeout": "15m", "ipvs-udp-timeout": "1500ms"}).config
    assert timeouts_of(config) == Timeouts(900, 0, 1)


def test_the_oom_score_is_written_if_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "score"
    path.write_text("0\n")
    set_oom_score(-999, path)
    assert path.read_text() == "-999"
    set_oom_score(-999, tmp_path / "none")  # told, and no more
