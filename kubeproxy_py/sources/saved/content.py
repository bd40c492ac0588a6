"""The content of the file of saved objects: encode and decode; no file, clock or thread.

The content is gzip of lines of JSON: a header, a line for each object, and a last line with the SHA-256 of all lines
before it.  ``zcat`` shows it.  Objects are values of the model, as the sources keep them: decoded and checked once.

Invariants:
- What ``decode`` returns is complete and undamaged; everything else is an UnusableError, of whatever bytes.
- The bytes that a damaged or hostile file can expand to are bounded.
"""

import zlib
from collections.abc import Iterable, Iterator
from hashlib import sha256
from sys import intern

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.hinted_error import HintedError
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import Endpoint, EndpointSlice, ObjectName, Service
from kubeproxy_py.model.settings import NO_SETTINGS
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import SocketAddress
from kubeproxy_py.sources.decode.objects import Value
from kubeproxy_py.sources.decode.sharing import share
from kubeproxy_py.sources.object_cache import Identity

FORMAT = 1
"""Raised when a field of the model changes its meaning, or decoding begins to refuse what it accepted before.

Fields that are added with a default, or removed, need no other format.  A new value of a field that has few needs none
either: an earlier version sets aside only files that have it.
"""

PACKED_MAX_BYTES = 32 << 20
UNPACKED_MAX_BYTES = 256 << 20
LINE_MAX_BYTES = 8 << 20
"""10,000 Services of 10 endpoints are 1 MB packed and 20 MB unpacked."""

_YEAR_10000_S = 253_402_300_800.0  # in seconds since 1970; no calendar has it
_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 1  # packs to 5 %; level 6 packs to 4 % in 2.5 times the time
_STEP_BYTES = 1 << 16
_CHUNK_LINES = 100  # encoded without giving way to other threads: less than a millisecond
_REMEDY = "it is written again when the API server answers"

Objects = dict[Identity, tuple[Value, ...]]
"""The values of each object, as ObjectCache has them."""


class UnusableError(HintedError):
    """The file cannot be used, and is to be set aside."""


class Origin(Struct, frozen=True, gc=False):
    """Where the objects are from."""

    cluster: tuple[str, ...]  # see cluster_ids
    written_s: float  # when the objects were known to be current, in seconds since 1970
    api_servers: tuple[SocketAddress, ...] = ()  # at which the API server was reached; no Service may take them


class Saved(Struct, frozen=True, gc=False):
    """The content of a file."""

    origin: Origin
    objects: Objects


class _Line(Struct, tag_field="kind", gc=False):
    """Base of the lines."""


class _Header(_Line, tag="kubeproxy-py saved objects"):
    format: int
    origin: Origin


class _ServiceLine(_Line, tag="Service", omit_defaults=True):
    service: Service
    is_of_unknown_age: bool = False  # JSON has no infinity


class _SliceLine(_Line, tag="EndpointSlice"):
    slice: EndpointSlice


class _EndpointsLine(_Line, tag="Endpoints"):
    name: ObjectName
    slices: tuple[EndpointSlice, ...]


class _NodeLine(_Line, tag="Node"):
    node: Node


class _End(_Line, tag="end"):
    sha256: str


_AnyLine = _Header | _ServiceLine | _SliceLine | _EndpointsLine | _NodeLine | _End


class _AnyFormat(Struct):
    """What the header of every format has."""

    format: int = 0


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_AnyLine)
_FORMAT_DECODER = msgspec.json.Decoder(_AnyFormat)


# Encode


class Encoder:
    """Encodes one file, in steps between which the caller may give way to other threads.

    Attributes:
        unpacked_bytes: The size of all lines so far.
    """

    def __init__(self, origin: Origin) -> None:
        self._packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
        self._sum = sha256()
        self._objects = sha256()
        self._header = _ENCODER.encode(_Header(FORMAT, origin)) + b"\n"
        self.unpacked_bytes = 0

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the lines of the objects so far, in their order."""
        return self._objects.digest()

    def steps(self, objects: Objects) -> Iterator[bytes]:
        """Yield the file in pieces, some of which are empty."""
        yield self._pack(self._header)
        lines: list[bytes] = []
        for identity, values in objects.items():
            lines += (_ENCODER.encode(line) for line in _lines(identity, values))
            if len(lines) >= _CHUNK_LINES:
                yield self._pack_objects(lines)
                lines = []
        yield self._pack_objects(lines)
        yield self._pack(_ENCODER.encode(_End(self._sum.hexdigest())) + b"\n") + self._packer.flush()

    def _pack_objects(self, lines: list[bytes]) -> bytes:
        chunk = b"".join(line + b"\n" for line in lines)
        self._objects.update(chunk)
        return self._pack(chunk)

    def _pack(self, chunk: bytes) -> bytes:
        self._sum.update(chunk)
        self.unpacked_bytes += len(chunk)
        return self._packer.compress(chunk)


def encode(saved: Saved) -> bytes:
    """Return the file for *saved*."""
    return b"".join(Encoder(saved.origin).steps(saved.objects))


def _lines(identity: Identity, values: tuple[Value, ...]) -> Iterator[_Line]:
    kind, name = identity
    if kind == "Endpoints":
        yield _EndpointsLine(name, tuple(value for value in values if isinstance(value, EndpointSlice)))
        return
    for value in values:
        match value:
            case Service(created_s=created_s) if created_s == NEVER:
                yield _ServiceLine(replace(value, created_s=0.0), is_of_unknown_age=True)
            case Service():
                yield _ServiceLine(value)
            case EndpointSlice():
                yield _SliceLine(value)
            case Node():
                yield _NodeLine(value)


# Decode


def decode(content: bytes) -> Saved:
    """Return what the file *content* has.  Raises UnusableError."""
    origin: Origin | None = None
    checksum, objects, is_complete = sha256(), Objects(), False
    for raw in _unpacked_lines(content):
        if is_complete:
            raise _damaged("it goes on after its end")
        if origin is None:
            origin = _origin(raw)
        else:
            line = _decode_line(raw)
            if isinstance(line, _End):
                if line.sha256 != checksum.hexdigest():
                    raise _damaged("its checksum is wrong")
                is_complete = True
            else:
                _add(line, objects)
        checksum.update(raw + b"\n")
    if origin is None or not is_complete:
        raise _damaged("it ends too early")
    return Saved(origin, objects)


def _unpacked_lines(content: bytes) -> Iterator[bytes]:
    """Yield each line.  Raises UnusableError."""
    if len(content) > PACKED_MAX_BYTES:
        raise UnusableError(f"is larger than {PACKED_MAX_BYTES >> 20} MiB", _REMEDY)
    unpacked_bytes, incomplete = 0, b""
    for part in _unpack(content):
        unpacked_bytes += len(part)
        if unpacked_bytes > UNPACKED_MAX_BYTES:
            raise UnusableError(f"is larger than {UNPACKED_MAX_BYTES >> 20} MiB when unpacked", _REMEDY)
        *lines, incomplete = (incomplete + part).split(b"\n")
        yield from lines
        if len(incomplete) > LINE_MAX_BYTES:
            raise _damaged(f"a line is larger than {LINE_MAX_BYTES >> 20} MiB")
    if incomplete:
        raise _damaged("its last line is incomplete")


def _unpack(content: bytes) -> Iterator[bytes]:
    """Yield the unpacked bytes, not many at a time.  Raises UnusableError."""
    unpacker, packed = zlib.decompressobj(_GZIP), content
    while not unpacker.eof:
        try:
            part = unpacker.decompress(packed, _STEP_BYTES)
        except zlib.error:
            raise _damaged("it is not gzip") from None
        packed = unpacker.unconsumed_tail
        if not part and not packed and not unpacker.eof:
            raise _damaged("it is cut off")
        yield part
    if unpacker.unused_data:
        raise _damaged("it goes on after its end")


def _origin(raw: bytes) -> Origin:
    """Return what the header says.  Raises UnusableError."""
    try:
        found = _FORMAT_DECODER.decode(raw).format
    except (msgspec.MsgspecError, RecursionError):
        raise _damaged("its header cannot be read") from None
    if found > FORMAT:
        raise UnusableError(f"is of a newer version of this agent (format {found}, not {FORMAT})", _REMEDY)
    if found < FORMAT:
        raise UnusableError(f"is of an older version of this agent (format {found}, not {FORMAT})", _REMEDY)
    line = _decode_line(raw)
    if not isinstance(line, _Header):
        raise _damaged("it has no header")
    if not 0 <= line.origin.written_s < _YEAR_10000_S:
        raise _damaged("its time of writing is no time")
    return line.origin


def _decode_line(raw: bytes) -> _AnyLine:
    """Return a line.  Raises UnusableError."""
    try:
        line: _AnyLine = _DECODER.decode(raw)
    except (msgspec.MsgspecError, RecursionError, ValueError):  # ValueError: not UTF-8
        raise _damaged("a line cannot be read, unless another version of this agent wrote it") from None
    return line


def _add(line: _AnyLine, objects: Objects) -> None:
    """Add the object of *line* to *objects*.  Raises UnusableError."""
    match line:
        case _ServiceLine(service=service, is_of_unknown_age=is_of_unknown_age):
            created_s = NEVER if is_of_unknown_age else service.created_s
            name, ports = _shared_name(service.name), share(service.ports)
            settings = NO_SETTINGS if service.settings == NO_SETTINGS else service.settings
            changes = {"name": name, "ports": ports, "created_s": created_s, "settings": settings}
            objects["Service", name] = (replace(service, **changes),)
        case _SliceLine(slice=endpoint_slice):
            objects["EndpointSlice", endpoint_slice.name] = (_shared(endpoint_slice),)
        case _EndpointsLine(name=name, slices=slices):
            objects["Endpoints", name] = tuple(map(_shared, slices))
        case _NodeLine(node=node):
            labels = tuple(map(intern, node.labels))
            objects["Node", ObjectName("", node.name)] = (replace(node, labels=labels) if labels else node,)
        case _:
            raise _damaged("it has two headers")


def _damaged(what: str) -> UnusableError:
    return UnusableError(f"is damaged: {what}", _REMEDY)


# Sharing: as decoding does, since the values stay in memory once they are used


def _shared(value: EndpointSlice) -> EndpointSlice:
    endpoints = tuple(map(_shared_endpoint, value.endpoints))
    return EndpointSlice(
        _shared_name(value.name),
        _shared_name(value.service),
        value.family,
        endpoints,
        share(value.ports),
        value.pods,
        value.problems,
    )


def _shared_endpoint(value: Endpoint) -> Endpoint:
    return Endpoint(
        value.address,
        value.ready,
        value.serving,
        value.terminating,
        intern(value.node),
        share(value.zone_hints),
        share(value.node_hints),
        intern(value.zone),
    )


def _shared_name(name: ObjectName) -> ObjectName:
    return ObjectName(intern(name.namespace), name.name)


# Whether a file may be used


def require_usable(origin: Origin, cluster: Iterable[str], now_s: float, max_age_s: float) -> None:
    """Check that objects of *origin* may be served.

    Args:
        origin: Where they are from.
        cluster: The IDs of the cluster that this node belongs to.
        now_s: The time, in seconds since 1970.
        max_age_s: How old they may be; 0: of any age.

    Raises:
        UnusableError: They may not.
    """
    if not set(origin.cluster) & set(cluster):
        hint = f"check the kubeconfig; if it is right, {_REMEDY}"
        raise UnusableError("is of another cluster: its certificate authority, or API server, is another one", hint)
    age_s = now_s - origin.written_s
    if max_age_s and age_s > max_age_s:
        hint = f"{_REMEDY}; --state-max-age sets the limit, 0s: no limit"
        raise UnusableError(f"is too old: it was written {age_s / 3600:.0f} h ago", hint)
