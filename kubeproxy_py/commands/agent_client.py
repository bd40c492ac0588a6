"""Ask the running agent, at its debug socket, what it knows.

Invariants:
- A command that asks needs no flags: the agent knows its configuration.
- Without an agent, or without the right to ask it, a command is told why, and can look itself.
"""

import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from kubeproxy_py.diagnose.document import ErrorDocument

DEFAULT_SOCKET = "/run/kubeproxy-py/debug.sock"
_TIMEOUT_S = 15.0  # the agent may be in a long sync
_SOON_S = 0.1
_BODY_MAX_BYTES = 256 << 20
_PIECE_BYTES = 1 << 20
_OK, _TOO_LONG, _BUSY = 200, 431, 503
_LENGTH = b"content-length"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
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


def ask(path: str, page: str, parameters: Mapping[str, str], timeout_s: float = _TIMEOUT_S) -> bytes:
    """Return the document *page* of the agent that listens at *path*, which has *timeout_s* for all of it.

    Raises:
        NoAgentError: There is none, or it does not answer.
        RefusedError: It answered with an error.
    """
    query = "&".join(f"{name}={_quoted(value)}" for name, value in parameters.items() if value)
    try:
        status, body = _get(path, f"{page}?{query}" if query else page, timeout_s)
    except FileNotFoundError:
        raise NoAgentError(f"no agent listens at {path}") from None
    except PermissionError:
        raise NoAgentError(f"the agent at {path} may be asked by root only") from None
    except ConnectionRefusedError:
        if not Path(path).is_socket():  # the kernel refuses a file of any other type with the same error
            raise NoAgentError(f"no agent listens at {path}, which is not a socket") from None
        raise NoAgentError(f"the agent that listened at {path} is not running") from None
    except TimeoutError:
        raise NoAgentError(f"the agent at {path} has not answered within {timeout_s:g} s") from None
    except (OSError, ValueError) as error:
        who = "" if os.geteuid() == 0 else "; it answers root only"
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoAgentError(f"the agent at {path} does not answer: {text}{who}") from None
    if status == _BUSY:
        raise NoAgentError(f"the agent at {path} does not answer: {_error_document(body).error}")
    if status == _TOO_LONG:
        raise RefusedError(status, ErrorDocument("the arguments are too long"))
    if status != _OK:
        raise RefusedError(status, _error_document(body))
    return body


def _quoted(text: str) -> str:
    """Return *text* as a value in a query; urllib takes longer to import than the agent to answer."""
    return "".join(
        f"%{byte:02X}" if chr(byte) not in _PLAIN else chr(byte) for byte in text.encode(errors="surrogateescape")
    )


def _get(path: str, target: str, timeout_s: float) -> tuple[int, bytes]:
    """Return status and body of the answer to a GET request.

    HTTP/1.0 has the end of the body at the end of the connection; importing http.client would take a sixth of the time
    of a command.  Raises OSError, and ValueError for what is no answer.
    """
    deadline_s = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        # Not settimeout(): a socket that does not block is refused at once while many others wait to be accepted.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", math.ceil(timeout_s), 0))
        client.connect(path)
        client.settimeout(timeout_s)
        client.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        received = bytearray()
        while piece := client.recv(_PIECE_BYTES):
            received += piece
            if len(received) > _BODY_MAX_BYTES:
                raise ValueError("its answer is too large")
            client.settimeout(max(_SOON_S, deadline_s - time.monotonic()))
    return _parsed(bytes(received))


def _parsed(answer: bytes) -> tuple[int, bytes]:
    """Return status and body.  Raises ValueError."""
    head, end, body = answer.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if not end or not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise ValueError("it closed the connection" if not answer else "its answer is not HTTP")
    lengths = [value for name, _, value in (field.partition(b":") for field in fields) if name.lower() == _LENGTH]
    if lengths and int(lengths[0]) != len(body):
        raise ValueError("its answer is incomplete")
    return int(rest[:3]), body


def _error_document(body: bytes) -> ErrorDocument:
    try:
        return msgspec.json.decode(body, type=ErrorDocument)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ErrorDocument("the agent does not know this document; is it of an older version?")
