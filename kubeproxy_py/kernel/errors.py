"""Errors of the kernel and of the programs that configure it."""

import os
from errno import errorcode

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


def errno_text(errno: int) -> str:
    """Return the system's text for *errno*; the number where it has none, as for ipset's (kernel/ipset/errors.py)."""
    return os.strerror(errno) if errno in errorcode else _INTERNAL_ERRNOS.get(errno, f"error {errno}")
