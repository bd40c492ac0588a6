"""Every kind of row: added, updated, deleted, read back, repeated, and what it depends on."""

from errno import EBUSY, EINVAL, ENODEV, ENOENT, ESRCH

import pytest

from kubeproxy_py.kernel import Kernel, scope_of
from kubeproxy_py.kernel.ipset.constants import IPSET_ERR_BUSY
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import (
    IPVS_DEVICE,
    Address,
    Chain,
    ChainSpec,
    Connections,
    IpsetEntry,
    Key,
    RealServer,
    RealServerSpec,
    Rows,
    Spec,
    VirtualServer,
)
from kubeproxy_py.plan.plan import make_plan
from tests.contract.contract import (
    ADDRESS,
    CLUSTER_IP,
    DEVICE,
    ENTRY,
    FORWARD,
    HTTP,
    HTTP_6,
    MARK,
    MARK_SPEC,
    OTHER_ROWS,
    PLAIN,
    POD,
    PORTALS,
    PORTALS_SPEC,
    PORTS_SPEC,
    SERVICES,
    SETS,
    SYSCTL,
    EveryRow,
    EveryRowThatChanges,
    add,
    bring_to,
    carry_out,
    delete,
    for_each,
    for_each_with_another_spec,
    rows_of,
    update,
)


@for_each(OTHER_ROWS)
class TestRow(EveryRow):
    pass


@for_each_with_another_spec(OTHER_ROWS)
class TestRowThatChanges(EveryRowThatChanges):
    pass


@pytest.mark.parametrize(
    ("key", "spec", "errno"),
    [
        (ENTRY, None, ENOENT),
        (POD, RealServerSpec(1), ESRCH),
        (ADDRESS, None, ENODEV),
        (PORTALS, PORTALS_SPEC, ENOENT),
        (SERVICES, ChainSpec(("-j KUBE-MARK-MASQ",)), ENOENT),
        (SERVICES, ChainSpec(("-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT",)), EINVAL),
    ],
    ids=str,
)
def test_adding_a_row_without_its_dependency_fails(kernel: Kernel, key: Key, spec: Spec, errno: int) -> None:
    assert carry_out(kernel, [add(key, spec)]) == {key: errno}
    assert rows_of(kernel, key) == {}


@pytest.mark.parametrize(
    ("key", "spec", "errno"),
    [(HTTP, PLAIN, ESRCH), (HTTP_6, PLAIN, ESRCH)],
    ids=str,
)
def test_updating_a_missing_virtual_server_fails(kernel: Kernel, key: Key, spec: Spec, errno: int) -> None:
    assert carry_out(kernel, [update(key, spec, spec)]) == {key: errno}


def test_updating_a_missing_real_server_fails(kernel: Kernel) -> None:
    bring_to(kernel, {HTTP: PLAIN})
    assert carry_out(kernel, [update(POD, RealServerSpec(0), RealServerSpec(1))]) == {POD: ENOENT}


def test_updating_a_real_server_of_a_missing_virtual_server_fails(kernel: Kernel) -> None:
    assert carry_out(kernel, [update(POD, RealServerSpec(0), RealServerSpec(1))]) == {POD: ESRCH}


@pytest.mark.parametrize(
    ("key", "spec", "existing"),
    [(CLUSTER_IP, PORTS_SPEC, {}), (MARK, MARK_SPEC, {}), (PORTALS, PORTALS_SPEC, {SERVICES: ChainSpec(())})],
    ids=str,
)
def test_updating_a_missing_set_chain_or_jump_creates_it(kernel: Kernel, key: Key, spec: Spec, existing: Rows) -> None:
    bring_to(kernel, existing)
    assert carry_out(kernel, [update(key, spec, spec)]) == {}
    assert rows_of(kernel, key) == {**existing, key: spec}


_SET_RULE = ChainSpec(("-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT",))


@pytest.mark.parametrize(
    ("key", "user", "user_spec", "errno"),
    [
        (CLUSTER_IP, SERVICES, _SET_RULE, IPSET_ERR_BUSY),
        (MARK, SERVICES, ChainSpec(("-j KUBE-MARK-MASQ",)), EBUSY),
        (SERVICES, PORTALS, PORTALS_SPEC, EBUSY),
    ],
    ids=str,
)
def test_deleting_a_row_that_another_refers_to_fails(
    kernel: Kernel, key: Key, user: Key, user_spec: Spec, errno: int
) -> None:
    specs: Rows = {CLUSTER_IP: PORTS_SPEC, MARK: MARK_SPEC, SERVICES: ChainSpec(())}
    rows: Rows = {key: specs[key], user: user_spec}
    bring_to(kernel, rows)
    assert carry_out(kernel, [delete(key, specs[key])]) == {key: errno}
    assert rows_of(kernel, *rows) == rows


@pytest.mark.parametrize(
    ("container", "spec", "contents"),
    [
        (DEVICE, None, {ADDRESS: None}),
        (CLUSTER_IP, PORTS_SPEC, {ENTRY: None}),
        (HTTP, PLAIN, {POD: RealServerSpec(1)}),
    ],
    ids=str,
)
def test_deleting_a_row_deletes_its_contents(kernel: Kernel, container: Key, spec: Spec, contents: Rows) -> None:
    bring_to(kernel, {container: spec, **contents})
    assert carry_out(kernel, [delete(container, spec)]) == {}
    assert rows_of(kernel, container) == {}


def test_a_failing_step_does_not_affect_others(kernel: Kernel) -> None:
    existing: Rows = {DEVICE: None, CLUSTER_IP: PORTS_SPEC}
    bring_to(kernel, existing)
    bad_chain = ChainSpec(("-m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE",))
    good: Rows = {
        MARK: MARK_SPEC,
        FORWARD: ChainSpec(("-j ACCEPT",)),
        ENTRY: None,
        HTTP: PLAIN,
        POD: RealServerSpec(1),
        ADDRESS: None,
    }
    bad: Rows = {
        Chain("IPv4", "nat", "KUBE-POSTROUTING"): bad_chain,
        IpsetEntry("KUBE-LOOP-BACK", "10.0.0.1,tcp:1,10.0.0.1"): None,
        RealServer(HTTP_6, "fd00::1", 1): RealServerSpec(1),
    }
    plan = make_plan({**existing, **bad, **good}, existing)
    assert carry_out(kernel, plan.steps).keys() == bad.keys()
    assert rows_of(kernel) == {**existing, **good}


def test_scopes_do_not_overlap_and_contain_every_row(kernel: Kernel) -> None:
    rows: Rows = {}
    for sample in SETS + OTHER_ROWS:
        rows |= {**sample.dependencies, sample.key: sample.spec}
    bring_to(kernel, rows)
    rows_and_scopes = [(key, scope) for scope in kernel.scopes() for key in kernel.read(scope)]
    assert sorted(str(key) for key, _ in rows_and_scopes) == sorted(str(key) for key in {**rows, SYSCTL: ""})
    assert [scope for key, scope in rows_and_scopes] == [scope_of(key) for key, _ in rows_and_scopes]


def test_a_sysctl_reads_back_as_written(kernel: Kernel) -> None:
    assert kernel.read(scope_of(SYSCTL)) == {SYSCTL: "0"}
    assert carry_out(kernel, [update(SYSCTL, "1", "0")]) == {}
    assert kernel.read(scope_of(SYSCTL)) == {SYSCTL: "1"}


def test_deleting_a_sysctl_leaves_its_value(kernel: Kernel) -> None:
    assert carry_out(kernel, [delete(SYSCTL, "0")]) == {}
    assert kernel.read(scope_of(SYSCTL)) == {SYSCTL: "0"}


def test_addresses_on_the_device_are_host_addresses(kernel: Kernel) -> None:
    bring_to(kernel, {DEVICE: None, ADDRESS: None, Address("fd00:10:96::a"): None})
    on_device = [address for address in kernel.host_addresses() if address.interface == IPVS_DEVICE]
    assert on_device == [HostAddress(IPVS_DEVICE, "10.96.0.10", 32), HostAddress(IPVS_DEVICE, "fd00:10:96::a", 128)]


def test_connections_of_an_idle_real_server_are_zero(kernel: Kernel) -> None:
    bring_to(kernel, {HTTP: PLAIN, POD: RealServerSpec(1)})
    assert kernel.connections([HTTP]) == {POD: Connections(0, 0)}


def test_connections_of_a_missing_virtual_server_are_left_out(kernel: Kernel) -> None:
    bring_to(kernel, {HTTP: PLAIN, POD: RealServerSpec(1)})
    assert kernel.connections([VirtualServer("10.96.0.99", 80, "TCP"), HTTP]) == {POD: Connections(0, 0)}


def test_idle_returns_the_real_servers_that_exist_without_connections(kernel: Kernel) -> None:
    bring_to(kernel, {HTTP: PLAIN, POD: RealServerSpec(0)})
    missing = RealServer(HTTP, POD.address, POD.port + 1)
    of_missing_server = RealServer(VirtualServer("10.96.0.99", 80, "TCP"), POD.address, POD.port)
    assert kernel.idle([POD, missing, of_missing_server]) == {POD}
    assert kernel.idle([]) == set()


def test_a_new_kernel_has_no_rows(kernel: Kernel) -> None:
    assert rows_of(kernel) == {}
