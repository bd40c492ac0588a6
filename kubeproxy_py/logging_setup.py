"""Log setup: a message and its structured values per line, on stderr, in kube-proxy's two formats and -v levels.

Commands that a person starts log in a third format, ``plain``: a sentence without time, process and source line.

Invariants:
- A record is one line, and contains no credentials. So is an uncaught exception.
- A resident process has a thread write its log (log_writer.py), so that it never waits for its reader. Other
  commands write themselves: their lines keep their place between those on stdout.
- Other libraries log from WARNING on only: at debug level the Kubernetes client logs complete responses.

``log.info`` is always visible, ``log.log(level(2), ...)`` from -v2 on, ``log.debug`` from -v4 on. Structured values
follow the message: ``log.info("Node not found", extra=values(node=name))``.
"""

import json
import logging
import math
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal, TextIO

from kubeproxy_py.log_writer import BackgroundHandler
from kubeproxy_py.terminal_text import printable, printable_lines

Format = Literal["text", "json", "plain"]

ROOT = "kubeproxy_py"  # the parent of all loggers of this package

# -v4 is DEBUG, as in Kubernetes' logging conventions; the other levels are spaced evenly.
_PER_VERBOSITY = (logging.INFO - logging.DEBUG) / 4

_SECRET_KEY = re.compile(r"token|password|secret|authorization|private.?key", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"(?<=bearer )[^\s\"',]{8,}|(?<=basic )[^\s\"',]{8,}"  # an Authorization header
    r"|\beyJ[\w-]{5,}\.[\w-]+\.[\w-]*"  # a JSON web token, such as a service account's (RFC 7519)
    r"|(?<=://)[^/\s@]+(?=@)"  # user:password in a URL
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_HIDDEN = "***"


_process_id = 0  # set by setup()
_background: BackgroundHandler | None = None  # set by write_in_background()


def setup(format: Format = "text", verbosity: int = 0, stream: TextIO | None = None) -> None:  # noqa: A002 - named as the flag
    """Log to *stream* (None: stderr), from this package up to -v *verbosity*; a later call replaces an earlier one."""
    global _process_id
    _process_id = os.getpid()
    logging.logProcesses = False  # avoids a system call for each line
    logging.basicConfig(handlers=[logging.StreamHandler(stream)], level=logging.WARNING, force=True)
    reconfigure(format, verbosity)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def reconfigure(format: Format, verbosity: int) -> None:  # noqa: A002 - named as the flag
    """Log in another *format* and up to another *verbosity*, to where the log is written now."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_LineFormatter(_FORMATS[format]))
    logging.getLogger(ROOT).setLevel(level(verbosity))


def write_in_background(stream: TextIO | None = None) -> Callable[[], None]:
    """Have a thread write the log to *stream* (None: stderr) from now on.

    Returns:
        What that thread must run until the process ends.
    """
    global _background
    root = logging.getLogger()
    _background = BackgroundHandler(stream or sys.stderr)
    _background.setFormatter(root.handlers[0].formatter)
    logging.basicConfig(handlers=[_background], level=root.level, force=True)
    return _background.writer.run


def flush() -> None:
    """Wait until all lines are written, but not longer than FLUSH_TIMEOUT_S."""
    if _background:
        _background.flush()


def dropped_lines() -> int:
    """Return the number of log lines that were dropped since the start, because nobody read them in time."""
    return _background.writer.dropped if _background else 0


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(ROOT).critical("Internal error (please report), exiting", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = args.thread.name if args.thread else "(unknown)"
    trace = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger(ROOT).critical(
        "Internal error (please report), thread stopped", extra=values(thread=name), exc_info=trace
    )


def level(verbosity: int) -> int:
    """Return the logging level of klog's V(*verbosity*)."""
    return max(1, logging.INFO - int(verbosity * _PER_VERBOSITY))


def values(**named: object) -> dict[str, Any]:
    """Return *named* as the ``extra`` of a logging call; they follow the message as ``key=value``."""
    return {"values": named}


class _LineFormatter(logging.Formatter):
    def __init__(self, line: Any) -> None:
        super().__init__()
        self.line = line

    def format(self, record: logging.LogRecord) -> str:
        text: str = self.line(record, _hide(record.getMessage()), dict(_values(record)))
        return text


def _text_line(record: logging.LogRecord, message: str, named: dict[str, Any]) -> str:
    """Format as klog: severity, date, time, process, source line] "message" key=value."""
    now = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
    micros = int(record.created % 1 * 1e6)
    source = f"{record.filename}:{record.lineno}"
    pairs = "".join(f" {key}={_text_value(value)}" for key, value in named.items())
    return f"{_severity(record)}{now}.{micros:06} {_process_id:7} {source}] {_quoted(message)}{pairs}"


def _json_line(record: logging.LogRecord, message: str, named: dict[str, Any]) -> str:
    """Format as Kubernetes' JSON: milliseconds since 1970, source line, message, V level, values.

    Errors have no V level there; warnings, which the format does not define, have a ``severity``.
    """
    fields: dict[str, Any] = {
        "ts": record.created * 1e3,
        "caller": f"{record.filename}:{record.lineno}",
        "msg": message,
    }
    if record.levelno <= logging.INFO:
        fields["v"] = math.ceil((logging.INFO - record.levelno) / _PER_VERBOSITY)
    elif record.levelno < logging.ERROR:
        fields["severity"] = "warning"
    return json.dumps(fields | {key: value for key, value in named.items() if key not in fields}, default=str)


def _plain_line(record: logging.LogRecord, message: str, named: dict[str, Any]) -> str:
    """Format as a sentence for a person: ``warning: message (key: value; key: value)``.

    A message that is composed elsewhere ("%s") contains its values already.  A traceback follows on lines of its own.
    """
    stack = named.pop("stack", "")
    pairs = {} if record.msg == "%s" else named
    details = "; ".join(f"{key.replace('_', ' ')}: {_printable(value)}" for key, value in pairs.items())
    line = f"{_PREFIXES[_severity(record)]}{printable(message)}{f' ({details})' if details else ''}"
    return f"{line}\n{printable_lines(stack.rstrip())}" if stack else line


_PREFIXES = {"E": "error: ", "W": "warning: ", "I": ""}


def _printable(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value))


_FORMATS = {"text": _text_line, "json": _json_line, "plain": _plain_line}


def _severity(record: logging.LogRecord) -> str:
    return "E" if record.levelno >= logging.ERROR else "W" if record.levelno >= logging.WARNING else "I"


def _values(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    """Yield the structured values without credentials; an exception becomes ``err`` and ``stack``."""
    for key, value in getattr(record, "values", {}).items():
        yield key, _HIDDEN if _SECRET_KEY.search(key) else _plain(value)
    if record.exc_info and record.exc_info[1]:
        yield "err", _hide(str(record.exc_info[1]) or type(record.exc_info[1]).__name__)
        yield "stack", _hide("".join(traceback.format_exception(*record.exc_info)))


def _plain(value: object) -> Any:
    """Return numbers and booleans unchanged, everything else as text without credentials."""
    return value if value is None or isinstance(value, bool | int | float) else _hide(str(value))


def _hide(text: str) -> str:
    return _SECRET_VALUE.sub(_HIDDEN, text)


def _text_value(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    # Characters that a terminal or a log collector may read as the end of a line are escaped.
    return json.dumps(text, ensure_ascii=not text.isprintable())
