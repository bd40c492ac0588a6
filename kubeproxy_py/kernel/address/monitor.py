"""AddressMonitor: reports that addresses or links of this host have changed.

Invariants:
- It reports what changed, not the new state; a receiver that needs more reads the kernel.
- A lost notification (ENOBUFS: more arrived than were read), and one that is not the kernel's or cannot be decoded, is
  reported as a change of everything: the receiver reads all addresses again.
- Many notifications are reported as one: after the first it waits, empties the socket, and then reports.  What changes
  after that is reported again.
- It also receives the agent's own changes, so it reports for each address of kube-ipvs0 whether it exists now:
  the receiver can distinguish its own change from another program's.

Links other than kube-ipvs0 are ignored, because every pod that starts has one; their addresses are not.

pyroute2 is not used here: importing it would cost 90-140 ms at start and 21 MiB for as long as the agent lives.
"""

import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from errno import ENOBUFS
from socket import AF_INET6, inet_ntop
from time import monotonic

from msgspec.structs import replace

from kubeproxy_py import threads
from kubeproxy_py.kernel.address.rtnetlink import (
    HOST_PREFIX,
    IFA_F_DEPRECATED,
    IFADDRMSG,
    IFINFOMSG,
    IFLA_IFNAME,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    local_address,
)
from kubeproxy_py.kernel.errors import MALFORMED
from kubeproxy_py.kernel.netlink.attributes import parse_attributes, read_string
from kubeproxy_py.kernel.netlink.messages import HEADER_SIZE, NLMSGHDR
from kubeproxy_py.kernel.netlink.socket import NETLINK_ROUTE
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import AddressesChanged
from kubeproxy_py.model.rows import IPVS_DEVICE

NOTHING = AddressesChanged()
EVERYTHING = AddressesChanged(other_interfaces=True, device=True)

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_READ_BYTES = 4096  # a longer message is truncated; what is parsed is at its beginning
# Small, so that a burst (10,000 addresses of our own) overflows at once instead of having to be read: about 80 reads.
_RECEIVE_BUFFER_BYTES = 32 << 10
_KERNEL = 0  # the netlink port that the kernel sends from
_LOG_PERIOD_S = 60.0  # between two lines about dropped notifications

log = logging.getLogger(__name__)


class AddressMonitor:
    """Calls *on_change*, in its own thread, within *debounce_s* seconds of a change of addresses or links.

    Notifications are queued from construction on, in the network namespace of the constructing thread; ``start`` begins
    to report them.

    Raises:
        OSError: No netlink socket could be created.
    """

    def __init__(self, on_change: Callable[[AddressesChanged], None], *, debounce_s: float = 0.1) -> None:
        self._on_change = on_change
        self._debounce_s = debounce_s
        self._socket = _listening_socket()
        self._device = _find_index(IPVS_DEVICE)  # the index of kube-ipvs0, when notifications were read last
        self._stopped = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC)
        self._thread: threading.Thread | None = None
        self._has_failed = False
        self._dropped = 0  # notifications since the start
        self._log_due_s = 0.0  # when dropped notifications may be logged again

    def start(self) -> None:
        """Start the thread."""
        self._thread = threads.start("address-monitor", self._listen, self._stopped)

    def stop(self) -> None:
        """Stop the thread and close everything; *on_change* is not called after this returns."""
        self._stopped.set()
        os.write(self._wake_write, b"x")
        if self._thread:
            self._thread.join()
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _listen(self) -> None:
        """Report changes until the monitor is stopped; after a failure, with a new socket, first that of everything."""
        if self._has_failed:
            self._socket.close()
            self._socket = _listening_socket()
            self._on_change(EVERYTHING)
        self._has_failed = True  # unless it returns
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
        """Read all queued notifications and return the changes that they report."""
        device, device_before = _find_index(IPVS_DEVICE), self._device
        self._device = device
        # A device that was renamed is reported by its new name, and its addresses as if they were another interface's.
        is_another = device != device_before
        change, dropped_before = AddressesChanged(is_another, device=is_another), self._dropped
        while True:
            try:
                notification, (sender, _groups) = self._socket.recvfrom(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                change = EVERYTHING
            else:
                change = self._parse(notification, sender, device, change)
        if self._dropped > dropped_before:
            self._log_dropped(self._dropped - dropped_before)
        return change

    def _parse(self, notification: bytes, sender: int, device: int, before: AddressesChanged) -> AddressesChanged:
        """Return *before* extended by *notification*; of one that cannot be used, count it and report everything."""
        try:
            if sender == _KERNEL:
                return parse_notification(notification, device, before)
        except MALFORMED:
            pass
        self._dropped += 1
        return EVERYTHING

    def _log_dropped(self, count: int) -> None:
        now_s = monotonic()
        if now_s >= self._log_due_s:
            self._log_due_s = now_s + _LOG_PERIOD_S
            message = "Dropped malformed notifications of address changes; reading all addresses again"
            log.warning(message, extra=values(dropped=count, since_start=self._dropped))


def _listening_socket() -> socket.socket:
    """Return a socket that receives notifications of this network namespace.  Raises OSError."""
    listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_ROUTE)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        listening.bind((0, _GROUPS))
    except OSError:
        listening.close()
        raise
    return listening


def parse_notification(notification: bytes, device: int, before: AddressesChanged) -> AddressesChanged:
    """Return *before* extended by the change that one *notification* reports.

    Layout: nlmsghdr, then ifaddrmsg or ifinfomsg, then attributes (rtnetlink.py).

    Args:
        notification: One message, possibly truncated.
        device: The interface index of kube-ipvs0; 0 if it does not exist.
        before: The changes reported by earlier notifications.

    Raises:
        struct.error, LookupError, ValueError, OverflowError: it is malformed (MALFORMED).
    """
    message_type = NLMSGHDR.unpack_from(notification)[1]
    if message_type in (RTM_NEWADDR, RTM_DELADDR):
        body = notification[HEADER_SIZE:]
        family, prefix, flags, _, index = IFADDRMSG.unpack_from(body)
        if index != device:
            return replace(before, other_interfaces=True)
        is_preferred = family == AF_INET6 and message_type == RTM_NEWADDR and not flags & IFA_F_DEPRECATED
        if prefix != HOST_PREFIX[family] or is_preferred:  # not as we add it, even if it is one of a Service
            return replace(before, device=True)
        address = inet_ntop(family, local_address(family, body))
        return replace(before, service_addresses={**before.service_addresses, address: message_type == RTM_NEWADDR})
    if message_type in (RTM_NEWLINK, RTM_DELLINK):
        attributes = parse_attributes(notification, HEADER_SIZE + IFINFOMSG.size)
        if read_string(attributes[IFLA_IFNAME]) == IPVS_DEVICE:
            return replace(before, device=True)
    return before


def _find_index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
