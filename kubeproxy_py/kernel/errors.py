"""Errors of the kernel and of the programs that configure it."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EBADMSG, errorcode

from kubeproxy_py.hinted_error import HintedError

_INTERNAL_ERRNOS = {524: "not supported"}  # ENOTSUPP, which the kernel should not return but does


class KernelError(HintedError):
    """The kernel, or a program that configures it, could not be used at all.

    Args:
        message: What failed, with the object's name.
        errno: The kernel's error number; 0 if there is none.
        hint: What the operator can do; appended to the message in parentheses.
    """

    def __init__(self, message: str, *, errno: int = 0, hint: str = "") -> None:
        super().__init__(message, hint)
        self.errno = errno


MALFORMED = (struct.error, LookupError, ValueError, OverflowError)
"""What decoding bytes or text of any content may raise."""


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Have what cannot be decoded within the `with` be a KernelError, so that it is read again as after any other one.

    Used around a complete listing, or a part of one, because around each row it would cost as much as decoding it.

    Args:
        what: what is decoded, for the message.

    Raises:
        KernelError: with EBADMSG; *what* is not as the kernel, or the program, has always written it.
    """
    try:
        yield
    except MALFORMED as error:
        hint = "please report it, with the kernel's version"
        raise KernelError(f"{what} cannot be decoded: {error!r:.200}", errno=EBADMSG, hint=hint) from error


def errno_text(errno: int) -> str:
    """Return the system's text for *errno*; the number where it has none, as for ipset's (kernel/ipset/errors.py)."""
    return os.strerror(errno) if errno in errorcode else _INTERNAL_ERRNOS.get(errno, f"error {errno}")
