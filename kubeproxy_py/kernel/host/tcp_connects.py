"""TCP connects that only ask whether somebody answers: many at once, none of which waits for another.

Invariants:
- A connect is closed as soon as its result is known, and nothing is sent over it.
- A connect that this node itself could not try (no rights, no descriptors) has no result.
- An ICMP error is no answer, whichever it is and in both families: nobody answered, or this node has no route.  Only
  "port unreachable" counts as a reset: Linux reports the same error for both.
"""

import os
import selectors
import socket
from collections.abc import Iterator
from contextlib import suppress
from errno import (
    EACCES,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTDOWN,
    EHOSTUNREACH,
    EINPROGRESS,
    ENETUNREACH,
    ENONET,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPIPE,
    EPROTO,
    ETIMEDOUT,
)
from time import monotonic
from typing import Literal

from kubeproxy_py.kernel.netlink.families import family_number
from kubeproxy_py.model.flows import Destination

Answer = Literal["answered", "refused", "silent", "untried"]

_ANSWERS: dict[int, Answer] = {
    0: "answered",
    ECONNREFUSED: "refused",
    ECONNRESET: "refused",
    EPIPE: "refused",
    ETIMEDOUT: "silent",
    EHOSTUNREACH: "silent",
    EHOSTDOWN: "silent",
    ENETUNREACH: "silent",
}
_LATER_ANSWERS: dict[int, Answer] = {
    **_ANSWERS,
    # What ICMP errors become of a connect that is under way (icmp_err_convert and icmpv6_err_convert in Linux).
    EACCES: "silent",  # IPv6: administratively prohibited, by policy, by a route
    ENONET: "silent",
    ENOPROTOOPT: "silent",
    EOPNOTSUPP: "silent",
    EPROTO: "silent",
}


class TcpConnects:
    """Connects that are under way, in the network namespace of the thread that begins them; used by one thread.

    ``wake`` may be called from any thread, and ends a wait.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._under_way: dict[Destination, tuple[socket.socket, float]] = {}  # each with its deadline
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, place: Destination) -> bool:
        return place in self._under_way

    def wake(self) -> None:
        """End the wait of ``results``, or the next one."""
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    def begin(self, place: Destination, timeout_s: float) -> Answer | None:
        """Begin to connect to *place*; return its answer if it is known at once."""
        try:
            connect = socket.socket(family_number(place[0]), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            return "untried"
        try:
            error = connect.connect_ex(place)
        except OSError as raised:
            error = raised.errno or -1
        if error == EINPROGRESS:
            self._under_way[place] = connect, monotonic() + timeout_s
            self._selector.register(connect, selectors.EVENT_WRITE, place)
            return None
        connect.close()
        return _ANSWERS.get(error, "untried")

    def results(self, wait_s: float) -> Iterator[tuple[Destination, Answer]]:
        """Wait up to *wait_s* for an answer, and yield all that are known, those of connects past their time too."""
        now_s = monotonic()
        deadline_s = min((deadline_s for _, deadline_s in self._under_way.values()), default=now_s + wait_s)
        yield from self._answers(max(0.0, min(wait_s, deadline_s - now_s)))
        now_s = monotonic()
        late = [place for place, (_, at_s) in self._under_way.items() if at_s <= now_s]
        if late:  # some may have answered in time, while this thread did not run between the wait and now
            yield from self._answers(0.0)
        for place in late:
            if place in self._under_way:
                self._end(place)
                yield place, "silent"

    def close(self) -> None:
        """Abandon what is under way."""
        for place in list(self._under_way):
            self._end(place)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _answers(self, wait_s: float) -> Iterator[tuple[Destination, Answer]]:
        for key, _ in self._selector.select(wait_s):
            if key.data is None:
                os.read(self._wake_read, 4096)
                continue
            connect, _ = self._under_way[key.data]
            error = connect.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._end(key.data)
            yield key.data, _LATER_ANSWERS.get(error, "untried")

    def _end(self, place: Destination) -> None:
        connect, _ = self._under_way.pop(place)
        self._selector.unregister(connect)
        connect.close()
