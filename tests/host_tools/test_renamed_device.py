"""kube-ipvs0 is recognized under another name, and devices of other programs are not taken for it."""

from ipaddress import ip_address
from socket import AF_INET, AF_INET6

import pytest

from kubeproxy_py.kernel.address.decode import ListedAddress
from kubeproxy_py.kernel.address.renamed import find_renamed
from kubeproxy_py.kernel.address.rtnetlink import IFINFOMSG, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO
from kubeproxy_py.kernel.netlink.attributes import attribute, nested, string

SERVED = frozenset(("10.96.0.1", "10.96.0.10", "fd00:10:96::10"))
RENAMED, UP = 7, 1


def link(index: int, kind: bytes = b"dummy", flags: int = 0) -> bytes:
    info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind)) if kind else b""
    return IFINFOMSG.pack(0, 0, index, flags, 0) + string(IFLA_IFNAME, f"if{index}") + info


def listed(index: int, *addresses: str, scope: int = 0) -> list[ListedAddress]:
    """Return addresses of the device *index*, each with or without a prefix length."""
    parsed = [(address.partition("/"), ip_address(address.partition("/")[0])) for address in addresses]
    return [
        ListedAddress(
            AF_INET if ip.version == 4 else AF_INET6,
            int(prefix or ip.max_prefixlen),
            0,
            scope,
            index,
            str(ip),
        )
        for (_, _, prefix), ip in parsed
    ]


@pytest.mark.parametrize("addresses", [tuple(SERVED), ("10.96.0.1",), ("10.96.0.1", "10.96.0.10", "10.96.0.99")])
def test_the_renamed_device_is_found_by_its_addresses(addresses: tuple[str, ...]) -> None:
    others = [*listed(1, "127.0.0.1/8"), *listed(2, "192.168.3.10/24")]
    links = [link(1, b""), link(2, b"veth"), link(RENAMED)]
    assert find_renamed(links, [*others, *listed(RENAMED, *addresses)], lambda: SERVED) == RENAMED


@pytest.mark.parametrize(
    ("device", "addresses"),
    [
        pytest.param(link(RENAMED, flags=UP), ["10.96.0.1", "10.96.0.10"], id="kube-dummy-if of kube-router, up"),
        pytest.param(link(RENAMED), ["169.254.20.10", "10.96.0.10"], id="node-local-dns"),
        pytest.param(link(RENAMED, b"bridge"), ["10.96.0.1"], id="a bridge"),
        pytest.param(link(RENAMED), ["192.168.3.10"], id="an address that is not served"),
        pytest.param(link(RENAMED), ["10.96.0.1", "192.168.3.10"], id="half of the addresses served"),
        pytest.param(link(RENAMED), ["10.96.0.1/24"], id="a network"),
        pytest.param(link(RENAMED), [], id="no address"),
    ],
)
def test_a_device_of_another_program_is_not_taken_for_it(device: bytes, addresses: list[str]) -> None:
    assert find_renamed([device], listed(RENAMED, *addresses), lambda: SERVED) == 0


def test_of_several_devices_that_with_the_most_served_addresses_is_the_one() -> None:
    addresses = [*listed(3, "10.96.0.1"), *listed(RENAMED, "10.96.0.10", "fd00:10:96::10")]
    assert find_renamed([link(3), link(RENAMED)], addresses, lambda: SERVED) == RENAMED


def test_virtual_servers_are_not_listed_where_no_device_can_be_it() -> None:
    def served() -> frozenset[str]:
        raise AssertionError

    assert find_renamed([link(2, b"veth")], listed(2, "10.96.0.1"), served) == 0
