"""What the tests of the contract share: the words to speak to any kernel, and a sample of each kind of row."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from kubeproxy_py.kernel import Kernel, read_all, scope_of
from kubeproxy_py.kernel.iptables.backend import choose_flavour, programs
from kubeproxy_py.kernel.iptables.libiptc import LibiptcAdapter
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
    RealServer,
    RealServerSpec,
    Rows,
    Spec,
    Sysctl,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.services import FAMILIES
from kubeproxy_py.model.steps import Plan, Step
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.reconcile.fingerprints import part_of
from tests.host_tools.tables_of_a_node import network_of_ones_own

# MemoryKernel refuses these where Linux does not, or says otherwise why; Linux wins, memory.py is to follow.
LINUX = pytest.param("linux", marks=pytest.mark.kernel)
LINUX_BY_TOOL = pytest.param("linux, sets by tool", marks=pytest.mark.kernel)
LINUX_BY_LIBIPTC = pytest.param("linux, rules by libiptc", marks=pytest.mark.kernel)

SETTING = Sysctl("net/ipv4/ip_forward")
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

PORTALS_SPEC = JumpSpec('-m comment --comment "kubernetes service portals" -j KUBE-SERVICES')
PORTS_SPEC, LARGER_SPEC = (IpsetSpec("hash:ip,port", "IPv4", maxelem=size) for size in (65536, 131072))
MARK_SPEC = ChainSpec(("-j MARK --set-xmark 0x4000/0x4000",))
PERSISTENT = VirtualServerSpec("rr", 1, 600)
PLAIN = VirtualServerSpec()


class Sample(Struct, frozen=True):
    """A row, another spec that it may have, and the rows that it needs."""

    key: Key
    spec: Spec = None
    other: Spec = None
    needs: Rows = {}

    def __str__(self) -> str:
        return f"{type(self.key).__name__} {self.key}"


SETS = (
    Sample(CLUSTER_IP, PORTS_SPEC, LARGER_SPEC),
    Sample(CLUSTER_IP_6, IpsetSpec("hash:ip,port", "IPv6"), IpsetSpec("hash:ip", "IPv6")),
    Sample(NODE_PORTS, IpsetSpec("bitmap:port", None), IpsetSpec("hash:ip,port", "IPv4")),
    Sample(ENTRY, needs={CLUSTER_IP: PORTS_SPEC}),
)
OTHERS = (
    Sample(DEVICE),
    Sample(MARK, MARK_SPEC, ChainSpec(("-p tcp -j RETURN",))),
    Sample(FORWARD, ChainSpec(()), ChainSpec(("-j ACCEPT",))),
    Sample(PORTALS, PORTALS_SPEC, needs={SERVICES: ChainSpec(())}),
    Sample(HTTP, PLAIN, PERSISTENT),
    Sample(VirtualServer("10.96.0.10", 53, "UDP"), PLAIN, VirtualServerSpec("lc")),
    Sample(VirtualServer("10.96.0.10", 9000, "SCTP"), VirtualServerSpec("mh", 16), PLAIN),
    Sample(HTTP_6, PERSISTENT, PLAIN),
    Sample(POD, RealServerSpec(1), RealServerSpec(0), {HTTP: PLAIN}),
    Sample(POD_6, RealServerSpec(1), RealServerSpec(0), {HTTP_6: PLAIN}),
    Sample(ADDRESS, needs={DEVICE: None}),
    Sample(ADDRESS_6, needs={DEVICE: None}),
)


def add(key: Key, spec: Spec = None) -> Step:
    return Step("add", key, spec)


def update(key: Key, spec: Spec, before: Spec) -> Step:
    return Step("update", key, spec, before)


def delete(key: Key, before: Spec = None) -> Step:
    return Step("delete", key, None, before)


def carry_out(kernel: Kernel, steps: Sequence[Step]) -> dict[Key, int]:
    """Apply *steps*: the keys of those that failed, with their errno."""
    return {failed.step.key: failed.errno for failed in kernel.apply(Plan(tuple(steps))).failed}


def make(kernel: Kernel, rows: Rows, before: Rows | None = None) -> None:
    """Bring a kernel that holds just *before* (nothing) to *rows*, as the agent would."""
    assert not kernel.apply(make_plan(rows, before or {})).failed


def rows_of(kernel: Kernel, *keys: Key) -> Rows:
    """The rows of the scopes in which *keys* lie, or of all scopes; without settings, which are always there.

    Reading all costs some 40 messages and 4 processes, which adds up where a process costs 50 ms.
    """
    if not keys:
        return {key: spec for key, spec in read_all(kernel).items() if not isinstance(key, Sysctl)}
    return {key: spec for scope in {scope_of(key) for key in keys} for key, spec in kernel.read(scope).items()}


class EveryRow:
    """What holds for every kind of row; a subclass says for which samples."""

    def test_a_row_that_is_added_reads_back_equal(self, kernel: Kernel, sample: Sample) -> None:
        make(kernel, sample.needs)
        assert carry_out(kernel, [add(sample.key, sample.spec)]) == {}
        assert rows_of(kernel, sample.key) == {**sample.needs, sample.key: sample.spec}

    def test_a_row_that_is_added_twice_is_there_once(self, kernel: Kernel, sample: Sample) -> None:
        make(kernel, {**sample.needs, sample.key: sample.spec})
        assert carry_out(kernel, [add(sample.key, sample.spec)]) == {}
        assert rows_of(kernel, sample.key) == {**sample.needs, sample.key: sample.spec}

    def test_a_row_that_is_deleted_is_gone(self, kernel: Kernel, sample: Sample) -> None:
        make(kernel, {**sample.needs, sample.key: sample.spec})
        assert carry_out(kernel, [delete(sample.key, sample.spec)]) == {}
        assert rows_of(kernel, sample.key) == sample.needs

    def test_deleting_what_is_gone_is_done(self, kernel: Kernel, sample: Sample) -> None:
        make(kernel, sample.needs)
        assert carry_out(kernel, [delete(sample.key, sample.spec)]) == {}
        assert rows_of(kernel, sample.key) == sample.needs

    def test_the_seal_of_its_part_stays_until_the_row_comes_or_goes(self, kernel: Kernel, sample: Sample) -> None:
        make(kernel, sample.needs)
        without = seal_of(kernel, sample)
        assert seal_of(kernel, sample) == without
        carry_out(kernel, [add(sample.key, sample.spec)])
        having = seal_of(kernel, sample)
        assert (having == seal_of(kernel, sample), having == without) == (True, False)
        assert sample.key in kernel.snapshot(part_of(sample.key)).rows()
        carry_out(kernel, [delete(sample.key, sample.spec)])
        assert seal_of(kernel, sample) != having
        assert sample.key not in kernel.snapshot(part_of(sample.key)).rows()


class EveryRowThatChanges:
    """What holds for the kinds that have a spec."""

    def test_a_row_that_is_updated_has_the_new_spec(self, kernel: Kernel, sample: Sample) -> None:
        make(kernel, {**sample.needs, sample.key: sample.spec})
        assert carry_out(kernel, [update(sample.key, sample.other, sample.spec)]) == {}
        assert rows_of(kernel, sample.key) == {**sample.needs, sample.key: sample.other}

    def test_an_add_that_meets_its_row_makes_the_spec_true(self, kernel: Kernel, sample: Sample) -> None:
        make(kernel, {**sample.needs, sample.key: sample.spec})
        assert carry_out(kernel, [add(sample.key, sample.other)]) == {}
        assert rows_of(kernel, sample.key) == {**sample.needs, sample.key: sample.other}

    def test_the_seal_of_its_part_tells_a_new_spec(self, kernel: Kernel, sample: Sample) -> None:
        make(kernel, {**sample.needs, sample.key: sample.spec})
        before = seal_of(kernel, sample)
        carry_out(kernel, [update(sample.key, sample.other, sample.spec)])
        assert seal_of(kernel, sample) != before


def seal_of(kernel: Kernel, sample: Sample) -> int:
    seal = kernel.fingerprint(part_of(sample.key))
    assert seal == kernel.snapshot(part_of(sample.key)).fingerprint()
    return seal


def each(samples: Sequence[Sample]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sample", samples, ids=str)


def each_that_changes(samples: Sequence[Sample]) -> pytest.MarkDecorator:
    return each([sample for sample in samples if sample.other is not None])


@contextmanager
def linux_kernel(*, ipset_by_tool: bool = False, by_libiptc: bool = False) -> Iterator[LinuxKernel]:
    """LinuxKernel in a network namespace of its own; a failure, not a skip, where there is no IPVS."""
    if not Path("/proc/net/ip_vs").exists():
        pytest.fail("this kernel has no IPVS; hint: python3 -m lab run -- ...", pytrace=False)
    with network_of_ones_own():
        found = [words for family in FAMILIES if (words := programs(choose_flavour(), family))]
        rules = LibiptcAdapter(found, "legacy") if by_libiptc else None
        kernel = LinuxKernel(found, sysctls=[SETTING.path], ipset_by_tool=ipset_by_tool, rules=rules)
        try:
            yield kernel
        finally:
            kernel.close()
