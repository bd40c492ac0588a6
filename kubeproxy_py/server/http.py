"""HttpServer: HTTP/1.1 for health checks and scrapes, in one thread, on any number of listening sockets.

Invariants:
  - Every client costs a bounded amount of memory and time: a request's head has at most HEAD_MAX_BYTES and must arrive
    within HEAD_TIMEOUT_S; bodies are not read, because nothing that is served needs one; a response must be read within
    ANSWER_TIMEOUT_S.
  - With too many clients, or too many response bytes that clients do not read, the connection that has been silent for
    the longest is closed.  So a health check is answered however many other clients hang.

http.server needs a thread per client, and asyncio costs 60 ms and 5 MiB at start; neither has these limits.

Source: RFC 9112.
"""

import logging
import os
import resource
import selectors
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from functools import partial

from kubeproxy_py import threads
from kubeproxy_py.logging_setup import values
from kubeproxy_py.server.http_messages import (
    HEAD_TOO_LARGE,
    BadRequestError,
    Request,
    Response,
    encode_response,
    parse_head,
)
from kubeproxy_py.server.listening_socket import listening_socket

HEAD_MAX_BYTES = 16 << 10
CLIENTS_MAX = 1024  # of one server; fewer if the process may open few files
UNSENT_MAX_BYTES = 64 << 20  # response bytes of one server that clients have not read yet
HEAD_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 120.0  # of a connection kept open for another request; Prometheus scrapes once a minute or sooner
ANSWER_TIMEOUT_S = 30.0
LINGER_S = 2.0  # a client that is still sending gets this long to read why its request was rejected
_READ_BYTES = 16 << 10
_TICK_S = 1.0
_IDLE_TICK_S = 3.0  # without clients; each tick of an idle agent's servers costs it 0.01 % of a core
_ACCEPT_BATCH = 64
_OUT_OF_RESOURCES = frozenset((EMFILE, ENFILE, ENOBUFS, ENOMEM))
_FILE_SHARE = 4  # one server uses at most a quarter of the files that the process may open

Handler = Callable[[Request], Response]
Admission = Callable[[socket.socket], bool]
"""Returns whether the client that is connected by a socket is served."""

log = logging.getLogger(__name__)


class _Client:
    """One connection: the bytes received of the next request, and the bytes of a response that are not sent yet."""

    __slots__ = ("closing", "deadline_s", "handler", "listener", "received", "socket", "unsent")

    def __init__(self, sock: socket.socket, listener: socket.socket, handler: Handler, now_s: float) -> None:
        self.socket = sock
        self.listener = listener  # the socket that accepted it
        self.handler: Handler | None = handler  # None once our half is closed: further input is discarded
        self.received = b""
        self.unsent = memoryview(b"")
        self.closing = False  # close our half once the response is sent
        self.deadline_s = now_s + HEAD_TIMEOUT_S


class HttpServer:
    """Serves in a thread called *name*.

    All methods but `call_soon_threadsafe` may be called in that thread only, or before it starts.
    """

    def __init__(self, name: str, clients_max: int | None = None) -> None:
        self._name = name
        self._admits: dict[socket.socket, Admission] = {}  # by listening socket, if not everybody is admitted
        self._periodic: list[Callable[[], None]] = []
        self._selector = selectors.DefaultSelector()
        self._clients: OrderedDict[socket.socket, _Client] = OrderedDict()  # the longest silent first
        self._unsent_bytes = 0
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._clients_max = max(
            8, min(clients_max or CLIENTS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _FILE_SHARE)
        )

    def start(self) -> None:
        """Serve until the process ends."""
        threads.start(self._name, self._run)

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        """Have *call* executed in the server's thread; may be called from any thread."""
        self._calls.append(call)
        os.eventfd_write(self._wake, 1)

    def call_periodically(self, call: Callable[[], None]) -> None:
        """Have *call* executed about once a second, or every three while no client is connected."""
        self._periodic.append(call)

    def listen(self, address: str, port: int, handler: Handler, *, both_families: bool = False) -> socket.socket:
        """Listen at *address* and answer requests with *handler*.

        Args:
            address: An IP of this host, or 0.0.0.0 or ::.
            port: 0 for any free port.
            handler: Called in the server's thread.
            both_families: 0.0.0.0 and :: each mean all addresses of both families.

        Returns:
            The listening socket, for `close`.

        Raises:
            OSError: The address is in use, or not one of this host.
        """
        listener = listening_socket(address, port, both_families=both_families)
        self.add(listener, handler)
        return listener

    def add(self, listener: socket.socket, handler: Handler, admits: Admission | None = None) -> None:
        """Answer requests at *listener*, which does not block, with *handler*; only of clients that *admits* admits."""
        if admits:
            self._admits[listener] = admits
        self._selector.register(listener, selectors.EVENT_READ, handler)

    def close(self, listener: socket.socket) -> None:
        """Close *listener* and every connection accepted on it."""
        self._selector.unregister(listener)
        self._admits.pop(listener, None)
        listener.close()  # before its connections, so that a client that reconnects is refused
        for client in [client for client in self._clients.values() if client.listener is listener]:
            self._disconnect(client)

    # The methods below run in the server's thread.

    def _run(self) -> None:
        tick_due_s = 0.0
        while True:
            for key, events in self._selector.select(_TICK_S if self._clients else _IDLE_TICK_S):
                self._handle_ready(key, events)
            while self._calls:
                self._call(self._calls.popleft())
            now_s = time.monotonic()
            if now_s >= tick_due_s:
                tick_due_s = now_s + _TICK_S
                self._disconnect_expired(now_s)
                for call in self._periodic:
                    self._call(call)

    def _call(self, call: Callable[[], None]) -> None:
        """Call *call*; log a failure and go on: a prober that gets no answer kills the process."""
        try:
            call()
        except Exception:
            log.exception(
                "Internal error in the HTTP server (please report); it continues to serve",
                extra=values(server=self._name),
            )

    def _handle_ready(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fileobj == self._wake:
            os.eventfd_read(self._wake)
        elif callable(key.data) and isinstance(key.fileobj, socket.socket):
            self._accept(key.fileobj, key.data)
        elif isinstance(key.fileobj, socket.socket) and (client := self._clients.get(key.fileobj)):
            self._call(partial(self._handle_client, client, events))

    def _accept(self, listener: socket.socket, handler: Handler) -> None:
        for number in range(_ACCEPT_BATCH):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    if number == 0:  # else nobody may be waiting: the kernel looks for a free file first
                        self._free_resources()
                    return
                continue  # the client disconnected meanwhile
            admits = self._admits.get(listener)
            if admits and not admits(sock):
                sock.close()
                continue
            sock.setblocking(False)  # noqa: FBT003 - the socket API is positional
            self._clients[sock] = _Client(sock, listener, handler, time.monotonic())
            self._selector.register(sock, selectors.EVENT_READ)
            while len(self._clients) > self._clients_max:
                self._disconnect_longest_silent()

    def _free_resources(self) -> None:
        """Disconnect a client because there is no file or memory for another one; without clients, wait a little."""
        if self._clients:
            self._disconnect_longest_silent()
        else:
            time.sleep(0.05)  # the listening socket stays ready, so select() would return at once

    def _handle_client(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                self._receive(client)
            self._advance(client)
        except OSError:
            self._disconnect(client)
        except Exception:
            self._disconnect(client)  # what it sent triggered a bug: it must not be encountered again
            raise

    def _receive(self, client: _Client) -> None:
        data = client.socket.recv(_READ_BYTES)
        if not data:
            self._disconnect(client)
            return
        self._clients.move_to_end(client.socket)
        if client.handler is None:
            return
        if not client.received:
            client.deadline_s = time.monotonic() + HEAD_TIMEOUT_S
        client.received += data

    def _advance(self, client: _Client) -> None:
        """Send the response and answer the next request, until one of them has to wait; nothing is read meanwhile."""
        while client.socket in self._clients and self._send(client):
            if client.closing:
                self._half_close(client)
                return
            if not (client.handler and client.received and self._answer(client, client.handler)):
                return

    def _answer(self, client: _Client, handler: Handler) -> bool:
        """Answer the next request of *client*; return False if its head is not complete yet."""
        head, end, remainder = client.received.partition(b"\r\n\r\n")
        if not end and len(head) <= HEAD_MAX_BYTES:
            return False
        client.received = remainder
        request, response = self._respond(head, handler)
        self._start_sending(client, response, request)
        return True

    def _respond(self, head: bytes, handler: Handler) -> tuple[Request | None, Response]:
        """Return the request, or None if *head* is not a valid one, and the response to it."""
        if len(head) > HEAD_MAX_BYTES:
            return None, HEAD_TOO_LARGE
        try:
            request = parse_head(head)
        except BadRequestError as error:
            return None, error.response
        try:
            return request, handler(request)
        except Exception:
            log.exception(
                "Internal error in an HTTP handler (please report); answered with status 500",
                extra=values(server=self._name),
            )
            return request, Response(500, b"internal error\n")

    def _start_sending(self, client: _Client, response: Response, request: Request | None) -> None:
        client.closing = request is None or request.closes
        client.unsent = memoryview(encode_response(response, request, time.time()))
        client.deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        self._unsent_bytes += len(client.unsent)
        while self._unsent_bytes > UNSENT_MAX_BYTES:
            self._disconnect(next(client for client in self._clients.values() if client.unsent))

    def _send(self, client: _Client) -> bool:
        """Send what the client's socket accepts; return whether everything is sent."""
        if not client.unsent:
            return True
        try:
            sent = client.socket.send(client.unsent)
        except BlockingIOError:
            sent = 0
        client.unsent = client.unsent[sent:]
        self._unsent_bytes -= sent
        self._selector.modify(client.socket, selectors.EVENT_WRITE if client.unsent else selectors.EVENT_READ)
        if not client.unsent:
            client.deadline_s = time.monotonic() + IDLE_TIMEOUT_S
        return not client.unsent

    def _half_close(self, client: _Client) -> None:
        """Close our half.  Closing both would make the kernel discard the response if the client had sent more."""
        client.handler, client.received, client.closing = None, b"", False
        client.deadline_s = time.monotonic() + LINGER_S
        client.socket.shutdown(socket.SHUT_WR)

    def _disconnect_expired(self, now_s: float) -> None:
        for client in [client for client in self._clients.values() if client.deadline_s <= now_s]:
            self._disconnect(client)

    def _disconnect_longest_silent(self) -> None:
        self._disconnect(next(iter(self._clients.values())))

    def _disconnect(self, client: _Client) -> None:
        if self._clients.pop(client.socket, None):
            self._unsent_bytes -= len(client.unsent)
            self._selector.unregister(client.socket)
            client.socket.close()
