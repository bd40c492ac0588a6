"""Top as lines of text, for a terminal of any width."""

from collections.abc import Callable, Iterator, Sequence

from kubeproxy_py.diagnose.document import Rates, Top, TopRealServer, TopService
from kubeproxy_py.diagnose.rates import title_of
from kubeproxy_py.net import join_host_port
from kubeproxy_py.terminal_text import printable

_Row = TopService | TopRealServer
_THOUSAND = 1000.0
_UNITS = ("", "k", "M", "G", "T", "P")
_SMALLEST = 0.05
_SMALL = 9.95  # below it one decimal is shown

_Cell = Callable[[_Row], str]


def number_text(number: float) -> str:
    """Return *number* in at most five characters: ``0``, ``0.5``, ``12``, ``3.4k``, ``120M``."""
    if 0 < number < _SMALLEST:
        return "<0.1"
    unit = 0
    while number >= _THOUSAND - 0.5 and unit < len(_UNITS) - 1:
        number, unit = number / _THOUSAND, unit + 1
    text = f"{number:.1f}" if 0 < number < _SMALL else f"{number:.0f}"
    return text.removesuffix(".0") + _UNITS[unit]


def _rate(*fields: str) -> _Cell:
    def cell(row: _Row) -> str:
        rates: Rates | None = row.rates
        return number_text(sum(getattr(rates, field) for field in fields)) if rates else "-"

    return cell


def _endpoints(row: _Row) -> str:
    if isinstance(row, TopRealServer):
        return row.status
    return f"{row.serving}+{row.draining} dr" if row.draining else str(row.serving)


COLUMNS: tuple[tuple[str, int, _Cell], ...] = (
    ("CONN/S", 6, _rate("connections")),
    ("PKTS/S", 6, _rate("received_packets", "sent_packets")),
    ("IN B/S", 6, _rate("received_bytes")),
    ("OUT B/S", 7, _rate("sent_bytes")),
    ("ACTIVE", 6, lambda row: str(row.active)),
    ("INACT", 6, lambda row: str(row.inactive)),
    ("ENDPOINTS", 9, _endpoints),
)
"""Title, width and cell of each column but the last, which has the name."""


def header() -> str:
    """Return the line of titles."""
    return _line([title for title, _, _ in COLUMNS], "SERVICE")


def service_line(service: TopService) -> str:
    """Return the line of *service*."""
    addresses = " ".join(service.addresses) if service.name else ""
    return _line([cell(service) for _, _, cell in COLUMNS], f"{title_of(service)}  {addresses}".rstrip())


def real_server_line(real: TopRealServer) -> str:
    """Return the line of *real*, which follows that of its Service."""
    where = f" on {real.node}" if real.node else ""
    name = f"  -> {join_host_port(real.address, real.port)}" + (f"  {real.pod}{where}" if real.pod else "")
    return _line([cell(real) for _, _, cell in COLUMNS], name)


def table(services: Sequence[TopService], *, real_servers: bool) -> Iterator[tuple[_Row, str]]:
    """Yield each Service, and, with *real_servers*, each of its real servers, with its line."""
    for service in services:
        yield service, service_line(service)
        if real_servers:
            yield from ((real, real_server_line(real)) for real in service.real_servers)


def top_text(top: Top, *, real_servers: bool) -> str:
    """Return *top* as a table."""
    notes = [f"INCOMPLETE: {printable(top.problem)}"] if top.problem else []
    lines = [line for _, line in table(top.services, real_servers=real_servers)]
    return "".join(f"{line}\n" for line in (*notes, header(), *(lines or ["Nothing matches"])))


def _line(cells: Sequence[str], name: str) -> str:
    numbers = (cell.rjust(width) for cell, (_, width, _) in zip(cells, COLUMNS, strict=True))
    return printable(f"{' '.join(numbers)}  {name}")
