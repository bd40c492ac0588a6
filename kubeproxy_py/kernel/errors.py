"""Errors of the kernel and of the tools that program it."""


class KernelError(Exception):
    """The kernel, or a tool that stands for it, could not be asked at all.

    ``hint`` says what the operator can do.
    """

    def __init__(self, message: str, *, errno: int = 0, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.errno = errno
        self.hint = hint
