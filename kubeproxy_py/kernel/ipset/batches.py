"""Steps on ipset entries, put together into few messages, and told apart again when one is refused.

Law: pure.  Every step is in exactly one message, in order; a message holds entries of one set; an entry's line is
its place among all steps given, from 1, so the line in an error names the step.
"""

import struct
from collections.abc import Iterator, Sequence
from errno import EINVAL, ENOENT
from itertools import groupby
from operator import attrgetter
from typing import Any

from kubeproxy_py.kernel.ipset.wire import encode_entries, encode_entry, parcels, refused_line
from kubeproxy_py.kernel.netlink.messages import NetlinkError
from kubeproxy_py.model.rows import IpsetEntry
from kubeproxy_py.model.steps import Step, StepFailure

set_of: Any = attrgetter("key.set")
"""The set that the entry of a step is in."""


def encode(steps: Sequence[Step]) -> tuple[list[Step], list[bytes], list[StepFailure]]:
    """The steps whose entry can be written at all, their entries with line 1, 2, ..., and the others."""
    sendable: list[Step] = []
    encoded: list[bytes] = []
    failed: list[StepFailure] = []
    for step in steps:
        assert isinstance(step.key, IpsetEntry)
        try:
            encoded.append(encode_entry(step.key.entry, len(encoded) + 1))
            sendable.append(step)
        except (ValueError, struct.error) as error:
            failed.append(StepFailure(step, EINVAL, f"not an entry: {error}"))
    return sendable, encoded, failed


def pack(steps: Sequence[Step], encoded: Sequence[bytes]) -> Iterator[tuple[range, bytes]]:
    """The messages, each with the range of steps that it carries out; entries of one set go together."""
    start = 0
    for name, run in groupby(map(set_of, steps)):
        for count in parcels(encoded[start : start + sum(1 for _ in run)]):
            yield range(start, start + count), encode_entries(name, encoded[start : start + count])
            start += count


def blame(parcel: range, refusal: NetlinkError) -> tuple[Sequence[int], Sequence[int]]:
    """Which entries of a refused message were refused, and of which that isn't known yet."""
    line = refused_line(refusal.request)
    if refusal.errno == ENOENT or len(parcel) == 1:  # ENOENT: there is no such set
        return parcel, ()
    if line - 1 in parcel:
        return (line - 1,), range(line, parcel.stop)
    return (), parcel
