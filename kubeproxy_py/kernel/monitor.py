"""AddressMonitor: tells that addresses or links of this host have changed.

Law: it says that something changed, never what; whoever is told reads for himself.  So notifications are not even
taken apart, and one that was lost (ENOBUFS: more came than were read) is as good as one that was read.  Many at once
are one: after the first, it waits, empties the socket, and only then tells.  What changes after that is told again.

Raw on purpose: importing pyroute2 for it would cost 90-140 ms at start and 21 MiB for as long as the agent lives.
"""

import os
import select
import socket
import threading
from collections.abc import Callable
from errno import ENOBUFS

from kubeproxy_py.kernel.netlink import NETLINK_ROUTE

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_READ_BYTES = 4096  # a longer message is cut; nobody reads it
# Small, so that a burst (10,000 addresses of our own) runs over at once instead of having to be read: about 80 reads.
_RECEIVE_BUFFER_BYTES = 32 << 10


class AddressMonitor:
    """Calls *on_change*, in a thread of its own, within *debounce_s* seconds of a change of addresses or links.

    It listens from the moment it is made, in the network namespace of its maker; start() begins to tell.
    Raises OSError if the kernel gives no socket.
    """

    def __init__(self, on_change: Callable[[], None], *, debounce_s: float = 0.1) -> None:
        self._on_change = on_change
        self._debounce_s = debounce_s
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._socket.bind((0, _GROUPS))
        self._stopped = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._listen, name="address-monitor", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close everything; *on_change* isn't called after this returns."""
        self._stopped.set()
        os.write(self._wake_write, b"x")
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            poll.poll()
            if self._stopped.wait(self._debounce_s):
                return
            self._drain()
            self._on_change()

    def _drain(self) -> None:
        """Take all that is queued off the socket."""
        while True:
            try:
                self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
