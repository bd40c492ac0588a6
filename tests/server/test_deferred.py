"""Handlers that are made by the first request, so that their modules are not imported before the first sync."""

import subprocess
import sys

from kubeproxy_py.server.deferred import deferred
from kubeproxy_py.server.http import Handler
from kubeproxy_py.server.http_messages import Request, Response

NOT_NEEDED = {"kubeproxy_py.server.documents", "kubeproxy_py.server.ui", "kubeproxy_py.diagnose.explain"}
NOT_USED = {"importlib.metadata", "multiprocessing", "typing_extensions", "durationpy", "inspect"}


def test_the_handler_is_made_once_by_the_first_request() -> None:
    made: list[str] = []

    def make() -> Handler:
        made.append("handler")
        return lambda request: Response(200, request.path.encode())

    answer = deferred(make)
    assert made == []
    assert [answer(Request("GET", path)).body for path in ("/a", "/b")] == [b"/a", b"/b"]
    assert made == ["handler"]


def test_a_start_imports_no_documents_and_nothing_that_is_not_used() -> None:
    program = """
import sys
import kubeproxy_py.__main__
import kubeproxy_py.commands.app, kubeproxy_py.commands.run
from kubeproxy_py.sources.kubernetes.source import connect
connect(None, "http://127.0.0.1:1")
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint(NOT_NEEDED | NOT_USED)
