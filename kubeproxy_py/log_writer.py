"""LogWriter: writes log lines in a thread of its own, so that no thread waits for the reader of the log.

Invariants:
- Logging takes no longer when nobody reads: lines wait in a queue of bounded size, and what does not fit is dropped.
- No line disappears silently: at the place of those that were dropped, a line says how many there were.
- Lines are written in the order in which they were logged, each completely.

Why not otherwise: O_NONBLOCK would be set on the file that stderr is, which every process shares that has the same
terminal, pipe or journal socket. Python's QueueHandler and QueueListener put records in a queue that may be bounded,
but the listener can be stopped only by waiting for the reader, without a limit, and it says nothing of dropped lines.
"""

import logging
import os
import select
from collections import deque
from collections.abc import Callable
from threading import Condition, Lock
from typing import TextIO

QUEUE_MAX_CHARACTERS = 1 << 20  # some 5,000 lines
FLUSH_TIMEOUT_S = 1.0  # how long the end of the process waits for a reader


class _Gap:
    """A place in the queue at which lines were dropped."""

    def __init__(self) -> None:
        self.lines = 0


class LogWriter:
    """Writes the lines that were put into its queue.

    Args:
        write: Writes text, and returns whether it could.
        gap_line: Returns the line that says that so many lines were dropped.
        limit: The most characters that may wait.
    """

    def __init__(
        self, write: Callable[[str], bool], gap_line: Callable[[int], str], limit: int = QUEUE_MAX_CHARACTERS
    ) -> None:
        self.dropped = 0  # lines since the start
        self._write = write
        self._gap_line = gap_line
        self._limit = limit
        self._changed = Condition(Lock())  # protects what follows
        self._queue: deque[str | _Gap] = deque()
        self._waiting = 0  # characters
        self._is_full = False
        self._is_writing = False

    def put(self, line: str) -> None:
        """Have *line* written soon, or drop it; any thread, never blocks."""
        with self._changed:
            if self._waiting + len(line) > self._limit:
                self._is_full = True  # until half of the queue is written: one gap instead of one after each line
            if self._is_full:
                self._count_dropped()
            else:
                self._queue.append(line)
                self._waiting += len(line)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all lines are written; return whether they were within *timeout_s*."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._is_writing, timeout_s)

    def run(self) -> None:
        """Write lines until the process ends; in the writer's thread."""
        while True:
            text = self._next()
            if not self._write(text):
                self.dropped += 1

    def _next(self) -> str:
        """Wait for the next line, remove it from the queue and return it."""
        with self._changed:
            self._is_writing = False
            self._changed.notify_all()
            while not self._queue:
                self._changed.wait()
            self._is_writing = True
            item = self._queue.popleft()
            if isinstance(item, str):
                self._waiting -= len(item)
            if self._waiting <= self._limit // 2:
                self._is_full = False
            return item if isinstance(item, str) else self._gap_line(item.lines)

    def _count_dropped(self) -> None:
        if not (self._queue and isinstance(self._queue[-1], _Gap)):
            self._queue.append(_Gap())
        gap = self._queue[-1]
        assert isinstance(gap, _Gap)
        gap.lines += 1
        self.dropped += 1


class BackgroundHandler(logging.Handler):
    """Formats each record in the thread that logs it, and has a LogWriter write the line to *stream*."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.writer = LogWriter(_write_to(stream), self._gap_line)

    def emit(self, record: logging.LogRecord) -> None:
        """Format *record* and have its line written."""
        try:
            self.writer.put(self.format(record) + "\n")
        except Exception:  # values of any type are formatted, and logging must not fail
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the library's
        """Log that *record* cannot be formatted; the library would print to stderr, and wait for its reader."""
        message = f"Failed to format a log record of {record.filename}:{record.lineno} (please report)"
        self.writer.put(self.format(_record(logging.ERROR, message)) + "\n")

    def flush(self) -> None:
        """Wait until all lines are written, but not longer than FLUSH_TIMEOUT_S."""
        self.writer.flush(FLUSH_TIMEOUT_S)

    def _gap_line(self, lines: int) -> str:
        message = f"Dropped {lines} log lines, because they were not read in time"
        return self.format(_record(logging.WARNING, message)) + "\n"


def _record(severity: int, message: str) -> logging.LogRecord:
    return logging.LogRecord(__name__, severity, __file__, 0, message, None, None)


def _write_to(stream: TextIO) -> Callable[[str], bool]:
    """Return a function that writes text to *stream* and returns whether it could.

    It writes to the file itself: the stream's lock would be held while a reader hangs, and the interpreter aborts if it
    cannot take it at its end.
    """
    try:
        file = stream.fileno()
    except (OSError, ValueError):  # in memory
        return lambda text: bool(stream.write(text))

    def write(text: str) -> bool:
        data = memoryview(text.encode(errors="backslashreplace"))
        while data:
            try:
                data = data[os.write(file, data) :]
            except BlockingIOError:  # another process has set O_NONBLOCK on the same file
                poll = select.poll()
                poll.register(file, select.POLLOUT)
                poll.poll()
            except OSError:  # no reader any more, or a full disk: the agent goes on, and later lines may succeed
                return False
        return True

    return write
