"""Batches of ipset entries: steps packed into few messages, and the failed steps found from an error.

Invariants:
- Every step is in exactly one message, in order; a message has entries of one set.
- The line of an entry is its index among all given steps plus 1, so the line in an error identifies the step.
"""

import struct
from collections.abc import Iterator, Sequence
from errno import EINVAL, ENOENT
from itertools import groupby

from kubeproxy_py.kernel.ipset.decode import failed_line
from kubeproxy_py.kernel.ipset.encode import batch_sizes, encode_entries, encode_entry
from kubeproxy_py.kernel.netlink.messages import NetlinkError
from kubeproxy_py.model.rows import IpsetEntry, MarkSpec
from kubeproxy_py.model.steps import Step, StepFailure


def set_of(step: Step) -> str:
    """Return the name of the set that the entry of *step* is in."""
    assert isinstance(step.key, IpsetEntry)
    return step.key.set


def encode(steps: Sequence[Step]) -> tuple[list[Step], list[bytes], list[StepFailure]]:
    """Return the steps whose entry can be encoded, their entries with line 1, 2, ..., and failures for the others."""
    sendable: list[Step] = []
    encoded: list[bytes] = []
    failures: list[StepFailure] = []
    for step in steps:
        assert isinstance(step.key, IpsetEntry)
        try:
            encoded.append(
                encode_entry(step.key.entry, len(encoded) + 1, step.spec if isinstance(step.spec, MarkSpec) else None)
            )
            sendable.append(step)
        except (ValueError, struct.error) as error:
            failures.append(StepFailure(step, EINVAL, f"not an entry: {error}"))
    return sendable, encoded, failures


def pack(steps: Sequence[Step], encoded: Sequence[bytes]) -> Iterator[tuple[range, bytes]]:
    """Yield the range of steps in each message, and its body; consecutive entries of a set are packed together."""
    start = 0
    for name, group in groupby(steps, set_of):
        for count in batch_sizes(encoded[start : start + sum(1 for _ in group)]):
            yield range(start, start + count), encode_entries(name, encoded[start : start + count])
            start += count


def locate_failures(batch: range, error: NetlinkError) -> tuple[Sequence[int], Sequence[int]]:
    """Return the steps of a failed *batch* that the kernel refused, and those whose result is unknown."""
    line = failed_line(error.request)
    if error.errno == ENOENT or len(batch) == 1:  # ENOENT: the set does not exist
        return batch, ()
    if line - 1 in batch:
        return (line - 1,), range(line, batch.stop)
    return (), batch
