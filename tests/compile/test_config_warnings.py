"""What of a Node does not fit the configuration: said in a sentence, and only then."""

import pytest

from kubeproxy_py.commands.app import agent_settings
from kubeproxy_py.compile.config_warnings import family_doubts, node_warnings
from kubeproxy_py.compile.node_context import Host
from kubeproxy_py.config.load import LoadedConfig, load
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import FAMILIES

V4, V6 = "192.168.3.10", "fd00:3::10"
PODS_V4, PODS_V6 = "10.244.1.0/24", "fd00:10:244:1::/64"


def node_cidr() -> LoadedConfig:
    return load({"detect-local-mode": "NodeCIDR"})


def doubts(loaded: LoadedConfig, node: Node | None) -> tuple[str, ...]:
    return node_warnings(loaded.config, FAMILIES, node)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (Node("a", addresses=(V4,)), "Node a has no podCIDRs yet"),
        (Node("a", addresses=(V4,), pod_cidrs=(PODS_V6,)), "no podCIDR of its own family, IPv4"),
        (Node("a", addresses=(V6, V4), pod_cidrs=(PODS_V4,)), "no podCIDR of its own family, IPv6"),
        (Node("a", pod_cidrs=(PODS_V4,)), "no address that this host serves: its own IP is taken to be 127.0.0.1"),
    ],
)
def test_what_does_not_fit_is_said(node: Node, says: str) -> None:
    (doubt,) = doubts(node_cidr(), node)
    assert says in doubt


@pytest.mark.parametrize("node", [None, Node("a", addresses=(V4,), pod_cidrs=(PODS_V4,))])
def test_what_fits_and_what_is_not_known_is_passed_over(node: Node | None) -> None:
    assert doubts(node_cidr(), node) == ()


def test_the_family_of_the_bind_address_is_the_node_s_own() -> None:
    node = Node("a", addresses=(V4, V6), pod_cidrs=(PODS_V4,))
    assert doubts(load({"detect-local-mode": "NodeCIDR", "bind-address": "0.0.0.0"}), node) == ()
    (doubt,) = doubts(load({"detect-local-mode": "NodeCIDR", "bind-address": V6}), node)
    assert "no podCIDR of its own family, IPv6" in doubt


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"nodeport-addresses": "primary,fd00::/8,10.0.0.0/8"}, "nodePortAddresses: fd00::/8"),
        ({"ipvs-exclude-cidrs": "fd00::/8,fe80::/10"}, "ipvs.excludeCIDRs: fd00::/8, fe80::/10"),
        ({"cluster-cidr": "10.244.0.0/16,fd00:10:244::/56"}, "clusterCIDR: fd00:10:244::/56"),
        ({"bind-address": "fd00:3::10"}, "bindAddress: fd00:3::10"),
    ],
)
def test_what_is_configured_for_a_family_that_is_not_served_is_said(given: dict[str, str], says: str) -> None:
    (doubt,) = family_doubts(load(given).config, ("IPv4",))
    assert doubt == f"{says}: means nothing, for this host serves IPv4 alone"
    assert family_doubts(load(given).config, FAMILIES) == ()


def test_a_host_that_cannot_serve_the_node_s_own_family_is_told() -> None:
    (doubt,) = node_warnings(load({}).config, ("IPv4",), Node("a", addresses=(V6, V4)))
    assert doubt == "Node a is one of IPv6 first, which this host does not serve"
    assert node_warnings(load({}).config, ("IPv4",), Node("a", addresses=(V4, V6))) == ()


def test_unspecified_addresses_are_of_every_family() -> None:
    for unspecified in ("0.0.0.0", "::"):
        for family in FAMILIES:
            assert family_doubts(load({"bind-address": unspecified}).config, (family,)) == ()


def test_pod_networks_matter_only_where_they_are_asked_for() -> None:
    assert doubts(load({}), Node("a", addresses=(V4,))) == ()


def test_a_doubt_is_logged_once_until_it_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    make_site = agent_settings(node_cidr(), Host("a")).make_site
    bare, whole = Node("a", addresses=(V4,)), Node("a", addresses=(V4,), pod_cidrs=(PODS_V4,))
    for node in (None, bare, bare, whole, bare):
        make_site(node, ())
    assert len(caplog.messages) == 2
