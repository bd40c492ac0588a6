"""What the contract tests share: helpers for any kernel, a sample of each kind of row, tests for every sample."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from kubeproxy_py.kernel import Kernel, read_all, scope_of
from kubeproxy_py.kernel.iptables.backend import detect_backend, find_commands
from kubeproxy_py.kernel.iptables.libiptc import LibiptcAdapter
from kubeproxy_py.kernel.iptables.text import POLICY_TABLES
from kubeproxy_py.kernel.linux import LinuxKernel
from kubeproxy_py.model.rows import (
    IPVS_DEVICE,
    Address,
    Chain,
    ChainSpec,
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Jump,
    JumpSpec,
    Key,
    Link,
    LoopbackPath,
    LoopbackSpec,
    MarkSpec,
    PolicyEntry,
    RealServer,
    RealServerSpec,
    ReturnTunnel,
    Rows,
    Spec,
    Sysctl,
    TunnelSpec,
    VirtualServer,
    VirtualServerSpec,
    mark_server,
)
from kubeproxy_py.model.steps import Plan, Step
from kubeproxy_py.net import FAMILIES
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.reconcile.fingerprints import readable_of
from tests.host_tools.recorded_tables import private_network

LINUX = pytest.param("linux", marks=pytest.mark.kernel)
LINUX_IPSET_COMMAND = pytest.param("linux, ipset command", marks=pytest.mark.kernel)
LINUX_LIBIPTC = pytest.param("linux, libiptc", marks=pytest.mark.kernel)

SYSCTL = Sysctl("net/ipv4/ip_forward")
DEVICE = Link(IPVS_DEVICE)
MARK = Chain("IPv4", "nat", "KUBE-MARK-MASQ")
SERVICES = Chain("IPv4", "nat", "KUBE-SERVICES")
FORWARD = Chain("IPv6", "filter", "KUBE-FORWARD")
PORTALS = Jump("IPv4", "nat", "OUTPUT", "KUBE-SERVICES")
CLUSTER_IP, CLUSTER_IP_6 = Ipset("KUBE-CLUSTER-IP"), Ipset("KUBE-6-CLUSTER-IP")
NODE_PORTS = Ipset("KUBE-NODE-PORT-TCP")
HTTP, HTTP_6 = VirtualServer("10.96.0.10", 80, "TCP"), VirtualServer("fd00:10:96::a", 80, "TCP")
POD, POD_6 = RealServer(HTTP, "10.244.1.5", 8080), RealServer(HTTP_6, "fd00:10:244:1::5", 8080)
ADDRESS, ADDRESS_6 = Address("10.96.0.10"), Address("fd00:10:96::a")
ENTRY = IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80")
BY_MARK, BY_MARK_6 = mark_server("IPv4", 0x2002), mark_server("IPv6", 0x2002)
POD_BY_MARK, POD_BY_MARK_6 = RealServer(BY_MARK, "10.244.1.5", 8080), RealServer(BY_MARK_6, "fd00:10:244:1::5", 8080)
INSIDE, INSIDE_6 = Ipset("KUBE-PY-INSIDE"), Ipset("KUBE-6-PY-INSIDE")
MARKED_FRONT = PolicyEntry("KUBE-PY-INSIDE", "203.0.113.7,tcp:80")
MARKED_FRONT_6 = PolicyEntry("KUBE-6-PY-INSIDE", "2001:db8::7,udp:53")
POLICY_OUTPUT = Chain("IPv4", "mangle", "KUBE-PY-OUTPUT")

PORTALS_SPEC = JumpSpec('-m comment --comment "kubernetes service portals" -j KUBE-SERVICES')
PORTS_SPEC, LARGER_SPEC = (IpsetSpec("hash:ip,port", "IPv4", maxelem=size) for size in (65536, 131072))
MARK_SPEC = ChainSpec(("-j MARK --set-xmark 0x4000/0x4000",))
MARKS_SPEC, MARKS_SPEC_6 = IpsetSpec("hash:ip,port skbinfo", "IPv4"), IpsetSpec("hash:ip,port skbinfo", "IPv6")
SET_MARK = "-j SET --map-set KUBE-PY-INSIDE dst,dst --map-mark"
PERSISTENT = VirtualServerSpec("rr", 1, 600)
PLAIN = VirtualServerSpec()


class Sample(Struct, frozen=True):
    """A row, another spec that it may have, and the rows that it depends on."""

    key: Key
    spec: Spec = None
    other: Spec = None
    dependencies: Rows = {}

    def __str__(self) -> str:
        return f"{type(self.key).__name__} {self.key}"


SETS = (
    Sample(CLUSTER_IP, PORTS_SPEC, LARGER_SPEC),
    Sample(CLUSTER_IP_6, IpsetSpec("hash:ip,port", "IPv6"), IpsetSpec("hash:ip", "IPv6")),
    Sample(NODE_PORTS, IpsetSpec("bitmap:port", None), IpsetSpec("hash:ip,port", "IPv4")),
    Sample(ENTRY, dependencies={CLUSTER_IP: PORTS_SPEC}),
    Sample(INSIDE, MARKS_SPEC, IpsetSpec("hash:ip,port", "IPv4")),
    Sample(MARKED_FRONT, MarkSpec(0x2002), dependencies={INSIDE: MARKS_SPEC}),
    Sample(MARKED_FRONT_6, MarkSpec(0x3FFF), dependencies={INSIDE_6: MARKS_SPEC_6}),
)
OTHER_ROWS = (
    Sample(DEVICE),
    Sample(MARK, MARK_SPEC, ChainSpec(("-p tcp -j RETURN",))),
    Sample(FORWARD, ChainSpec(()), ChainSpec(("-j ACCEPT",))),
    Sample(PORTALS, PORTALS_SPEC, dependencies={SERVICES: ChainSpec(())}),
    Sample(POLICY_OUTPUT, ChainSpec(("-m mark ! --mark 0x2000/0x2000 -j DROP",)), ChainSpec(())),
    Sample(
        Jump("IPv4", "mangle", "OUTPUT", "KUBE-PY-OUTPUT"),
        JumpSpec('-m comment --comment "kubeproxy-py exact policies" -j KUBE-PY-OUTPUT'),
        dependencies={POLICY_OUTPUT: ChainSpec(())},
    ),
    Sample(BY_MARK, PLAIN, VirtualServerSpec("sh", 0x28)),
    Sample(BY_MARK_6, VirtualServerSpec("rr", 0x20), PLAIN),
    Sample(POD_BY_MARK, RealServerSpec(1), RealServerSpec(0), {BY_MARK: PLAIN}),
    Sample(POD_BY_MARK_6, RealServerSpec(1), RealServerSpec(0), {BY_MARK_6: PLAIN}),
    Sample(HTTP, PLAIN, PERSISTENT),
    Sample(VirtualServer("10.96.0.10", 53, "UDP"), PLAIN, VirtualServerSpec("lc")),
    Sample(VirtualServer("10.96.0.10", 9000, "SCTP"), VirtualServerSpec("mh", 16), PLAIN),
    Sample(HTTP_6, PERSISTENT, PLAIN),
    Sample(POD, RealServerSpec(1), RealServerSpec(0), {HTTP: PLAIN}),
    Sample(POD_6, RealServerSpec(1), RealServerSpec(0), {HTTP_6: PLAIN}),
    Sample(LoopbackPath("IPv4"), LoopbackSpec("127.0.0.1", "30000-32767"), LoopbackSpec("127.0.0.1", "20000-22767")),
    Sample(LoopbackPath("IPv6"), LoopbackSpec("::1", "30000-32767"), LoopbackSpec("::1", "20000-22767")),
    Sample(ReturnTunnel("IPv4"), TunnelSpec("192.168.3.10"), TunnelSpec("192.168.3.11")),
    Sample(ReturnTunnel("IPv6"), TunnelSpec("fd00:3::10"), TunnelSpec("fd00:3::11")),
    Sample(ADDRESS, dependencies={DEVICE: None}),
    Sample(ADDRESS_6, dependencies={DEVICE: None}),
)


def add(key: Key, spec: Spec = None) -> Step:
    return Step("add", key, spec)


def update(key: Key, spec: Spec, before: Spec) -> Step:
    return Step("update", key, spec, before)


def delete(key: Key, before: Spec = None) -> Step:
    return Step("delete", key, None, before)


def carry_out(kernel: Kernel, steps: Sequence[Step]) -> dict[Key, int]:
    """Apply *steps*; return the keys of those that failed, with their errno."""
    return {failure.step.key: failure.errno for failure in kernel.apply(Plan(tuple(steps))).failures}


def bring_to(kernel: Kernel, rows: Rows, before: Rows | None = None) -> None:
    """Bring a kernel whose rows are *before* (default: none) to *rows*, as the agent would."""
    assert not kernel.apply(make_plan(rows, before or {})).failures


def rows_of(kernel: Kernel, *keys: Key) -> Rows:
    """Return the rows of the scopes of *keys*, or of all scopes without sysctls, which always exist.

    Reading all scopes costs some 40 messages and 4 processes, which adds up where a process costs 50 ms.
    """
    if not keys:
        return {key: spec for key, spec in read_all(kernel).items() if not isinstance(key, Sysctl)}
    return {key: spec for scope in {scope_of(key) for key in keys} for key, spec in kernel.read(scope).items()}


class EveryRow:
    """Tests for every kind of row; a subclass chooses the samples."""

    def test_an_added_row_reads_back_equal(self, kernel: Kernel, sample: Sample) -> None:
        bring_to(kernel, sample.dependencies)
        assert carry_out(kernel, [add(sample.key, sample.spec)]) == {}
        assert rows_of(kernel, sample.key) == {**sample.dependencies, sample.key: sample.spec}

    def test_adding_an_existing_row_changes_nothing(self, kernel: Kernel, sample: Sample) -> None:
        bring_to(kernel, {**sample.dependencies, sample.key: sample.spec})
        assert carry_out(kernel, [add(sample.key, sample.spec)]) == {}
        assert rows_of(kernel, sample.key) == {**sample.dependencies, sample.key: sample.spec}

    def test_a_deleted_row_no_longer_exists(self, kernel: Kernel, sample: Sample) -> None:
        bring_to(kernel, {**sample.dependencies, sample.key: sample.spec})
        assert carry_out(kernel, [delete(sample.key, sample.spec)]) == {}
        assert rows_of(kernel, sample.key) == sample.dependencies

    def test_deleting_a_missing_row_succeeds(self, kernel: Kernel, sample: Sample) -> None:
        bring_to(kernel, sample.dependencies)
        assert carry_out(kernel, [delete(sample.key, sample.spec)]) == {}
        assert rows_of(kernel, sample.key) == sample.dependencies

    def test_the_fingerprint_changes_only_when_the_row_is_added_or_deleted(
        self, kernel: Kernel, sample: Sample
    ) -> None:
        bring_to(kernel, sample.dependencies)
        absent = fingerprint_of(kernel, sample)
        assert fingerprint_of(kernel, sample) == absent
        carry_out(kernel, [add(sample.key, sample.spec)])
        present = fingerprint_of(kernel, sample)
        assert (present == fingerprint_of(kernel, sample), present == absent) == (True, False)
        assert sample.key in kernel.snapshot(readable_of(sample.key)).rows()
        carry_out(kernel, [delete(sample.key, sample.spec)])
        assert fingerprint_of(kernel, sample) != present
        assert sample.key not in kernel.snapshot(readable_of(sample.key)).rows()


class EveryRowThatChanges:
    """Tests for the kinds of rows that have a spec."""

    def test_an_updated_row_has_the_new_spec(self, kernel: Kernel, sample: Sample) -> None:
        bring_to(kernel, {**sample.dependencies, sample.key: sample.spec})
        assert carry_out(kernel, [update(sample.key, sample.other, sample.spec)]) == {}
        assert rows_of(kernel, sample.key) == {**sample.dependencies, sample.key: sample.other}

    def test_adding_an_existing_row_updates_its_spec(self, kernel: Kernel, sample: Sample) -> None:
        bring_to(kernel, {**sample.dependencies, sample.key: sample.spec})
        assert carry_out(kernel, [add(sample.key, sample.other)]) == {}
        assert rows_of(kernel, sample.key) == {**sample.dependencies, sample.key: sample.other}

    def test_the_fingerprint_changes_with_the_spec(self, kernel: Kernel, sample: Sample) -> None:
        bring_to(kernel, {**sample.dependencies, sample.key: sample.spec})
        before = fingerprint_of(kernel, sample)
        carry_out(kernel, [update(sample.key, sample.other, sample.spec)])
        assert fingerprint_of(kernel, sample) != before


def fingerprint_of(kernel: Kernel, sample: Sample) -> int:
    fingerprint = kernel.fingerprint(readable_of(sample.key))
    assert fingerprint == kernel.snapshot(readable_of(sample.key)).fingerprint()
    return fingerprint


def for_each(samples: Sequence[Sample]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sample", samples, ids=str)


def for_each_with_another_spec(samples: Sequence[Sample]) -> pytest.MarkDecorator:
    return for_each([sample for sample in samples if sample.other is not None])


_backend = functools.cache(detect_backend)  # it asks for modules, which runs programs where there is none


@contextmanager
def linux_kernel(
    *, use_ipset_command: bool = False, use_libiptc: bool = False, policies: bool = True
) -> Iterator[LinuxKernel]:
    """LinuxKernel in a network namespace of its own; fails, instead of skipping, where there is no IPVS."""
    if not Path("/proc/net/ip_vs").exists():
        pytest.fail("this kernel has no IPVS; hint: python3 -m lab run -- ...", pytrace=False)
    with private_network():
        commands = [program for family in FAMILIES if (program := find_commands(_backend(), family))]
        rules = LibiptcAdapter(commands, "legacy", POLICY_TABLES) if use_libiptc else None
        kernel = LinuxKernel(
            commands,
            sysctls=[SYSCTL.path],
            use_ipset_command=use_ipset_command,
            rules_adapter=rules,
            policies=policies,
        )
        try:
            yield kernel
        finally:
            kernel.close()
