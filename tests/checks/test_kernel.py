"""The check of the kernel: which versions and settings are found, which are not, and what is advised."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeproxy_py.checks.all_checks import REASONS
from kubeproxy_py.checks.kernel import ESTIMATION_S, STALL_MAX_S, check_kernel
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.kernel.kernel_facts import count_connections, read_kernel_facts
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.host_facts import CONNECTIONS_PER_BUCKET_MAX, ConntrackFacts, HostFacts, KernelFacts

Version = tuple[int, int, int]

MANY = int(STALL_MAX_S / ESTIMATION_S) + 1  # servers that stall a host with one CPU for too long
FULL = CONNECTIONS_PER_BUCKET_MAX * 4096


def find(
    version: Version, *, servers: int = 0, tracked: int = 0, settings: dict[str, int] | None = None, **facts: object
) -> list[Finding]:
    kernel = KernelFacts(version=version, ipvs_settings=settings or {}, **facts)  # type: ignore[arg-type]
    host = HostFacts(kernel=kernel, conntrack=ConntrackFacts(tracked, 1 << 20, 0))
    findings = list(check_kernel(Situation(facts=host, servers=servers)))
    assert {finding.reason for finding in findings} <= set(REASONS)
    assert all(finding.subject and finding.message and finding.hint for finding in findings)
    return findings


def reasons(version: Version, **facts: object) -> list[str]:
    return [finding.reason for finding in find(version, **facts)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "mode", "remedy"),
    [
        ((3, 10, 0), None, ""),  # has no such sysctl; host_probe reports that
        ((4, 1, 0), 0, "run Linux 5.9 or later"),
        ((5, 8, 18), 0, "run Linux 5.9 or later"),
        ((5, 8, 18), 1, "run Linux 5.9 or later"),  # until the agent has set it
        ((5, 9, 0), 0, "sysctl -w net.ipv4.vs.conn_reuse_mode=1"),
        ((5, 9, 0), 1, ""),
        ((5, 15, 0), 0, "sysctl -w net.ipv4.vs.conn_reuse_mode=1"),
        ((5, 16, 0), 0, ""),
        ((7, 2, 13), 0, ""),
    ],
)
def test_conn_reuse_mode_is_judged_by_the_version(version: Version, mode: int | None, remedy: str) -> None:
    settings = {} if mode is None else {"conn_reuse_mode": mode}
    findings = find(version, settings=settings)
    assert [finding.reason for finding in findings] == ["SourcePortReuse"] * bool(remedy)
    assert all(remedy in finding.hint for finding in findings)


@pytest.mark.parametrize(
    ("version", "state", "servers", "cpus", "expected"),
    [
        ((6, 1, 0), 1, MANY, 1, ["EstimationStalls"]),
        ((6, 1, 0), 1, MANY // 8, 1, []),
        ((6, 1, 0), 1, MANY // 8, 9, ["EstimationStalls"]),  # its time grows with the CPUs
        ((5, 10, 0), None, MANY, 1, ["EstimationStalls"]),  # cannot be turned off there
        ((6, 1, 0), 0, MANY, 1, []),  # as advised
        ((6, 1, 0), 0, 10, 1, ["EstimationOff"]),
        ((6, 2, 0), 1, MANY, 64, []),  # threads estimate
        ((6, 2, 0), 0, MANY, 64, ["EstimationOff"]),
        ((6, 2, 0), 1, 10, 1, []),
    ],
)
def test_estimation_is_found_where_it_stalls_a_cpu_or_is_off_without_need(
    version: Version, state: int | None, servers: int, cpus: int, expected: list[str]
) -> None:
    settings = {} if state is None else {"run_estimation": state}
    assert reasons(version, settings=settings, servers=servers, cpus=cpus) == expected


def test_estimation_is_advised_to_be_turned_off_only_where_it_can_be() -> None:
    (found,) = find((6, 1, 0), settings={"run_estimation": 1}, servers=MANY)
    assert found.hint.startswith("sysctl -w net.ipv4.vs.run_estimation=0")
    (found,) = find((5, 10, 0), servers=MANY)
    assert found.hint == "run Linux 6.2 or later"


def test_stall_of_the_kernel_s_own_report_is_what_it_measured() -> None:
    (found,) = find((5, 10, 0), servers=50_000, cpus=104)
    assert "50000 virtual and real servers on 104 CPUs" in found.cause
    assert "about 208 ms" in found.message


@pytest.mark.parametrize(("connections", "buckets", "found"), [(FULL, 4096, 0), (FULL + 1, 4096, 1), (0, 0, 0)])
def test_table_that_is_small_for_its_connections_is_found(connections: int, buckets: int, found: int) -> None:
    facts = {"connections": connections, "connection_buckets": buckets}
    assert reasons((6, 1, 0), **facts) == ["ConnectionTableSmall"] * found


@pytest.mark.parametrize(("tracked", "bits"), [(FULL, 16), (600_000, 20), (5_000_000, 20)])
def test_table_is_advised_to_have_a_bucket_for_each_tracked_connection(tracked: int, bits: int) -> None:
    (found,) = find((6, 1, 0), connections=FULL + 1, connection_buckets=4096, tracked=tracked)
    assert f"conn_tab_bits={bits}'" in found.hint


@pytest.mark.parametrize(
    ("version", "legacy", "has_nf_tables", "found"),
    [
        ((6, 17, 0), True, True, True),
        ((6, 17, 0), False, True, False),
        ((6, 17, 0), True, False, False),  # there is nothing else to use
        ((6, 16, 9), True, True, False),
    ],
)
def test_legacy_tables_are_found_where_the_next_kernel_may_lack_them(
    version: Version, legacy: bool, has_nf_tables: bool, found: bool
) -> None:
    expected = ["LegacyTablesDeprecated"] * found
    assert reasons(version, legacy=legacy, has_nf_tables=has_nf_tables) == expected


# Facts


class Root:
    """A folder in place of /proc and /sys, of Linux 6.1 with IPVS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("proc/sys/kernel/osrelease", "6.1.176")
        self.write("sys/module/ip_vs/parameters/conn_tab_bits", "8")
        self.write("proc/sys/net/ipv4/vs/conn_reuse_mode", "1")

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def facts(self, tracked: int | None = None) -> KernelFacts:
        conntrack = None if tracked is None else ConntrackFacts(tracked, 1 << 20, 0)
        return read_kernel_facts(conntrack, legacy=True, root=self.folder)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_version_settings_and_sizes_are_read(root: Root) -> None:
    (root.folder / "sys/module/nf_tables").mkdir()
    root.write("proc/sys/net/ipv4/vs/run_estimation", "0")
    facts = root.facts()
    assert (facts.version, facts.connection_buckets) == ((6, 1, 176), 256)
    assert facts.ipvs_settings == {"conn_reuse_mode": 1, "run_estimation": 0}
    assert (facts.legacy, facts.has_nf_tables, facts.cpus > 0) == (True, True, True)


def test_kernel_without_ipvs_has_no_settings(tmp_path: Path) -> None:
    facts = read_kernel_facts(None, legacy=False, root=tmp_path)
    assert (facts.ipvs_settings, facts.connection_buckets, facts.connections) == ({}, 0, 0)


@pytest.mark.parametrize(("tracked", "counted"), [(None, 0), (2048, 0), (2049, 2049)])
def test_connections_are_counted_only_if_they_may_fill_the_table_and_no_further(
    tracked: int | None, counted: int, root: Root
) -> None:
    root.write("proc/net/ip_vs_conn", "Pro FromIP\n" + "TCP C0A80001\n" * 4000)
    assert root.facts(tracked).connections == counted


def test_connections_are_counted_without_the_heading(root: Root) -> None:
    root.write("proc/net/ip_vs_conn", "Pro FromIP\nTCP C0A80001\nUDP C0A80001")
    assert [count_connections(root.folder, enough) for enough in (1, 2, 9)] == [1, 2, 2]
