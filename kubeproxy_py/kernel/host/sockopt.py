"""getsockopt(2) with a request in its buffer, as older kernel interfaces use it; Python's own cannot send one."""

import socket
from typing import Any


class SocketOptions:
    """The options of one *level* of a socket of family *domain*, in the network namespace in which it was created.

    Python's global lock is not released during the call, because the kernel answers within microseconds.

    Raises:
        OSError: The socket could not be created.
        ImportError: This Python has no ctypes.
    """

    def __init__(self, domain: int, level: int) -> None:
        import ctypes  # 6 ms, which only users of this class pay

        self._ctypes = ctypes
        self._getsockopt: Any = ctypes.PyDLL(None, use_errno=True).getsockopt
        self._length = ctypes.c_uint32()
        self._level = level
        self._socket = socket.socket(domain, socket.SOCK_DGRAM)

    def get(self, option: int, buffer: bytearray) -> None:
        """Overwrite *buffer*, which contains the request, with the kernel's answer.  Raises OSError.

        A positive return value is no error: some options of x_tables return what they were asked for.
        """
        ctypes, length = self._ctypes, self._length
        length.value = len(buffer)
        data = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        if self._getsockopt(self._socket.fileno(), self._level, option, data, ctypes.byref(length)) < 0:
            raise OSError(ctypes.get_errno(), "getsockopt")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
