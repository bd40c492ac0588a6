"""The terminal of `top`: the only module that imports curses, which knows every terminal and its keys."""

import curses
import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from kubeproxy_py.commands.top_view import Style, TopView
from kubeproxy_py.diagnose.document import Top

_ESCAPE_DELAY_MS = 25  # how long a lone Esc waits for the rest of a key's sequence
_WAIT_MAX_MS = 200
_BUSY_FACTOR = 3  # samples take at most a third of a core
_REDRAW = "\x0c"  # Ctrl-L: another program wrote to the terminal
_KEYS: dict[int, str] = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "page up",
    curses.KEY_NPAGE: "page down",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
}


class TerminalError(Exception):
    """The terminal cannot be used."""


def show(view: TopView, take: Callable[[], Top | None], interval_s: float) -> None:
    """Show *view* until it is done, with what *take* returns every *interval_s*.

    Raises:
        TerminalError: The terminal cannot be used.
    """
    os.environ.setdefault("ESCDELAY", str(_ESCAPE_DELAY_MS))
    try:
        curses.wrapper(lambda screen: _run(screen, view, take, interval_s))
    except curses.error as error:
        raise TerminalError(str(error)) from None


def _run(screen: "curses.window", view: TopView, take: Callable[[], Top | None], interval_s: float) -> None:
    styles = _styles()
    due_s = 0.0
    while not view.is_done:
        now_s = monotonic()
        if now_s >= due_s and not view.is_paused:
            if top := take():
                view.update(top)
            due_s = now_s + max(interval_s, (monotonic() - now_s) * _BUSY_FACTOR)
        _paint(screen, view, styles)
        wait_ms = int((due_s - monotonic()) * 1000)
        screen.timeout(max(1, min(_WAIT_MAX_MS, wait_ms) if wait_ms > 0 else _WAIT_MAX_MS if view.is_paused else 1))
        key = _read_key(screen)
        if key == _REDRAW:
            screen.redrawwin()
        elif key:
            view.on_key(key)


def _styles() -> dict[Style, int]:
    with_colour = curses.has_colors()
    if with_colour:
        curses.use_default_colors()
        curses.init_pair(1, curses.COLOR_YELLOW, -1)
        curses.init_pair(2, curses.COLOR_RED, -1)
    with suppress(curses.error):  # the terminal cannot hide it
        curses.curs_set(0)
    return {
        "plain": curses.A_NORMAL,
        "title": curses.A_BOLD,
        "header": curses.A_REVERSE,
        "draining": curses.color_pair(1) if with_colour else curses.A_DIM,
        "warning": curses.A_BOLD | (curses.color_pair(2) if with_colour else 0),
    }


def _paint(screen: "curses.window", view: TopView, styles: dict[Style, int]) -> None:
    height, width = screen.getmaxyx()
    screen.erase()
    for row, (text, style) in enumerate(view.lines(height, width)):
        padded = text.ljust(width) if style == "header" else text
        with suppress(curses.error):  # the cursor cannot move behind the last cell, which is written nevertheless
            screen.addnstr(row, 0, padded, width, styles[style])
    screen.refresh()


def _read_key(screen: "curses.window") -> str:
    """Return the key that was pressed, if any in time; a changed size of the window is none."""
    try:
        key = screen.get_wch()
    except curses.error:  # no key
        return ""
    if isinstance(key, str):
        return key
    if key == curses.KEY_RESIZE:
        curses.update_lines_cols()
        return ""
    return _KEYS.get(key, "")
