"""Warnings about a Node that does not fit the configuration."""

import pytest

from kubeproxy_py.commands.parts import agent_settings
from kubeproxy_py.compile.config_warnings import (
    family_warnings,
    has_address_on_node,
    loopback_warnings,
    mark_warnings,
    node_warnings,
)
from kubeproxy_py.config.load import LoadedConfig, load
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.net import FAMILIES, family_of
from tests.builders import node_context, service

V4, V6 = "192.168.3.10", "fd00:3::10"
PODS_V4, PODS_V6 = "10.244.1.0/24", "fd00:10:244:1::/64"


def node_cidr() -> LoadedConfig:
    return load({"detect-local-mode": "NodeCIDR"})


def warnings(loaded: LoadedConfig, node: Node | None) -> tuple[str, ...]:
    return node_warnings(loaded.config, FAMILIES, node)


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Node("a", addresses=(V4,)), "Node a has no podCIDRs yet"),
        (Node("a", addresses=(V4,), pod_cidrs=(PODS_V6,)), "no podCIDR of its primary family, IPv4"),
        (Node("a", addresses=(V6, V4), pod_cidrs=(PODS_V4,)), "no podCIDR of its primary family, IPv6"),
        (
            Node("a", pod_cidrs=(PODS_V4,)),
            "no status.addresses of type InternalIP or ExternalIP; assuming 127.0.0.1 as the node IP",
        ),
    ],
)
def test_node_that_does_not_fit_gives_one_warning(node: Node, text: str) -> None:
    (warning,) = warnings(node_cidr(), node)
    assert text in warning


@pytest.mark.parametrize("node", [None, Node("a", addresses=(V4,), pod_cidrs=(PODS_V4,))])
def test_fitting_or_unknown_node_gives_no_warning(node: Node | None) -> None:
    assert warnings(node_cidr(), node) == ()


def test_bind_address_determines_the_primary_family() -> None:
    node = Node("a", addresses=(V4, V6), pod_cidrs=(PODS_V4,))
    assert warnings(load({"detect-local-mode": "NodeCIDR", "bind-address": "0.0.0.0"}), node) == ()
    (warning,) = warnings(load({"detect-local-mode": "NodeCIDR", "bind-address": V6}), node)
    assert "no podCIDR of its primary family, IPv6" in warning


@pytest.mark.parametrize(
    ("given", "field_and_values"),
    [
        ({"nodeport-addresses": "primary,fd00::/8,10.0.0.0/8"}, "nodePortAddresses: fd00::/8"),
        ({"ipvs-exclude-cidrs": "fd00::/8,fe80::/10"}, "ipvs.excludeCIDRs: fd00::/8, fe80::/10"),
        ({"cluster-cidr": "10.244.0.0/16,fd00:10:244::/56"}, "clusterCIDR: fd00:10:244::/56"),
        ({"bind-address": "fd00:3::10"}, "bindAddress: fd00:3::10"),
    ],
)
def test_fields_of_an_unserved_family_give_a_warning(given: dict[str, str], field_and_values: str) -> None:
    (warning,) = family_warnings(load(given).config, ("IPv4",))
    assert warning == f"{field_and_values} ignored: this host serves only IPv4"
    assert family_warnings(load(given).config, FAMILIES) == ()


def test_host_that_cannot_serve_the_primary_family_gives_a_warning() -> None:
    (warning,) = node_warnings(load({}).config, ("IPv4",), Node("a", addresses=(V6, V4)))
    assert warning == "Node a has primary family IPv6, which this host does not serve"
    assert node_warnings(load({}).config, ("IPv4",), Node("a", addresses=(V4, V6))) == ()


def test_unspecified_bind_address_belongs_to_every_family() -> None:
    for unspecified in ("0.0.0.0", "::"):
        for family in FAMILIES:
            assert family_warnings(load({"bind-address": unspecified}).config, (family,)) == ()


def test_pod_cidrs_matter_only_to_detect_local_mode_node_cidr() -> None:
    assert warnings(load({}), Node("a", addresses=(V4,))) == ()


def test_warning_is_logged_once_until_it_reappears(caplog: pytest.LogCaptureFixture) -> None:
    make_context = agent_settings(node_cidr(), HostInfo("a")).make_context
    bare, complete = Node("a", addresses=(V4,)), Node("a", addresses=(V4,), pod_cidrs=(PODS_V4,))
    for node in (None, bare, bare, complete, bare):
        make_context(node, ())
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("127.0.0.0/8,192.168.3.0/24", "127.0.0.0/8"),
        ("::1/128,127.0.0.1/32", "::1/128, 127.0.0.1/32"),
    ],
)
def test_loopback_networks_for_node_ports_give_a_warning(value: str, named: str) -> None:
    loaded = load({"nodeport-addresses": value})
    (warning,) = loopback_warnings(loaded.config, loaded.agent)
    assert named in warning


@pytest.mark.parametrize("value", ["", "primary", "localhost", "0.0.0.0/0", "192.168.3.0/24"])
def test_other_values_for_node_ports_give_no_warning(value: str) -> None:
    loaded = load({"nodeport-addresses": value})
    assert loopback_warnings(loaded.config, loaded.agent) == ()


@pytest.mark.parametrize(
    ("value", "warns"),
    [
        ("localhost,0.0.0.0/0", True),
        ("::/0,::1/128", True),
        ("::/0,127.0.0.0/8", False),
        ("localhost,192.168.3.0/24", False),
        ("0.0.0.0/0", False),
    ],
)
def test_loopback_beside_all_addresses_gives_a_warning_with_exact_policies(value: str, warns: bool) -> None:
    loaded = load({"nodeport-addresses": value, "policies": "exact"})
    warnings = loopback_warnings(loaded.config, loaded.agent)
    assert bool(warnings) is warns
    assert all("/0 means all addresses but loopback" in warning for warning in warnings)


def test_node_without_an_address_of_a_served_family_is_told_from_one_without_addresses() -> None:
    (warning,) = node_warnings(node_cidr().config, ("IPv6",), Node("a", addresses=(V4,), pod_cidrs=(PODS_V4,)))
    assert warning == "Node a has no address in a family that this host serves; assuming ::1 as the node IP"


OTHER_V4, OTHER_V6 = "10.0.0.99", "fd00::99"


@pytest.mark.parametrize("kept", [(V4,), (V6,), (V4, V6)])
@pytest.mark.parametrize("field", ["cluster_ips", "external_ips", "load_balancer_ips"])
@pytest.mark.parametrize("address", [V4, V6, OTHER_V4, OTHER_V6])
def test_service_has_an_address_on_node_if_any_that_it_names_is_on_another_interface(
    address: str, field: str, kept: tuple[str, ...]
) -> None:
    foreign = {family: frozenset(one for one in kept if family_of(one) == family) for family in FAMILIES}
    fields = {"cluster_ips": (OTHER_V4,), field: (OTHER_V4, address)}
    named = service(type="LoadBalancer", **fields)  # type: ignore[arg-type]
    assert has_address_on_node(named, node_context(foreign_addresses=foreign)) is (address in kept)


def test_service_has_no_address_on_a_node_of_which_no_address_is_known() -> None:
    assert not has_address_on_node(service(external_ips=(V4,)), node_context(foreign_addresses={}))


def test_another_program_that_marks_packets_is_named_with_exact_policies_only() -> None:
    cilium = (HostAddress("cilium_host", "10.244.1.1"), HostAddress("eth0", V4))
    (warning,) = mark_warnings(MarkRange(), 14, cilium)
    assert "Cilium uses bits 0xf00 of --policy-mark-mask=0x3fff, too; take others: --policy-mark-mask=0xff " in warning
    assert "may add bits" in mark_warnings(MarkRange(0xFF), 14, cilium)[0]
    assert mark_warnings(None, 14, cilium) == mark_warnings(MarkRange(), 14, cilium[1:]) == ()


@pytest.mark.parametrize(
    ("interfaces", "masquerade_bit", "remedy"),
    [
        (["istioin"], 14, "take others: --policy-mark-mask=0x3fff0000 "),
        (["istioin"], 20, "take others: --policy-mark-mask=0xffe00000 "),
        (["istioin", "cilium_host"], 13, "no bits are left for --policies=exact"),
        (["istioin", "cali1234"], 14, "take others: --policy-mark-mask=0x3000 "),
    ],
)
def test_the_mask_that_is_proposed_is_free_of_what_all_programs_use(
    interfaces: list[str], masquerade_bit: int, remedy: str
) -> None:
    addresses = [HostAddress(interface, V4) for interface in interfaces]
    warning = next(one for one in mark_warnings(MarkRange(), masquerade_bit, addresses) if "Istio" in one)
    assert f"Istio uses bits 0xfff of --policy-mark-mask=0x3fff, too; {remedy}" in warning
