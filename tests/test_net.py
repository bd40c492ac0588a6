"""Addresses and networks in the one form in which they compare equal."""

import pytest

from kubeproxy_py.net import parse_cidr, parse_ip


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"), ("010.000.00.01", "10.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("00.0.0.0", "0.0.0.0"),
        ("FD00:0:0:0:0:0:0:1", "fd00::1"), ("::", "::"), ("::ffff:10.0.0.1", "10.0.0.1"),
    ],
)  # fmt: skip
def test_an_address_is_made_canonical(text: str, canonical: str) -> None:
    assert parse_ip(text) == canonical


@pytest.mark.parametrize(
    "text", ["", "10.0.0", "10.0.0.256", "fe80::1%eth0", "[::1]", "10.0.0.1/32", " 10.0.0.1", "a", "1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
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
def test_a_network_loses_its_host_bits(text: str, canonical: str) -> None:
    assert parse_cidr(text) == canonical


@pytest.mark.parametrize(
    "text", ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "/8", "fe80::%e/8", "10.0.0.0/+8"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_cidr(text)
