"""Every field of the file: its default, a valid value, and an invalid one that is rejected with its path and a hint."""

from typing import Any

import pytest

from kubeproxy_py.config.errors import abbreviated
from kubeproxy_py.config.load import load
from kubeproxy_py.model.settings import SCHEDULERS
from tests.config.build import all_fields, document, from_file, problems, value_at
from tests.config.fields_table import PATHS, ROWS, Row

NO_DEFAULT_IN_A_FILE = {"mode"}


def test_the_table_has_every_field_once() -> None:
    assert sorted(PATHS) == sorted(path for path, _ in all_fields())


@pytest.mark.parametrize("row", ROWS, ids=PATHS)
def test_an_absent_field_has_kube_proxys_default(row: Row) -> None:
    assert value_at(from_file().config, row.path) == row.default


@pytest.mark.parametrize("row", [row for row in ROWS if row.path not in NO_DEFAULT_IN_A_FILE], ids=lambda row: row.path)
def test_null_means_the_default(row: Row) -> None:
    assert value_at(from_file({row.path: None}).config, row.path) == row.default


@pytest.mark.parametrize("row", ROWS, ids=PATHS)
def test_a_valid_value_is_accepted(row: Row) -> None:
    assert value_at(from_file({row.path: row.written}).config, row.path) == row.value


@pytest.mark.parametrize("row", ROWS, ids=PATHS)
def test_an_invalid_value_is_rejected_with_its_path_and_a_hint(row: Row) -> None:
    [problem] = problems(document({row.path: row.invalid}))
    assert problem.startswith(f"{row.path}: ")
    assert row.message in problem


@pytest.mark.parametrize("row", ROWS, ids=PATHS)
def test_a_value_of_the_wrong_type_is_rejected_with_its_path(row: Row) -> None:
    shapes: tuple[Any, ...] = ([[]], {"a": []})
    for wrong in shapes:
        [problem] = problems(document({row.path: wrong}))
        assert problem.startswith(f"{row.path}: ")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_of_the_kernel_is_accepted(scheduler: str) -> None:
    assert from_file({"ipvs.scheduler": scheduler}).config.ipvs.scheduler == scheduler


ZEROS = {
    "clientConnection.contentType": "", "clientConnection.qps": 0, "clientConnection.burst": 0,
    "logging.format": "", "logging.flushFrequency": 0,
    "bindAddress": "", "healthzBindAddress": "", "metricsBindAddress": "",
    "iptables.syncPeriod": "0s", "iptables.minSyncPeriod": "0s", "ipvs.syncPeriod": "0s", "ipvs.scheduler": "",
    "nftables.syncPeriod": "0s", "nftables.minSyncPeriod": "0s", "detectLocalMode": "", "configSyncPeriod": "0s",
}  # fmt: skip


@pytest.mark.parametrize("path", ZEROS)
def test_a_zero_that_kube_proxy_cannot_tell_from_absence_means_the_default(path: str) -> None:
    assert from_file({path: ZEROS[path]}).config == from_file().config


POINTER_ZEROS = {
    "iptables.masqueradeBit": 0, "iptables.localhostNodePorts": False, "oomScoreAdj": 0, "conntrack.maxPerCore": 0,
    "conntrack.min": 0, "conntrack.tcpEstablishedTimeout": "0s", "conntrack.tcpCloseWaitTimeout": "0s",
}  # fmt: skip


@pytest.mark.parametrize("path", POINTER_ZEROS)
def test_a_zero_of_a_pointer_field_is_used(path: str) -> None:
    assert value_at(from_file({path: POINTER_ZEROS[path]}).config, path) == 0


@pytest.mark.parametrize("mode", ["", None, "iptables", "nftables"])
def test_a_file_must_set_the_mode_to_ipvs(mode: str | None) -> None:
    [problem] = problems(document({"mode": mode}))
    assert problem.startswith("mode: ")
    assert "(mode: ipvs, or run kube-proxy)" in problem


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["primary"], ("primary",)),
        (["all"], ()),
        ([], ()),
        (["0.0.0.0/0"], ("0.0.0.0/0",)),
        (["10.1.2.3/8", "primary", "fd00::1/8"], ("10.0.0.0/8", "primary", "fd00::/8")),
        (["localhost", "primary"], ("localhost", "primary")),
        (["primary", "all", "10.0.0.0/8"], ()),
    ],
)
def test_node_port_addresses_may_be_keywords(words: list[str], value: tuple[str, ...]) -> None:
    assert from_file({"nodePortAddresses": words}).config.node_port_addresses == value


def test_an_invalid_network_among_keywords_is_rejected() -> None:
    [problem] = problems(document({"nodePortAddresses": ["all", "primary", "nonesuch"]}))
    assert problem.startswith("nodePortAddresses: 'nonesuch': not a network")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["localhost"], ["nodePortAddresses: localhost"]),
        (["primary"], []),
        (["all", "localhost"], []),
    ],
)
def test_localhost_is_accepted_with_a_warning(words: list[str], fields: list[str]) -> None:
    warnings = from_file({"nodePortAddresses": words}).warnings
    assert [warning.field for warning in warnings] == fields
    message = "IPVS serves NodePorts on loopback addresses only with --policies=exact"
    assert all(warning.message == message for warning in warnings)


def test_localhost_is_accepted_with_exact_policies() -> None:
    assert load({"nodeport-addresses": "localhost", "policies": "exact"}).warnings == ()


def test_cluster_cidr_may_have_several_networks_of_a_family_but_not_any_number() -> None:
    several = ("10.0.0.0/8", "fd00::/8", "11.0.0.0/8")
    assert from_file({"clusterCIDR": ",".join(several)}).config.cluster_cidr == several
    [problem] = problems(document({"clusterCIDR": ",".join(f"10.{number}.0.0/16" for number in range(33))}))
    assert "33 networks (at most 32)" in problem


@pytest.mark.parametrize("name", ["-j", "!eth0", 'a"b', "a'b", "a\\b", "a/b", "a:b", "a\nb", "a b", "..", "ü" * 8])
def test_an_interface_name_cannot_end_its_word_in_a_rule(name: str) -> None:
    [problem] = problems(document({"detectLocal.bridgeInterface": name}))
    assert "cannot be an interface name" in problem


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ({"Foo": True, "b": 1}, "fields ('Foo', 'b')"),
        ("x", "'x'"),
        (7, "7"),
    ],
)
def test_message_quotes_a_value_in_the_words_of_yaml(value: object, text: str) -> None:
    assert abbreviated(value) == text
