"""What commands print: the only module that writes to standard output, and to standard error besides the log.

Invariants:
- What is printed is safe for a terminal (terminal_text.py), from any source.
- A reader that is gone ends the command without a message, and any other failure to write is an error: output that is
  not complete is never a success.
"""

import os
import sys
from typing import TextIO

from kubeproxy_py.terminal_text import printable_json, printable_lines


class OutputError(Exception):
    """Standard output cannot be written."""


class ReaderGoneError(Exception):
    """Nobody reads standard output any more."""


def print_lines(text: str) -> None:
    """Print the lines of *text* to standard output.  Raises OutputError and ReaderGoneError."""
    print_raw(printable_lines(text))


def print_json(document: str) -> None:
    """Print a JSON *document* to standard output.  Raises OutputError and ReaderGoneError."""
    print_raw(printable_json(document))


def print_raw(text: str) -> None:
    """Print *text*, which is safe already or has colours, to standard output.

    Raises OutputError and ReaderGoneError.
    """
    try:
        _stdout().write(text)
    except OSError as error:
        _fail(error)


def flush() -> None:
    """Have everything written that was printed.  Raises OutputError and ReaderGoneError."""
    if sys.stdout is None:
        return  # nothing was printed
    try:
        sys.stdout.flush()
    except OSError as error:
        _fail(error)


def print_note(text: str) -> None:
    """Print "Note: *text*" to standard error: what the reader of standard output should know of it."""
    print_to_stderr(f"Note: {text}\n")


def print_usage_error(message: str, help_command: str) -> None:
    """Print *message* to standard error, and which command prints how it is used."""
    print_to_stderr(f'error: {message}\nSee "{help_command}".\n')


def print_to_stderr(text: str) -> None:
    """Print the lines of *text* to standard error; if that cannot be written, do nothing."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(printable_lines(text))
        sys.stderr.flush()
    except OSError:
        return  # there is nowhere to say so


def replace_unencodable() -> None:
    """Have characters escaped from now on that the locale of this process cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _stdout() -> TextIO:
    if sys.stdout is None:  # it was closed when the process was started
        raise OutputError("standard output cannot be written: it is closed")
    return sys.stdout


def _fail(error: OSError) -> None:
    """Raise what *error* of writing means, and have what is left in the buffer discarded."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, _stdout().fileno())  # the interpreter writes the buffer when it ends
    os.close(descriptor)
    if isinstance(error, BrokenPipeError):
        raise ReaderGoneError from None
    raise OutputError(f"standard output cannot be written: {error.strerror}") from None
