"""getsockopt(2) with a request in its buffer, as the kernel's older interfaces have it; Python's own can't take one.

Law: the buffer is the caller's, request and answer, and is read and written while the call lasts, no longer.
"""

import socket
from typing import Any


class SocketOptions:
    """The options of one *level* of a socket of family *domain*, in the network namespace in which it was made.

    The interpreter's lock is held while the kernel answers, since that takes microseconds.  Raises OSError, and
    ImportError where Python has no ctypes.
    """

    def __init__(self, domain: int, level: int) -> None:
        import ctypes  # 6 ms, which only those pay who ask

        self._ctypes = ctypes
        self._getsockopt: Any = ctypes.PyDLL(None, use_errno=True).getsockopt
        self._length = ctypes.c_uint32()
        self._level = level
        self._socket = socket.socket(domain, socket.SOCK_DGRAM)

    def ask(self, option: int, buffer: bytearray) -> None:
        """Have the kernel answer in *buffer*, which holds the request.  Raises OSError."""
        ctypes, length = self._ctypes, self._length
        length.value = len(buffer)
        data = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        if self._getsockopt(self._socket.fileno(), self._level, option, data, ctypes.byref(length)):
            raise OSError(ctypes.get_errno(), "getsockopt")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
