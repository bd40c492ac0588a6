"""Serve a debug socket for as long as a test needs it."""

from collections.abc import Iterator
from contextlib import contextmanager

from kubeproxy_py.server.debug_socket import DebugServer


@contextmanager
def serving(server: DebugServer) -> Iterator[None]:
    """Serve with *server*; afterwards it does not listen, and does not begin to again."""
    server.start()
    try:
        yield
    finally:
        server._check_due_s = float("inf")
        server._server.call_soon_threadsafe(lambda: server._server.close(server._listener))  # type: ignore[arg-type]
