"""The switch that turns IPv6 off, on a folder in place of the host's /proc/sys."""

from pathlib import Path

import pytest

from kubeproxy_py.kernel.address.ipv6_switch import enable_ipv6, is_off_for_device


def host(folder: Path, **values: str) -> Path:
    """Write the switches of ``all``, ``default`` and ``device``."""
    for name, value in values.items():
        directory = folder / "proc/sys/net/ipv6/conf" / ("kube-ipvs0" if name == "device" else name)
        directory.mkdir(parents=True)
        (directory / "disable_ipv6").write_text(f"{value}\n")
    return folder


@pytest.mark.parametrize(
    ("values", "is_off"),
    [
        ({"default": "0"}, False),
        ({"default": "1"}, True),
        ({"default": "1", "device": "0"}, False),
        ({"default": "0", "device": "1"}, True),
        ({}, False),
    ],
)
def test_device_has_ipv6_as_its_own_switch_or_the_default_says(
    tmp_path: Path, values: dict[str, str], is_off: bool
) -> None:
    assert is_off_for_device(host(tmp_path, **values)) == is_off


def test_device_is_switched_on(tmp_path: Path) -> None:
    root = host(tmp_path, all="0", default="1", device="1")
    assert enable_ipv6(root) == ""
    assert not is_off_for_device(root)


def test_host_that_has_ipv6_off_as_a_whole_is_left_alone(tmp_path: Path) -> None:
    root = host(tmp_path, all="1", default="1", device="1")
    assert "sysctl -w net.ipv6.conf.all.disable_ipv6=0" in enable_ipv6(root)
    assert is_off_for_device(root)


def test_switch_that_cannot_be_written_is_named_with_its_path(tmp_path: Path) -> None:
    assert "net/ipv6/conf/kube-ipvs0/disable_ipv6 could not be set to 0" in enable_ipv6(host(tmp_path, all="0"))
