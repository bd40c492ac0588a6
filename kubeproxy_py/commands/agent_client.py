"""Ask the running agent, at its debug socket, what it knows.

Invariants:
- A command that asks needs no flags: the agent knows its configuration.
- Without an agent, or without the right to ask it, a command is told why, and can look itself.
"""

import http.client
import os
import socket
import struct
from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec

from kubeproxy_py.diagnose.document import ErrorDocument

DEFAULT_SOCKET = "/run/kubeproxy-py/debug.sock"
_TIMEOUT_S = 15.0  # the agent may be in a long sync
_BODY_MAX_BYTES = 256 << 20
_OWN_SOURCE_FLAGS = ("manifests",)  # with these the operator asks for another source than the agent's


class NoAgentError(Exception):
    """No agent answers; the text says why."""


class RefusedError(Exception):
    """The agent has no document for what was asked.

    Attributes:
        status: of HTTP.
        nearest: names like the one that was asked for.
    """

    def __init__(self, status: int, document: ErrorDocument) -> None:
        super().__init__(document.error)
        self.status = status
        self.nearest = document.nearest


def socket_path(flags: Mapping[str, str]) -> str:
    """Return the socket to ask, given the flags of the command line; "" if the agent is not to be asked."""
    if "debug-socket" in flags:
        return flags["debug-socket"]
    return "" if any(flags.get(name) for name in _OWN_SOURCE_FLAGS) else DEFAULT_SOCKET


def ask(path: str, page: str, parameters: Mapping[str, str]) -> bytes:
    """Return the document *page* of the agent that listens at *path*.

    Raises:
        NoAgentError: There is none, or it does not answer.
        RefusedError: It answered with an error.
    """
    query = urlencode({name: value for name, value in parameters.items() if value})
    connection = _Connection(path)
    try:
        connection.request("GET", f"{page}?{query}" if query else page, headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read(_BODY_MAX_BYTES)
    except FileNotFoundError:
        raise NoAgentError(f"no agent listens at {path}") from None
    except PermissionError:
        raise NoAgentError(f"the agent at {path} may be asked by root only") from None
    except ConnectionRefusedError:
        raise NoAgentError(f"the agent that listened at {path} is not running") from None
    except TimeoutError:
        raise NoAgentError(f"the agent at {path} has not answered within {_TIMEOUT_S:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        who = "" if os.geteuid() == 0 else "; it answers root only"
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoAgentError(f"the agent at {path} does not answer: {text}{who}") from None
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise RefusedError(response.status, _error_document(body))
    return body


def _error_document(body: bytes) -> ErrorDocument:
    try:
        return msgspec.json.decode(body, type=ErrorDocument)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ErrorDocument("the agent does not know this document; is it of an older version?")


class _Connection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Not settimeout(): a socket that does not block is refused at once while many others wait to be accepted.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_TIMEOUT_S), 0))
        self.sock.connect(self._path)
        self.sock.settimeout(self.timeout)
