"""The side-by-side measurement: its programs, command lines and objects, without the real programs."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from bench import __main__ as bench_main
from bench import objects, peers
from bench.inside import agent, beside
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.rows import (
    Address,
    IpsetEntry,
    RealServer,
    RealServerSpec,
    Rows,
    VirtualServer,
    VirtualServerSpec,
)
from lab.job import new_job
from tests.apiserver import ApiServer
from tests.apiserver.client import Client
from tests.apiserver.fake_programs import write_programs
from tests.apiserver.real import OWN_SERVICE_ADDRESS, SERVICE_NETWORK, MissingProgramError


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set both variables to programs in a folder, which is returned."""
    write_programs(tmp_path)
    proxy = tmp_path / "kube-proxy"
    proxy.write_text("#!/bin/sh\n")
    proxy.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("KUBE_PROXY_BIN", str(proxy))
    return tmp_path


def test_programs_are_those_of_the_variables(variables: Path) -> None:
    assert peers.programs() == (variables / "kube-proxy", variables)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("kube-proxy", "KUBE_PROXY_BIN is set, but there is no file"),
        ("etcd", "KUBEBUILDER_ASSETS is set, but there is no file"),
        ("KUBEBUILDER_ASSETS", "KUBE_PROXY_BIN needs the API server that KUBEBUILDER_ASSETS names"),
    ],
)
def test_bench_fails_at_once_where_a_program_is_missing(
    variables: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str, message: str
) -> None:
    if missing == "KUBEBUILDER_ASSETS":
        monkeypatch.delenv(missing)
    else:
        (variables / missing).unlink()
    with pytest.raises(MissingProgramError, match=message):
        peers.programs()
    assert bench_main.main(["--quick"]) == bench_main.FAILED
    assert message in capsys.readouterr().err


def test_programs_below_a_folder_that_the_lab_hides_stay_visible(variables: Path) -> None:
    assert {str(variables), str(variables / "kube-proxy")} <= set(new_job(["/bin/true"]).shared)
    assert str(variables) not in new_job(["/bin/true"], env={}).shared


def test_both_programs_get_the_same_flags() -> None:
    kubeconfig = Path("/k/kubeconfig")
    proxy, own = beside.command(Path("/p/kube-proxy"), kubeconfig), beside.command(None, kubeconfig)
    assert proxy[:2] == ["/p/kube-proxy", "--kubeconfig=/k/kubeconfig"]
    assert "--proxy-mode=ipvs" in proxy
    for name, value in agent.FLAGS.items():
        assert f"--{name}={value}" in proxy
        assert own[own.index(f"--{name}") + 1] == value


def test_objects_are_accepted_by_an_api_server_and_take_no_address_of_its_own() -> None:
    server = ApiServer().start()
    try:
        beside.fill(Client(server.url), 60)
        stored = server.store.snapshot("services")[1]
    finally:
        server.stop()
    assert len(stored) == 60
    network = ip_network(SERVICE_NETWORK)
    of_largest_bench = objects.service(30_000).cluster_ips[0]
    addresses = [each.fields["spec.clusterIP"] for each in stored]
    assert all(ip_address(address) in network for address in [*addresses, of_largest_bench])
    assert OWN_SERVICE_ADDRESS not in addresses
    assert len(set(addresses)) == 60


def rows_of(address: str, endpoints: int) -> Rows:
    """Return the rows by which the kernel's state is checked, of a Service with so many *endpoints*."""
    server = VirtualServer(address, 80, "TCP")
    rows: Rows = {server: VirtualServerSpec("rr"), Address(address): None}
    rows |= {RealServer(server, f"10.128.0.{number}", 8080): RealServerSpec(1) for number in range(endpoints)}
    entries = (IpsetEntry("KUBE-CLUSTER-IP", f"{address},tcp:80"), IpsetEntry("KUBE-IPVS-IPS", address))
    return rows | dict.fromkeys(entries)


def test_service_of_the_api_server_is_not_counted() -> None:
    services = rows_of("10.96.1.1", objects.ENDPOINTS) | rows_of("10.96.1.2", objects.ENDPOINTS)
    with_own = MemoryKernel(services | rows_of(OWN_SERVICE_ADDRESS, 0))
    for kernel in (MemoryKernel(services), with_own):
        assert agent.check_programmed(kernel, 2, besides=OWN_SERVICE_ADDRESS) == len(services)
    with pytest.raises(AssertionError, match="the kernel has"):
        agent.check_programmed(with_own, 2)
    with pytest.raises(AssertionError, match="the kernel has"):
        agent.check_programmed(with_own, 3, besides=OWN_SERVICE_ADDRESS)
