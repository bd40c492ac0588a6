"""net.py: parsing addresses, networks and socket addresses into their canonical forms."""

from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_ntop

import pytest
from hypothesis import given
from hypothesis.strategies import ip_addresses

from kubeproxy_py.net import contains, is_port_number, parse_cidr, parse_ip


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"), ("010.000.00.01", "10.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("00.0.0.0", "0.0.0.0"),
        ("FD00:0:0:0:0:0:0:1", "fd00::1"), ("::", "::"), ("::ffff:10.0.0.1", "10.0.0.1"),
    ],
)  # fmt: skip
def test_an_address_is_parsed_into_its_canonical_form(text: str, canonical: str) -> None:
    assert parse_ip(text) == canonical


@pytest.mark.parametrize(
    "text", ["", "10.0.0", "10.0.0.256", "fe80::1%eth0", "[::1]", "10.0.0.1/32", " 10.0.0.1", "a", "1"]
)
def test_text_that_is_not_an_address_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_ip(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("010.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("FD00::1/64", "fd00::/64"),
    ],
)
def test_the_host_bits_of_a_network_are_cleared(text: str, canonical: str) -> None:
    assert parse_cidr(text) == canonical


@pytest.mark.parametrize(
    "text", ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "/8", "fe80::%e/8", "10.0.0.0/+8"]
)
def test_text_that_is_not_a_network_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_cidr(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("::10.0.0.1", "::10.0.0.1"),  # as inet_ntop prints it, and so the kernel readers
        ("::ffff:010.0.0.1", "10.0.0.1"),
        ("::a00:1", "::10.0.0.1"),
    ],
)
def test_every_source_of_an_address_yields_the_form_that_the_kernel_readers_print(text: str, canonical: str) -> None:
    assert parse_ip(text) == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::10.0.0.0/104", "::10.0.0.0/104"),
        ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
    ],
)
def test_a_mapped_network_is_the_ipv4_network(text: str, canonical: str) -> None:
    assert parse_cidr(text) == canonical


@pytest.mark.parametrize("text", ["::ffff:10.0.0.0/95", "::ffff:10.0.0.0/8", "::/129", "10.0.0.0/٨", " 10.0.0.0/8"])
def test_a_network_of_an_impossible_length_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_cidr(text)


@given(ip_addresses())
def test_the_canonical_form_is_what_inet_ntop_prints(address: IPv4Address | IPv6Address) -> None:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    family = AF_INET if isinstance(mapped or address, IPv4Address) else AF_INET6
    assert parse_ip(str(address)) == inet_ntop(family, (mapped or address).packed)


@pytest.mark.parametrize(
    ("text", "is_port"),
    [
        ("1", True),
        ("65535", True),
        ("0080", True),
        ("0", False),
        ("65536", False),
        ("00655359", False),
        ("", False),
        ("-1", False),
        ("٣٠", False),
        ("1" * 5000, False),
    ],
)
def test_port_number_is_1_to_65535_in_ascii_digits(text: str, *, is_port: bool) -> None:
    assert is_port_number(text) is is_port


@pytest.mark.parametrize(
    ("network", "other", "is_within"),
    [
        ("10.96.0.0/12", "10.96.0.0/12", True),
        ("10.96.0.0/12", "10.111.255.255/32", True),
        ("10.96.0.0/12", "10.0.0.0/8", False),
        ("10.96.0.0/12", "10.112.0.0/16", False),
        ("fd00::/16", "fd00:1::/64", True),
        ("::/0", "10.96.0.0/12", False),
    ],
)
def test_network_contains_another_of_its_family_that_is_no_wider(network: str, other: str, is_within: bool) -> None:
    assert contains(network, other) is is_within
