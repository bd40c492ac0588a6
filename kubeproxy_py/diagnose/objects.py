"""The objects that an agent knows, as bytes for a command of the same version, which compiles them again.

They are no document: `plan` and `trace --kernel` need the values themselves, 100,000 endpoints in a fraction of the
time that an API server needs to list them.

Invariants:
- They are encoded in pieces, so that the agent's loop is not kept from its work.
- Bytes of another version are refused: its values may differ.
"""

from collections.abc import Iterator
from itertools import islice

import msgspec
from msgspec import Struct

from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.model.conditions import EndpointFailures, EndpointSteps
from kubeproxy_py.model.events import (
    Event,
    NodeUpserted,
    PeersRefused,
    PeerUpserted,
    ServiceUpserted,
    SliceUpserted,
    TakenAddresses,
)
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.services import EndpointSlice, Service

_BATCH = 50  # objects that are encoded without giving way to other threads
_LENGTH_BYTES = 4


class UnusableObjectsError(Exception):
    """The bytes are of another version, or damaged; the text says which."""


class _Head(Struct, array_like=True, gc=False):
    version: str
    saved_s: float | None
    node: Node | None
    taken: tuple[TakenAddresses, ...]
    rejected: tuple[Problem, ...]
    failures: tuple[EndpointFailures, ...]  # what the agent observed of endpoints, on which weights depend
    steps: tuple[EndpointSteps, ...]
    peers: tuple[PeerUpserted, ...]
    peers_refused: str


class _Batch(Struct, array_like=True, gc=False):
    services: tuple[Service, ...]
    slices: tuple[EndpointSlice, ...]


_ENCODER = msgspec.msgpack.Encoder()  # not JSON, which has no infinity
_HEAD = msgspec.msgpack.Decoder(_Head)
_BATCHES = msgspec.msgpack.Decoder(_Batch)


def encode_objects(snapshot: Snapshot) -> Iterator[bytes]:
    """Yield the objects of *snapshot* in pieces."""
    about = snapshot.about
    conditions = snapshot.conditions.items()
    failures = tuple(EndpointFailures(name, one.failures) for name, one in conditions if one.failures)
    steps = tuple(EndpointSteps(name, one.steps) for name, one in conditions if one.steps)
    head = _Head(
        about.version,
        about.saved_s,
        snapshot.node,
        snapshot.taken,
        about.rejected,
        failures,
        steps,
        tuple(_peers(snapshot)),
        snapshot.peers_refused,
    )
    yield _framed(head)
    services = iter(snapshot.services.values())
    slices = (part for parts in snapshot.slices.values() for part in parts)
    while (batch := _Batch(tuple(islice(services, _BATCH)), tuple(islice(slices, _BATCH)))) != _END:
        yield _framed(batch)
    yield _framed(_END)


def _peers(snapshot: Snapshot) -> Iterator[PeerUpserted]:
    for name in {**snapshot.peers, **snapshot.labels}:
        yield PeerUpserted(name, snapshot.peers.get(name, ()), snapshot.labels.get(name, ()))


_END = _Batch((), ())


def _framed(piece: Struct) -> bytes:
    encoded = _ENCODER.encode(piece)
    return len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded


def decode_objects(content: bytes, version: str) -> list[Event]:
    """Return the objects in *content* as events, and the problems of those that are rejected.

    Raises:
        UnusableObjectsError: It is not of this *version*, or is damaged.
    """
    try:
        first, *others = _frames(content)
        head = _HEAD.decode(first)
        if head.version != version:
            raise UnusableObjectsError(f"the agent is of version {head.version}, this command of {version}")
        batches = list(map(_BATCHES.decode, others))
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnusableObjectsError(f"what the agent has sent cannot be read: {error}") from None
    if not batches or batches[-1] != _END:
        raise UnusableObjectsError("what the agent has sent ends too early")
    return [
        *head.rejected,
        *head.taken,
        *([NodeUpserted(head.node)] if head.node else ()),
        *(ServiceUpserted(service) for batch in batches for service in batch.services),
        *(SliceUpserted(part) for batch in batches for part in batch.slices),
        *head.failures,
        *head.steps,
        *head.peers,
        *([PeersRefused(head.peers_refused)] if head.peers_refused else ()),
    ]


def _frames(content: bytes) -> Iterator[bytes]:
    view, at = memoryview(content), 0
    while at < len(view):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(view[start - _LENGTH_BYTES : start], "big")
        yield bytes(view[start:at])
