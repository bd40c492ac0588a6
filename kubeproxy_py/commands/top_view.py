"""What `top` shows, and how keys change it; nothing here knows the terminal."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from kubeproxy_py.diagnose.document import Top, TopService
from kubeproxy_py.diagnose.rates import SORTS, arranged, sum_of
from kubeproxy_py.diagnose.top_text import header, number_text, table
from kubeproxy_py.terminal_text import printable

Style = Literal["plain", "title", "header", "warning", "draining"]
Line = tuple[str, Style]

HELP = "q quit  s sort  r reverse  / filter  e real servers  p pause  arrows, PgUp, PgDn scroll"
_FRAME_LINES = 4  # title, problem or help, header, prompt
_FILTER_MAX = 100
_ESCAPE, _ERASE = "\x1b", ("\x7f", "\x08", "backspace")


class TopView:
    """What is shown.

    Args:
        sort: One of SORTS.
        wanted: The filter.
        real_servers: List the real servers of each Service.
    """

    def __init__(self, sort: str = "connections", wanted: str = "", *, real_servers: bool = False) -> None:
        self.sort = sort
        self.wanted = wanted
        self.real_servers = real_servers
        self.is_reversed = False
        self.is_paused = False
        self.is_done = False
        self._typing = False  # the filter
        self._first = 0  # line of the table that is shown first
        self._page = 1
        self._top: Top | None = None
        self._actions: dict[str, Callable[[], None]] = {
            "q": self._quit,
            "s": lambda: self._next_sort(1),
            "S": lambda: self._next_sort(-1),
            "r": self._reverse,
            "e": self._toggle_real_servers,
            "p": self._toggle_pause,
            " ": self._toggle_pause,
            "/": self._start_typing,
            _ESCAPE: self._clear_filter,
            "up": lambda: self._scroll(-1),
            "down": lambda: self._scroll(1),
            "page up": lambda: self._scroll(-self._page),
            "page down": lambda: self._scroll(self._page),
            "home": lambda: self._scroll(-self._first),
            "end": lambda: self._scroll(1 << 30),
        }

    def update(self, top: Top) -> None:
        """Show *top* from now on, unless paused."""
        if not self.is_paused:
            self._top = top

    def on_key(self, key: str) -> None:
        """Do what *key*, a character or the name of a key, asks for; others do nothing."""
        if self._typing:
            self._on_filter_key(key)
        elif action := self._actions.get(key):
            action()

    def lines(self, height: int, width: int) -> list[Line]:
        """Return what a terminal of this size shows, from the top; no line is wider."""
        if self._top is None:
            waiting: Line = ("Reading the first two samples...", "plain")
            return [waiting]
        services = arranged(self._top.services, self.sort, self.wanted, reverse=self.is_reversed)
        rows = list(self._rows(services))
        self._page = max(1, height - _FRAME_LINES)
        self._first = max(0, min(self._first, len(rows) - self._page))
        shown = rows[self._first : self._first + self._page]
        problem = printable(self._top.problem)
        lines: list[Line] = [
            (self._title(self._top, services), "title"),
            (f"INCOMPLETE: {problem}", "warning") if problem else (HELP, "plain"),
            (header(), "header"),
            *(shown or [("Nothing matches", "plain")]),
        ]
        lines += [("", "plain")] * (height - 1 - len(lines))
        lines.insert(max(0, height - 1), (self._prompt(len(rows)), "plain"))
        return [(text[:width], style) for text, style in lines[:height]]

    def _rows(self, services: Sequence[TopService]) -> Iterator[Line]:
        for row, text in table(services, real_servers=self.real_servers):
            is_draining = row.draining if isinstance(row, TopService) else row.status == "draining"
            yield text, "draining" if is_draining else "plain"

    def _title(self, top: Top, services: Sequence[TopService]) -> str:
        total = sum_of(service.rates for service in services)
        rates = (
            f"{number_text(total.connections)} conn/s, {number_text(total.received_bytes)} B/s in, "
            f"{number_text(total.sent_bytes)} B/s out"
            if total
            else "no rates yet"
        )
        paused = "PAUSED  " if self.is_paused else ""
        return f"{paused}{top.time}  {len(services):,} of {len(top.services):,} Service ports: {rates}"

    def _prompt(self, count: int) -> str:
        if self._typing:
            return f"/{printable(self.wanted)}_"
        order = f"sort: {self.sort}{' reversed' if self.is_reversed else ''}"
        where = f"lines {min(count, self._first + 1)}-{min(count, self._first + self._page)} of {count:,}"
        return "  ".join(filter(None, (order, f"filter: {printable(self.wanted)}" if self.wanted else "", where)))

    def _on_filter_key(self, key: str) -> None:
        if key == _ESCAPE:
            self._clear_filter()
        elif key in ("\n", "\r", "enter"):
            self._typing = False
        elif key in _ERASE:
            self.wanted = self.wanted[:-1]
        elif len(key) == 1 and key.isprintable() and len(self.wanted) < _FILTER_MAX:
            self.wanted += key

    def _start_typing(self) -> None:
        self._typing = True

    def _clear_filter(self) -> None:
        self.wanted, self._typing = "", False

    def _quit(self) -> None:
        self.is_done = True

    def _next_sort(self, by: int) -> None:
        names = list(SORTS)
        self.sort = names[(names.index(self.sort) + by) % len(names)]

    def _reverse(self) -> None:
        self.is_reversed = not self.is_reversed

    def _toggle_real_servers(self) -> None:
        self.real_servers = not self.real_servers

    def _toggle_pause(self) -> None:
        self.is_paused = not self.is_paused

    def _scroll(self, by: int) -> None:
        self._first = max(0, self._first + by)
