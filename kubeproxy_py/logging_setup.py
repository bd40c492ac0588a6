"""The log: one sentence a line and its values, on stderr, in kube-proxy's two formats and by its -v levels.

Law: a record is one line, whatever is in it, and no credential leaves by it; what Python would print of an exception
that nobody caught is such a record too.  Other people's libraries are heard from WARNING on only: at debug level the
Kubernetes client prints whole answers.

``logger.info`` is always seen, ``logger.log(level(2), ...)`` from -v2 on, ``logger.debug`` from -v4 on.  Values go
beside the sentence: ``logger.info("synced 1 Service", extra=values(added=1))``.
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
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal, TextIO

ROOT = "kubeproxy_py"  # the parent of all our loggers

# -v4 is DEBUG, as in Kubernetes' logging conventions; what lies between and beyond is spread evenly.
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


_process = 0  # our own number, known since the last setup


def setup(format: Literal["text", "json"] = "text", verbosity: int = 0, stream: TextIO | None = None) -> None:  # noqa: A002 - named as the flag
    """Send the log to *stream* (None: stderr), and of our own records those up to -v *verbosity*.

    May be called again; the last call counts.
    """
    global _process
    _process = os.getpid()
    logging.logProcesses = False  # it would be asked for at each line
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines(_FORMATS[format]))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(ROOT).setLevel(level(verbosity))
    logging.captureWarnings(True)
    sys.excepthook = _tell_uncaught
    threading.excepthook = _tell_uncaught_in_thread


def _tell_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(ROOT).critical("ends for a bug: please report it", exc_info=(kind, error, trace))


def _tell_uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_type is SystemExit or told.exc_value is None:
        return
    name = told.thread.name if told.thread else "(unknown)"
    trace = (told.exc_type, told.exc_value, told.exc_traceback)
    logging.getLogger(ROOT).critical(f"the thread {name} ends for a bug: please report it", exc_info=trace)


def level(verbosity: int) -> int:
    """The logging level of klog's V(*verbosity*)."""
    return max(1, logging.INFO - int(verbosity * _PER_VERBOSITY))


def values(**named: object) -> dict[str, Any]:
    """*named* as the ``extra`` of a logging call: they follow the sentence as ``key=value``."""
    return {"values": named}


class _Lines(logging.Formatter):
    def __init__(self, line: Any) -> None:
        super().__init__()
        self.line = line

    def format(self, record: logging.LogRecord) -> str:
        text: str = self.line(record, _hide(record.getMessage()), dict(_values(record)))
        return text


def _text_line(record: logging.LogRecord, message: str, named: dict[str, Any]) -> str:
    """klog's structured line: severity, date, time, process, place] "sentence" key=value."""
    now = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
    micros = int(record.created % 1 * 1e6)
    place = f"{record.filename}:{record.lineno}"
    pairs = "".join(f" {key}={_text_value(value)}" for key, value in named.items())
    return f"{_severity(record)}{now}.{micros:06} {_process:7} {place}] {_quoted(message)}{pairs}"


def _json_line(record: logging.LogRecord, message: str, named: dict[str, Any]) -> str:
    """The line of Kubernetes' JSON format: milliseconds since 1970, place, sentence, V level, values.

    Errors have no V level there; warnings, which it does not know, have a ``severity``.
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


_FORMATS = {"text": _text_line, "json": _json_line}


def _severity(record: logging.LogRecord) -> str:
    return "E" if record.levelno >= logging.ERROR else "W" if record.levelno >= logging.WARNING else "I"


def _values(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    """The values beside the sentence, without credentials; an exception is ``err`` and its ``stack``."""
    for key, value in getattr(record, "values", {}).items():
        yield key, _HIDDEN if _SECRET_KEY.search(key) else _plain(value)
    if record.exc_info and record.exc_info[1]:
        yield "err", _hide(str(record.exc_info[1]) or type(record.exc_info[1]).__name__)
        yield "stack", _hide("".join(traceback.format_exception(*record.exc_info)))


def _plain(value: object) -> Any:
    """Numbers and booleans as they are, all else as text without credentials."""
    return value if value is None or isinstance(value, bool | int | float) else _hide(str(value))


def _hide(text: str) -> str:
    return _SECRET_VALUE.sub(_HIDDEN, text)


def _text_value(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    # What a terminal or a collector of logs might take for the end of a line is escaped.
    return json.dumps(text, ensure_ascii=not text.isprintable())
