"""Handlers whose modules are not imported before the first sync, so that a node that boots serves Services sooner."""

from collections.abc import Callable

from kubeproxy_py.server.http import Handler
from kubeproxy_py.server.http_messages import Request, Response


def deferred(make: Callable[[], Handler]) -> Handler:
    """Return a handler that *make* makes for the first request, in the thread of the server."""
    made: list[Handler] = []

    def answer(request: Request) -> Response:
        if not made:
            made.append(make())
        return made[0](request)

    return answer
