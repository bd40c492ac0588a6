"""The listing of real servers in pieces: what has changed is decoded, wherever the pieces end, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs import piecewise_listing
from kubeproxy_py.kernel.ipvs.listing import key_of, server_of
from kubeproxy_py.kernel.ipvs.piecewise_listing import PiecewiseListing
from kubeproxy_py.model.rows import RealServer, Rows, VirtualServer, mark_server
from kubeproxy_py.net import FAMILIES, Family
from tests.wire.test_ipvs_listing import DNS, HEADINGS, MARKED, OTHER_POD, POD, POD_6, ROW, SERVER, SERVER_6, WEB
from tests.wire.test_ipvs_listing import listed as with_weight

FIRST, SECOND = HEADINGS + WEB + POD + OTHER_POD, MARKED + POD + DNS + POD_6
SERVER_51 = VirtualServer(SERVER.address, 0x51, SERVER.protocol)
WEB_ROWS: Rows = {ROW: with_weight(1), RealServer(SERVER, "10.244.2.5", 8080): with_weight(0)}
DNS_ROWS: Rows = {RealServer(SERVER_6, "fd00:10:244:1::5", 8080): with_weight(1)}


class Listed:
    """A listing whose pieces are given, and what it asked about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, marks: bool = False) -> None:
        self.listing = PiecewiseListing(marks=marks)
        self.agrees = True
        self.last = FIRST
        self._pieces: list[bytes] = []
        self._asked: dict[VirtualServer, Rows] = {}
        monkeypatch.setattr(self.listing, "_read", lambda: iter(self._pieces))

    def asked(self, *pieces: str) -> dict[VirtualServer, Rows]:
        """Return the virtual servers of *pieces*, listed once, that are not known to agree."""
        self._pieces = [piece.encode() for piece in pieces]
        self._asked = {}
        assert sum(1 for _ in self.listing.pieces(self._answer)) == len(pieces)
        return self._asked

    def asked_in_one_stretch(self, text: str) -> dict[VirtualServer, Rows]:
        """Return the virtual servers of *text*, listed by one system call, that are not known to agree."""
        self._pieces, self._asked = [text.encode()], {}
        for _ in self.listing.pieces(self._answer):
            pass
        return self._asked

    def _answer(self, server: VirtualServer, rows: Rows) -> bool:
        self._asked[server] = rows
        return self.agrees


def asked_about(listing: PiecewiseListing) -> dict[VirtualServer, Rows]:
    """Return the virtual servers that *listing*, which is read from a file, asks about once; all agree."""
    found: dict[VirtualServer, Rows] = {}
    for _ in listing.pieces(lambda server, rows: not found.update({server: rows})):
        pass
    return found


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Listed:
    return Listed(monkeypatch)


def test_everything_is_asked_about_once(listed: Listed) -> None:
    assert listed.asked(FIRST, SECOND) == {SERVER: WEB_ROWS, SERVER_6: DNS_ROWS}
    assert listed.asked(FIRST, SECOND) == {}


def test_virtual_servers_by_mark_are_asked_about_with_exact_policies_only(monkeypatch: pytest.MonkeyPatch) -> None:
    by_mark = Listed(monkeypatch, marks=True)
    [server] = by_mark.asked(FIRST, SECOND).keys() - {SERVER, SERVER_6}
    assert server.mark
    by_mark.listing.forget([server])
    assert by_mark.asked(FIRST, SECOND).keys() == {server}


@pytest.mark.parametrize("family", FAMILIES)
def test_key_of_a_record_is_that_of_its_virtual_server(family: Family) -> None:
    server = mark_server(family, 0x2002)
    assert server_of(key_of(server)) == server


def test_what_does_not_agree_is_asked_about_again(listed: Listed) -> None:
    listed.agrees = False
    assert listed.asked(FIRST, SECOND).keys() == {SERVER, SERVER_6}
    listed.agrees = True
    assert listed.asked(FIRST, SECOND).keys() == {SERVER, SERVER_6}
    assert listed.asked(FIRST, SECOND) == {}


def test_pieces_that_end_elsewhere_and_other_connections_are_no_change(listed: Listed) -> None:
    listed.asked(FIRST, SECOND)
    assert listed.asked(HEADINGS, WEB + POD + OTHER_POD + SECOND) == {}
    assert listed.asked(FIRST.replace("7          0 ", "0          99999 "), SECOND) == {}
    assert listed.asked(HEADINGS + SECOND, WEB + POD + OTHER_POD) == {}


def test_a_changed_weight_is_asked_about(listed: Listed) -> None:
    listed.asked(FIRST, SECOND)
    changed = FIRST.replace(POD, POD.replace("Masq    1", "Masq    7"))
    assert listed.asked(changed, SECOND) == {SERVER: {**WEB_ROWS, ROW: with_weight(7)}}
    assert listed.asked(FIRST, SECOND) == {SERVER: WEB_ROWS}


def test_a_virtual_server_without_real_servers_is_asked_about(listed: Listed) -> None:
    listed.asked(FIRST, SECOND)
    assert listed.asked(HEADINGS + WEB, SECOND) == {SERVER: {}}


def test_what_is_forgotten_is_asked_about_although_nothing_has_changed(listed: Listed) -> None:
    listed.asked(FIRST, SECOND)
    listed.listing.forget([SERVER_6, VirtualServer("10.96.0.99", 80, "TCP")])
    assert listed.asked(FIRST, SECOND).keys() == {SERVER_6}
    listed.listing.forget_all()
    assert listed.asked(FIRST, SECOND).keys() == {SERVER, SERVER_6}


def test_what_is_forgotten_after_it_was_read_is_asked_about_next_time(listed: Listed) -> None:
    listed._pieces = [FIRST.encode(), SECOND.encode()]
    for number, _ in enumerate(listed.listing.pieces(lambda _server, _rows: True)):
        if number == 0:
            listed.listing.forget([SERVER])
    assert listed.asked(FIRST, SECOND).keys() == {SERVER}


def test_virtual_servers_that_are_gone_leave_nothing_behind(listed: Listed) -> None:
    for number in range(100):
        listed.asked(FIRST, SECOND.replace("0053]", f"{number:04x}]"))
    assert len(listed.listing._records) <= 5


@pytest.mark.parametrize("server", [SERVER, SERVER_6, VirtualServer("255.1.2.3", 65535, "SCTP")])
def test_the_key_of_a_virtual_server_is_that_of_its_record(server: VirtualServer) -> None:
    assert server_of(key_of(server)) == server


@pytest.mark.parametrize("read_bytes", [64, 100, len(FIRST), len(FIRST + SECOND)])
def test_a_record_that_is_larger_than_what_is_read_at_once_is_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    monkeypatch.setattr(piecewise_listing, "_READ_BYTES", read_bytes)
    (tmp_path / "ip_vs").write_text(FIRST + SECOND)
    found = asked_about(PiecewiseListing(str(tmp_path / "ip_vs")))
    assert found == {SERVER: WEB_ROWS, SERVER_6: DNS_ROWS}


@pytest.mark.parametrize("piece_bytes", [1, len(FIRST), len(FIRST + SECOND) - 10])
def test_of_a_stretch_that_has_changed_only_what_has_changed_is_asked_about(
    listed: Listed, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(piecewise_listing, "_PIECE_BYTES", piece_bytes)
    assert listed.asked_in_one_stretch(FIRST + SECOND) == {SERVER: WEB_ROWS, SERVER_6: DNS_ROWS}
    changed = FIRST.replace(POD, POD.replace("Masq    1", "Masq    7"))
    for again in (FIRST, changed, FIRST):
        assert listed.asked_in_one_stretch(again + SECOND).keys() == ({SERVER} if again != listed.last else set())
        listed.last = again
    for server in (SERVER, SERVER_6):
        listed.listing.forget([server])
        assert listed.asked_in_one_stretch(FIRST + SECOND).keys() == {server}


def test_a_virtual_server_in_place_of_another_at_the_end_of_what_was_read_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "ip_vs").write_text(FIRST + SECOND)
    listing = PiecewiseListing(str(tmp_path / "ip_vs"))
    listing._buffer = listing._buffer[: len(FIRST)]
    other = FIRST.replace(WEB, WEB.replace(":0050", ":0051"))
    for text, expected in ((FIRST, {SERVER, SERVER_6}), (other, {SERVER_51})):
        (tmp_path / "ip_vs").write_text(text + SECOND)
        assert asked_about(listing).keys() == expected


def test_what_cannot_be_read_or_decoded_is_an_error(listed: Listed, tmp_path: Path) -> None:
    with pytest.raises(KernelError):
        list(PiecewiseListing(str(tmp_path / "none")).pieces(lambda _server, _rows: True))
    with pytest.raises(KernelError, match="cannot be decoded"):
        listed.asked(FIRST.replace("0AF40105:1F90", "0AF40105:XX"))
