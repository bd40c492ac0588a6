"""Marks: they change with the rows of their scope and with nothing else, and count what is read."""

from collections import Counter
from collections.abc import Mapping

from kubeproxy_py.kernel import LINK, Kernel, Mark, mark_group, read_all, scope_of
from kubeproxy_py.model.rows import RealServer, RealServerSpec, Rows
from tests.contract.contract import (
    CLUSTER_IP,
    ENTRY,
    HTTP,
    HTTP_6,
    OTHER_ROWS,
    PERSISTENT,
    PLAIN,
    POD,
    POD_6,
    PORTS_SPEC,
    SETS,
    Sample,
    add,
    bring_to,
    carry_out,
    delete,
    for_each,
    update,
)

# The device with its addresses has notifications.
MARKED = [sample for sample in (*SETS, *OTHER_ROWS) if scope_of(sample.key) != LINK]


def marks_of(kernel: Kernel, sample: Sample) -> Mapping[str, Mark]:
    """Return the marks of the scope of *sample*."""
    marks = {name: mark for reader in kernel.mark_readers() for name, mark in reader.read().items()}
    return {name: mark for name, mark in marks.items() if mark.scope == scope_of(sample.key)}


@for_each(MARKED)
def test_the_mark_changes_only_when_a_row_is_added_or_deleted(kernel: Kernel, sample: Sample) -> None:
    bring_to(kernel, sample.dependencies)
    absent = marks_of(kernel, sample)
    assert marks_of(kernel, sample) == absent
    carry_out(kernel, [add(sample.key, sample.spec)])
    present = marks_of(kernel, sample)
    assert (present == marks_of(kernel, sample), present == absent) == (True, False)
    carry_out(kernel, [delete(sample.key, sample.spec)])
    assert marks_of(kernel, sample) != present


@for_each([sample for sample in MARKED if sample.other])
def test_the_mark_changes_with_the_spec(kernel: Kernel, sample: Sample) -> None:
    bring_to(kernel, {**sample.dependencies, sample.key: sample.spec})
    before = marks_of(kernel, sample)
    carry_out(kernel, [update(sample.key, sample.other, sample.spec)])
    assert marks_of(kernel, sample) != before


def test_marks_count_the_rows_that_are_read(kernel: Kernel) -> None:
    rows: Rows = {CLUSTER_IP: PORTS_SPEC, ENTRY: None, HTTP: PLAIN, POD: RealServerSpec(1), HTTP_6: PERSISTENT}
    bring_to(kernel, rows | {RealServer(HTTP, "10.244.1.6", 8080): RealServerSpec(0), POD_6: RealServerSpec(1)})
    counted = Counter(filter(None, map(mark_group, read_all(kernel))))
    marks = [mark for reader in kernel.mark_readers() for mark in reader.read().values()]
    counts = {group: count for mark in marks for group, count in mark.counts}
    assert {group: count for group, count in counts.items() if count} == counted
