"""Reserved local ports, on a folder in place of the host's /proc/sys."""

import logging
import os
from errno import EROFS
from pathlib import Path

import pytest

from kubeproxy_py.kernel.host.reserved_ports import ReservedPorts, format_ports, own_ports, parse_ports


class Host:
    """A host with the default range of local ports, and *reserved* ones."""

    def __init__(self, folder: Path, reserved: str = "") -> None:
        self.root = folder
        self._folder = folder / "proc/sys/net/ipv4"
        self._folder.mkdir(parents=True)
        (self._folder / "ip_local_port_range").write_text("32768\t60999\n")
        self._file = self._folder / "ip_local_reserved_ports"
        self._file.write_text(f"{reserved}\n")

    @property
    def reserved(self) -> str:
        return self._file.read_text().strip()

    def remove(self) -> None:
        self._file.unlink()


@pytest.mark.parametrize(
    ("text", "ports"),
    [("", []), ("8080\n", [8080]), ("1-3,7", [1, 2, 3, 7]), ("65535", [65535])],
)
def test_ports_are_read_and_written_as_the_kernel_prints_them(text: str, ports: list[int]) -> None:
    assert list(parse_ports(text)) == ports
    assert format_ports(reversed(ports)) == text.strip()


def test_node_ports_within_the_range_of_local_ports_are_added_and_removed(tmp_path: Path) -> None:
    host = Host(tmp_path, "8080,40000-40010")
    ports = ReservedPorts(root=host.root)
    ports.update([30080, 40123, 40005], [])
    assert host.reserved == "8080,40000-40010,40123"
    ports.update([], [40123, 40005, 30080])
    assert host.reserved == "8080,40000-40010"


def test_entries_of_others_stay_even_if_they_change_meanwhile(tmp_path: Path) -> None:
    host = Host(tmp_path)
    ports = ReservedPorts(root=host.root)
    ports.update([40123], [])
    (tmp_path / "proc/sys/net/ipv4/ip_local_reserved_ports").write_text("40123,50000\n")
    ports.update([40124], [40123])
    assert host.reserved == "40124,50000"


def test_nothing_is_written_for_node_ports_outside_the_range(tmp_path: Path) -> None:
    host = Host(tmp_path, "0")  # as no kernel prints it
    ReservedPorts(root=host.root).update([30080], [])
    assert host.reserved == "0"


@pytest.mark.parametrize(
    ("reserved", "node_ports", "ours"),
    [
        ([40123], [40123], [40123]),
        ([40123, 40124, 50000], [40123, 40124], [40123, 40124]),
        (range(40000, 40200), [40123], []),  # an administrator's range
        ([8080], [40123], []),
    ],
)
def test_ports_of_an_earlier_process_are_runs_of_node_ports(
    reserved: list[int], node_ports: list[int], ours: list[int]
) -> None:
    assert own_ports(reserved, node_ports) == set(ours)


def test_ports_of_an_earlier_process_are_released_by_the_first_update(tmp_path: Path) -> None:
    host = Host(tmp_path, "8080,40123,40200")
    ReservedPorts([40123, 40200], root=host.root).update([40200], [])
    assert host.reserved == "8080,40200"


def test_ports_are_left_alone_where_they_cannot_be_read(tmp_path: Path) -> None:
    host = Host(tmp_path)
    ports = ReservedPorts(root=host.root)
    host.remove()
    ports.update([40123], [])
    assert not (tmp_path / "proc/sys/net/ipv4/ip_local_reserved_ports").exists()


@pytest.mark.parametrize("reserved", ["8080,x", "1-99999999999", "²", "9" * 5000])
def test_ports_are_left_alone_where_they_cannot_be_understood(tmp_path: Path, reserved: str) -> None:
    host = Host(tmp_path, reserved)
    ReservedPorts(root=host.root).update([40123], [])
    assert host.reserved == reserved


def test_ports_that_cannot_be_reserved_are_logged_once_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(EROFS, os.strerror(EROFS))

    ports = ReservedPorts(root=Host(tmp_path).root)
    monkeypatch.setattr(os, "open", fail)
    for _ in range(2):
        ports.update([40123], [])
    records = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.values["ports"] for record in records] == ["40123"]  # type: ignore[attr-defined]
    assert "ip_local_reserved_ports on the host" in records[0].message
