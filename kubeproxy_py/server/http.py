"""HTTP/1.1 for probes and scrapes: one thread, any number of listening sockets, no client that can hold up another.

Law: every client costs a bounded amount of memory and time.  A request's head is HEAD_MAX_BYTES at most and is there
within HEAD_TIMEOUT_S; bodies are not read, for nothing that is served needs one; an answer is taken off our hands
within ANSWER_TIMEOUT_S.  Where there are too many clients, or too many bytes that nobody takes, the one that has
said nothing for the longest is cut off.  So a probe is answered however many others hang.

Why not the standard library's: http.server takes a thread for each client, and asyncio 60 ms and 5 MiB at start.
Source: RFC 9112; answers are written as Go's net/http writes them, since kube-proxy's clients know those.
"""

import logging
import os
import queue
import resource
import selectors
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM

from kubeproxy_py.server.http_text import BadRequestError, Request, Response, parse_head, response_bytes

HEAD_MAX_BYTES = 16 << 10
CLIENTS_MAX = 1024  # of one server; fewer where the process may have few files
WAITING_MAX_BYTES = 64 << 20  # of answers of one server that nobody has taken yet
HEAD_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 120.0  # of a connection that is kept for another request; Prometheus asks once a minute or sooner
ANSWER_TIMEOUT_S = 30.0
LINGER_S = 2.0  # a client that still sends is given this long to read why it was refused
_BACKLOG = 128
_READ_BYTES = 16 << 10
_SWEEP_S = 1.0
_ACCEPTS_AT_ONCE = 64
_EXHAUSTED = frozenset((EMFILE, ENFILE, ENOBUFS, ENOMEM))
_FILE_SHARE = 4  # no server takes more than a quarter of the files that the process may have

Handler = Callable[[Request], Response]

log = logging.getLogger(__name__)


class _Client:
    """One connection: the bytes of a request that came so far, and those of an answer that are still to go."""

    __slots__ = ("closing", "deadline_s", "handler", "head", "listening", "socket", "waiting")

    def __init__(self, sock: socket.socket, listening: socket.socket, handler: Handler, now_s: float) -> None:
        self.socket = sock
        self.listening = listening  # where it came in
        self.handler: Handler | None = handler  # None: nothing it says is heard any more
        self.head = b""
        self.waiting = memoryview(b"")
        self.closing = False  # once the answer is gone
        self.deadline_s = now_s + HEAD_TIMEOUT_S


class HttpServer:
    """Serves in a thread called *name*; ``listen`` and ``close`` are for that thread (see ``do``), or before it starts.

    *tick* is called there about once a second.
    """

    def __init__(self, name: str, tick: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._tick = tick
        self._selector = selectors.DefaultSelector()
        self._clients: OrderedDict[socket.socket, _Client] = OrderedDict()  # who spoke last is last
        self._waiting_bytes = 0
        self._todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._clients_max = max(8, min(CLIENTS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _FILE_SHARE))

    def start(self) -> None:
        """Serve from now on, until the process ends."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def do(self, act: Callable[[], None]) -> None:
        """Have *act* done in the server's thread; may be called from any."""
        self._todo.put(act)
        os.eventfd_write(self._wake, 1)

    def listen(self, address: str, port: int, handler: Handler, *, both_families: bool = False) -> socket.socket:
        """Answer by *handler* at *address*; with *both_families* 0.0.0.0 and :: mean all addresses of either.

        Raises OSError if the address can't be had.
        """
        sock = _listening(address, port, both_families)
        self._selector.register(sock, selectors.EVENT_READ, handler)
        return sock

    def close(self, listening: socket.socket) -> None:
        """Listen there no more, and let go who came in there."""
        self._selector.unregister(listening)
        listening.close()  # first, so that who is let go and comes again is refused
        for client in [client for client in self._clients.values() if client.listening is listening]:
            self._drop(client)

    # The thread

    def _run(self) -> None:
        sweep_s = 0.0
        while True:
            try:
                for key, events in self._selector.select(_SWEEP_S):
                    self._serve(key, events)
                now_s = time.monotonic()
                if now_s >= sweep_s:
                    sweep_s = now_s + _SWEEP_S
                    self._sweep(now_s)
                    self._tick()
            # The outermost line: a probe that is not answered ends the process, whatever the reason.
            except Exception:
                log.exception(f"a bug in the {self._name} server: please report it; it goes on")
                time.sleep(0.1)

    def _serve(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fileobj == self._wake:
            self._do_all()
        elif callable(key.data) and isinstance(key.fileobj, socket.socket):
            self._accept(key.fileobj, key.data)
        elif isinstance(key.fileobj, socket.socket) and (client := self._clients.get(key.fileobj)):
            self._attend(client, events)

    def _do_all(self) -> None:
        os.eventfd_read(self._wake)
        with suppress(queue.Empty):
            while True:
                self._todo.get_nowait()()

    def _accept(self, listening: socket.socket, handler: Handler) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._make_room()
                    return
                continue  # the client went away meanwhile
            sock.setblocking(False)
            self._clients[sock] = _Client(sock, listening, handler, time.monotonic())
            self._selector.register(sock, selectors.EVENT_READ)
            while len(self._clients) > self._clients_max:
                self._drop_oldest()

    def _make_room(self) -> None:
        """No file or memory is left for another client: one less, or a pause, for the socket goes on being ready."""
        if self._clients:
            self._drop_oldest()
        else:
            time.sleep(0.05)

    def _attend(self, client: _Client, events: int) -> None:
        """Go on with *client* as far as it goes without waiting."""
        try:
            if events & selectors.EVENT_READ:
                self._read(client)
            self._go_on(client)
        except OSError:
            self._drop(client)

    def _read(self, client: _Client) -> None:
        data = client.socket.recv(_READ_BYTES)
        if not data:
            self._drop(client)
            return
        self._clients.move_to_end(client.socket)
        if client.handler is None:
            return
        if not client.head:
            client.deadline_s = time.monotonic() + HEAD_TIMEOUT_S
        client.head += data

    def _go_on(self, client: _Client) -> None:
        """Give away what waits, then answer what came, until either has to wait; nothing is read meanwhile."""
        while client.socket in self._clients and self._send(client):
            if client.closing:
                self._say_goodbye(client)
                return
            if not (client.handler and client.head and self._answer(client, client.handler)):
                return

    def _answer(self, client: _Client, handler: Handler) -> bool:
        """Answer the next request of *client*, if all of its head is there."""
        head, end, rest = client.head.partition(b"\r\n\r\n")
        request = None
        try:
            if len(head) > HEAD_MAX_BYTES:
                raise BadRequestError(431, "Request Header Fields Too Large")
            if not end:
                return False
            request = parse_head(head)
            response = handler(request)
        except BadRequestError as error:
            response = error.answer
        except Exception:
            log.exception(f"a bug in the {self._name} server: please report it")
            response = Response(500, b"internal error\n")
        client.head = rest
        self._reply(client, response, request)
        return True

    def _reply(self, client: _Client, response: Response, request: Request | None) -> None:
        client.closing = request is None or request.closes
        client.waiting = memoryview(response_bytes(response, request, time.time()))
        client.deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        self._waiting_bytes += len(client.waiting)
        while self._waiting_bytes > WAITING_MAX_BYTES:
            self._drop(next(each for each in self._clients.values() if each.waiting))

    def _send(self, client: _Client) -> bool:
        """Send what waits; whether all of it is gone."""
        if not client.waiting:
            return True
        try:
            sent = client.socket.send(client.waiting)
        except BlockingIOError:
            sent = 0
        client.waiting = client.waiting[sent:]
        self._waiting_bytes -= sent
        self._selector.modify(client.socket, selectors.EVENT_WRITE if client.waiting else selectors.EVENT_READ)
        if not client.waiting:
            client.deadline_s = time.monotonic() + IDLE_TIMEOUT_S
        return not client.waiting

    def _say_goodbye(self, client: _Client) -> None:
        """End our half; closing at once would have the kernel throw away an answer if bytes came unread."""
        client.handler, client.head, client.closing = None, b"", False
        client.deadline_s = time.monotonic() + LINGER_S
        client.socket.shutdown(socket.SHUT_WR)

    def _sweep(self, now_s: float) -> None:
        for client in [client for client in self._clients.values() if client.deadline_s <= now_s]:
            self._drop(client)

    def _drop_oldest(self) -> None:
        self._drop(next(iter(self._clients.values())))

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.socket, None):
            self._waiting_bytes -= len(client.waiting)
            self._selector.unregister(client.socket)
            client.socket.close()


def _listening(address: str, port: int, both_families: bool) -> socket.socket:
    """A listening socket.  Raises OSError.

    Go listens at [::] for 0.0.0.0 too, unless told which family (net.favoriteAddrFamily), and so does kube-proxy.
    """
    if both_families and address in ("0.0.0.0", "::"):
        with suppress(OSError):
            return _bound(socket.AF_INET6, "::", port, only_ipv6=False)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return _bound(family, address, port, only_ipv6=True)


def _bound(family: socket.AddressFamily, address: str, port: int, *, only_ipv6: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
