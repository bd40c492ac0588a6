"""The mark of real servers from /proc/net/ip_vs: it shows weights and replaced real servers, and no connections."""

from pathlib import Path

import pytest

from kubeproxy_py.kernel import IPV4_REAL_SERVERS, IPV6_REAL_SERVERS, Mark
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.decode import FOREIGN_FORWARDING
from kubeproxy_py.kernel.ipvs.listing import ListingReader
from kubeproxy_py.model.rows import NOT_LISTED, RealServer, RealServerSpec, VirtualServer, mark_server


def listed(weight: int) -> RealServerSpec:
    """A real server as the listing shows it: without thresholds."""
    return RealServerSpec(weight, NOT_LISTED, NOT_LISTED)


HEADINGS = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
"""
WEB = "TCP  0A60000A:0050 rr persistent 10800 FFFFFFFF\n"
POD = "  -> 0AF40105:1F90      Masq    1      0          0         \n"
OTHER_POD = "  -> 0AF40205:1F90      Masq    0      7          0         \n"
TUNNEL = "  -> 0AF40305:1F90      Tunnel  1      0          0         \n"
DNS = "UDP  [fd00:0010:0096:0000:0000:0000:0000:0053]:0035 rr \n"
POD_6 = "  -> [fd00:0010:0244:0001:0000:0000:0000:0005]:1F90      Masq    1      0          0         \n"
MARKED = "FWM  00000007 rr \n"
LISTING = HEADINGS + WEB + POD + OTHER_POD + TUNNEL + MARKED + POD + DNS + POD_6

SERVER = VirtualServer("10.96.0.10", 80, "TCP")
SERVER_6 = VirtualServer("fd00:10:96::53", 53, "UDP")
ROW = RealServer(SERVER, "10.244.1.5", 8080)


class Listing:
    """A file in place of the kernel's, and its reader."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.reader = ListingReader(str(path))

    def mark(self, text: str) -> Mark:
        self._path.write_text(text)
        return self.reader.read()


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    return Listing(tmp_path / "ip_vs")


def test_the_mark_has_all_real_servers_that_can_be_ours(listing: Listing) -> None:
    mark = listing.mark(LISTING)
    assert dict(mark.changed) == {
        ROW: listed(1),
        RealServer(SERVER, "10.244.2.5", 8080): listed(0),
        RealServer(SERVER, "10.244.3.5", 8080): FOREIGN_FORWARDING,
        RealServer(SERVER_6, "fd00:10:244:1::5", 8080): listed(1),
    }
    assert dict(mark.counts) == {IPV4_REAL_SERVERS: 3, IPV6_REAL_SERVERS: 1}


@pytest.mark.parametrize(
    "other",
    [
        LISTING,
        LISTING.replace("7          0 ", "0          12345678901 "),
        HEADINGS + DNS + POD_6 + WEB + OTHER_POD + POD + TUNNEL,
        LISTING.replace("persistent 10800", "persistent 300"),
    ],
    ids=["the same", "other connections", "another order", "another virtual server's configuration"],
)
def test_the_mark_does_not_change_with_what_is_no_real_server(listing: Listing, other: str) -> None:
    first = listing.mark(LISTING)
    assert listing.mark(other) is first


def test_the_mark_changes_with_a_weight_and_has_the_real_server(listing: Listing) -> None:
    first = listing.mark(LISTING)
    mark = listing.mark(LISTING.replace(POD, POD.replace("Masq    1", "Masq    7")))
    assert mark.value != first.value
    assert dict(mark.changed)[ROW] == listed(7)
    assert {key.virtual_server for key, _ in mark.changed if isinstance(key, RealServer)} == {SERVER}


@pytest.mark.parametrize("deleted", [POD, DNS + POD_6, POD_6, WEB + POD + OTHER_POD + TUNNEL])
def test_the_mark_changes_when_a_real_server_is_deleted(listing: Listing, deleted: str) -> None:
    first = listing.mark(LISTING)
    mark = listing.mark(LISTING.replace(deleted, "", 1))
    assert (mark.value != first.value, mark.counts != first.counts) == (True, True)


def test_a_real_server_in_place_of_another_changes_the_mark_but_not_the_number(listing: Listing) -> None:
    first = listing.mark(LISTING)
    mark = listing.mark(LISTING.replace(POD, POD.replace("0AF40105", "0AF40909"), 1))
    assert (mark.value != first.value, mark.counts == first.counts) == (True, True)
    assert RealServer(SERVER, "10.244.9.9", 8080) in dict(mark.changed)


@pytest.mark.parametrize("place", ["0AF4010:1F90", "0AF40105:XX", "[fd00]:1F90", "0AF401050A:1F90"])
def test_a_line_that_cannot_be_decoded_is_an_error(listing: Listing, place: str) -> None:
    with pytest.raises(KernelError, match="cannot be decoded"):
        listing.mark(HEADINGS + WEB + POD.replace("0AF40105:1F90", place))


def test_a_file_that_does_not_exist_is_an_error_until_it_does(listing: Listing) -> None:
    with pytest.raises(KernelError):
        listing.reader.read()
    assert listing.mark(LISTING).changed


def test_real_servers_by_mark_are_among_them_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "ip_vs"
    first, second = "FWM  00002002 rr \n", "FWM  00002002 sh persistent 10800 FFFFFFFF\n"
    by_mark = first + POD + second + POD_6 + "FWM  00002003 rr \n"
    path.write_text(HEADINGS + WEB + OTHER_POD + by_mark)
    mark = ListingReader(str(path), marks=True).read()
    assert dict(mark.changed) == {
        RealServer(SERVER, "10.244.2.5", 8080): listed(0),
        RealServer(mark_server("IPv4", 0x2002), "10.244.1.5", 8080): listed(1),
        RealServer(mark_server("IPv6", 0x2002), "fd00:10:244:1::5", 8080): listed(1),
    }
    assert dict(mark.counts) == {IPV4_REAL_SERVERS: 2, IPV6_REAL_SERVERS: 1}
