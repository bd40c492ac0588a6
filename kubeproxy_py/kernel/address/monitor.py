"""AddressMonitor: tells that addresses or links of this host have changed.

Law: it says what changed, and whoever must know more reads for himself.  One notification that was lost (ENOBUFS:
more came than were read) is told as a change of everything.  Many at once are one: after the first, it waits, empties
the socket, and only then tells.  What changes after that is told again.

It hears the agent's own work as well, so it says of each address of kube-ipvs0 whether it is there now: whoever put it
there can tell an echo from news.  Links other than kube-ipvs0 are passed over, since every pod that starts has one;
their addresses count.

Raw on purpose: importing pyroute2 for it would cost 90-140 ms at start and 21 MiB for as long as the agent lives.
"""

import os
import select
import socket
import threading
from collections.abc import Callable
from errno import ENOBUFS
from socket import inet_ntop
from struct import Struct

from msgspec.structs import replace

from kubeproxy_py.kernel.address.adapter import own_address
from kubeproxy_py.kernel.netlink.attributes import attributes, read_text
from kubeproxy_py.kernel.netlink.socket import NETLINK_ROUTE
from kubeproxy_py.model.events import AddressesChanged
from kubeproxy_py.model.rows import IPVS_DEVICE

NOTHING = AddressesChanged()
EVERYTHING = AddressesChanged(elsewhere=True, device=True)

_NEWLINK, _DELLINK, _NEWADDR, _DELADDR = 16, 17, 20, 21  # RTM_*
_LINK_KINDS, _ADDRESS_KINDS = (_NEWLINK, _DELLINK), (_NEWADDR, _DELADDR)
_HEADER = Struct("=IHHII")  # length, type, flags, sequence number, port
_IFADDR = Struct("=BBBBI")  # family, prefix length, flags, scope, index
_LINK_OFFSET = _HEADER.size + 16  # behind ifinfomsg
_IFLA_IFNAME = 3

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_READ_BYTES = 4096  # a longer message is cut; what we read stands at its beginning
# Small, so that a burst (10,000 addresses of our own) runs over at once instead of having to be read: about 80 reads.
_RECEIVE_BUFFER_BYTES = 32 << 10


class AddressMonitor:
    """Calls *on_change*, in a thread of its own, within *debounce_s* seconds of a change of addresses or links.

    It listens from the moment it is made, in the network namespace of its maker; start() begins to tell.
    Raises OSError if the kernel gives no socket.
    """

    def __init__(self, on_change: Callable[[AddressesChanged], None], *, debounce_s: float = 0.1) -> None:
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
            change = self._drain()
            if change != NOTHING:
                self._on_change(change)

    def _drain(self) -> AddressesChanged:
        """Take all that is queued off the socket; what it says."""
        device = _index(IPVS_DEVICE)
        told = NOTHING
        while True:
            try:
                told = heard(self._socket.recv(_READ_BYTES), device, told)
            except BlockingIOError:
                return told
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                told = EVERYTHING


def heard(message: bytes, device: int, before: AddressesChanged) -> AddressesChanged:
    """What is known to have changed after one notification, given what was *before*.

    *device* is the index of kube-ipvs0; 0: there is none.
    Layout: nlmsghdr, then ifaddrmsg or ifinfomsg, then attributes (include/uapi/linux/rtnetlink.h).
    """
    kind = _HEADER.unpack_from(message)[1]
    if kind in _ADDRESS_KINDS:
        family, _, _, _, index = _IFADDR.unpack_from(message, _HEADER.size)
        if index != device:
            return replace(before, elsewhere=True)
        address = inet_ntop(family, own_address(family, message, _HEADER.size + _IFADDR.size))
        return replace(before, ours={**before.ours, address: kind == _NEWADDR})
    if kind in _LINK_KINDS and read_text(attributes(message, _LINK_OFFSET)[_IFLA_IFNAME]) == IPVS_DEVICE:
        return replace(before, device=True)
    return before


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
