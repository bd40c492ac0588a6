"""Every kind of row: made, changed, removed, read back; twice is once, gone is gone, and who needs whom."""

from errno import EBUSY, EINVAL, ENODEV, ENOENT, ESRCH

import pytest

from kubeproxy_py.kernel import Kernel, scope_of
from kubeproxy_py.kernel.memory import IPSET_ERR_BUSY
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
    OTHERS,
    PLAIN,
    POD,
    PORTALS,
    PORTALS_SPEC,
    PORTS_SPEC,
    SERVICES,
    SETS,
    SETTING,
    EveryRow,
    EveryRowThatChanges,
    add,
    carry_out,
    delete,
    each,
    each_that_changes,
    make,
    rows_of,
    update,
)


@each(OTHERS)
class TestRow(EveryRow):
    pass


@each_that_changes(OTHERS)
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
def test_a_row_without_what_it_needs_is_refused(kernel: Kernel, key: Key, spec: Spec, errno: int) -> None:
    assert carry_out(kernel, [add(key, spec)]) == {key: errno}
    assert rows_of(kernel, key) == {}


@pytest.mark.parametrize(
    ("key", "spec", "errno"),
    [(HTTP, PLAIN, ESRCH), (HTTP_6, PLAIN, ESRCH)],
    ids=str,
)
def test_a_virtual_server_that_is_not_there_can_not_be_changed(
    kernel: Kernel, key: Key, spec: Spec, errno: int
) -> None:
    assert carry_out(kernel, [update(key, spec, spec)]) == {key: errno}


def test_a_real_server_that_is_not_there_can_not_be_changed(kernel: Kernel) -> None:
    make(kernel, {HTTP: PLAIN})
    assert carry_out(kernel, [update(POD, RealServerSpec(0), RealServerSpec(1))]) == {POD: ENOENT}


def test_a_real_server_can_not_be_changed_without_its_virtual_server(kernel: Kernel) -> None:
    assert carry_out(kernel, [update(POD, RealServerSpec(0), RealServerSpec(1))]) == {POD: ESRCH}


@pytest.mark.parametrize(
    ("key", "spec", "there"),
    [(CLUSTER_IP, PORTS_SPEC, {}), (MARK, MARK_SPEC, {}), (PORTALS, PORTALS_SPEC, {SERVICES: ChainSpec(())})],
    ids=str,
)
def test_sets_chains_and_jumps_that_are_not_there_are_made_by_an_update(
    kernel: Kernel, key: Key, spec: Spec, there: Rows
) -> None:
    make(kernel, there)
    assert carry_out(kernel, [update(key, spec, spec)]) == {}
    assert rows_of(kernel, key) == {**there, key: spec}


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
def test_what_another_row_uses_can_not_be_deleted(
    kernel: Kernel, key: Key, user: Key, user_spec: Spec, errno: int
) -> None:
    specs: Rows = {CLUSTER_IP: PORTS_SPEC, MARK: MARK_SPEC, SERVICES: ChainSpec(())}
    rows: Rows = {key: specs[key], user: user_spec}
    make(kernel, rows)
    assert carry_out(kernel, [delete(key, specs[key])]) == {key: errno}
    assert rows_of(kernel, *rows) == rows


@pytest.mark.parametrize(
    ("whole", "spec", "parts"),
    [
        (DEVICE, None, {ADDRESS: None}),
        (CLUSTER_IP, PORTS_SPEC, {ENTRY: None}),
        (HTTP, PLAIN, {POD: RealServerSpec(1)}),
    ],
    ids=str,
)
def test_what_lies_in_a_deleted_row_is_gone_with_it(kernel: Kernel, whole: Key, spec: Spec, parts: Rows) -> None:
    make(kernel, {whole: spec, **parts})
    assert carry_out(kernel, [delete(whole, spec)]) == {}
    assert rows_of(kernel, whole) == {}


def test_one_failing_step_leaves_the_others(kernel: Kernel) -> None:
    there: Rows = {DEVICE: None, CLUSTER_IP: PORTS_SPEC}
    make(kernel, there)
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
    plan = make_plan({**there, **bad, **good}, there)
    assert carry_out(kernel, plan.steps).keys() == bad.keys()
    assert rows_of(kernel) == {**there, **good}


def test_scopes_do_not_overlap_and_hold_every_row(kernel: Kernel) -> None:
    rows: Rows = {}
    for sample in SETS + OTHERS:
        rows |= {**sample.needs, sample.key: sample.spec}
    make(kernel, rows)
    found = [(key, scope) for scope in kernel.scopes() for key in kernel.read(scope)]
    assert sorted(str(key) for key, _ in found) == sorted(str(key) for key in {**rows, SETTING: ""})
    assert [scope for key, scope in found] == [scope_of(key) for key, _ in found]


def test_settings_are_written_and_read_back(kernel: Kernel) -> None:
    assert kernel.read(scope_of(SETTING)) == {SETTING: "0"}
    assert carry_out(kernel, [update(SETTING, "1", "0")]) == {}
    assert kernel.read(scope_of(SETTING)) == {SETTING: "1"}


def test_settings_stay_when_they_are_deleted(kernel: Kernel) -> None:
    assert carry_out(kernel, [delete(SETTING, "0")]) == {}
    assert kernel.read(scope_of(SETTING)) == {SETTING: "0"}


def test_addresses_of_the_device_are_addresses_of_the_host(kernel: Kernel) -> None:
    make(kernel, {DEVICE: None, ADDRESS: None, Address("fd00:10:96::a"): None})
    ours = [each for each in kernel.host_addresses() if each.interface == IPVS_DEVICE]
    assert ours == [HostAddress(IPVS_DEVICE, "10.96.0.10"), HostAddress(IPVS_DEVICE, "fd00:10:96::a")]


def test_an_idle_real_server_has_no_connections(kernel: Kernel) -> None:
    make(kernel, {HTTP: PLAIN, POD: RealServerSpec(1)})
    assert kernel.connections([HTTP]) == {POD: Connections(0, 0)}


def test_a_virtual_server_that_is_gone_has_no_connections(kernel: Kernel) -> None:
    make(kernel, {HTTP: PLAIN, POD: RealServerSpec(1)})
    assert kernel.connections([VirtualServer("10.96.0.99", 80, "TCP"), HTTP]) == {POD: Connections(0, 0)}


def test_of_real_servers_those_are_idle_that_are_there_without_connections(kernel: Kernel) -> None:
    make(kernel, {HTTP: PLAIN, POD: RealServerSpec(0)})
    gone = RealServer(HTTP, POD.address, POD.port + 1)
    nowhere = RealServer(VirtualServer("10.96.0.99", 80, "TCP"), POD.address, POD.port)
    assert kernel.idle([POD, gone, nowhere]) == {POD}
    assert kernel.idle([]) == set()


def test_a_new_kernel_has_no_rows(kernel: Kernel) -> None:
    assert rows_of(kernel) == {}
