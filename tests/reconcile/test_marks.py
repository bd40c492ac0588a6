"""ConfirmedMarks: no change of another program escapes, and no change of ours is suspect."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.kernel import Mark, Scope, ipset_scope, table_scope
from kubeproxy_py.reconcile.marks import ConfirmedMarks

SET, TABLE = ipset_scope("A"), table_scope("IPv4", "nat")


class Model:
    """Two scopes of a kernel and what is known of them: a set, whose entries are counted, and a table."""

    def __init__(self) -> None:
        self.marks = ConfirmedMarks()
        self.kernel: dict[Scope, set[str]] = {SET: set(), TABLE: set()}
        self.known: dict[Scope, set[str]] = {SET: set(), TABLE: set()}
        self.excluded: set[str] = set()  # rows in the set that are not ours
        self.suspects: list[Scope] = []
        self.compare()

    def write(self, scope: Scope, row: str) -> None:
        """Add a row as we do, or delete it."""
        self.known[scope] ^= {row}
        (self.kernel[scope].add if row in self.known[scope] else self.kernel[scope].discard)(row)
        self.marks.record_written([scope])

    def meddle(self, scope: Scope, row: str) -> None:
        """Add a row as another program does, or delete it."""
        self.kernel[scope] ^= {row}

    def observe(self) -> list[Scope]:
        marks = {
            str(scope): Mark(scope, hash(frozenset(rows)), (("A", len(rows)),) if scope == SET else ())
            for scope, rows in self.kernel.items()
        }
        self.suspects = self.marks.observe(marks, Counter(A=len(self.known[SET])), {})
        return self.suspects

    def compare(self) -> None:
        """Observe, then compare what is suspect, and take the rows that are ours for known."""
        scopes = self.observe()
        has_drift = False
        for scope in scopes:
            ours = self.kernel[scope] - self.excluded
            has_drift |= ours != self.known[scope]
            self.known[scope] = set(ours)
        self.marks.record_compared(scopes, has_drift=has_drift)

    def drifted(self) -> set[Scope]:
        return {scope for scope, rows in self.kernel.items() if rows - self.excluded != self.known[scope]}


ROWS = st.sampled_from("abcdef")
SCOPES = st.sampled_from([SET, TABLE])
WRITES = st.lists(st.tuples(SCOPES, ROWS), max_size=4)


@given(rounds=st.lists(st.tuples(WRITES, WRITES), max_size=8))
def test_each_change_of_another_program_is_suspect_unless_it_keeps_the_number_of_rows_while_we_write(
    rounds: list[tuple[list[tuple[Scope, str]], list[tuple[Scope, str]]]],
) -> None:
    model = Model()
    missed: set[str] | None = None  # the entries of the set in which such a change was not found
    for ours, foreign in rounds:
        for scope, row in ours:
            model.write(scope, row)
        for scope, row in foreign:
            model.meddle(scope, row)
        drifted, written = model.drifted(), {scope for scope, _ in ours}
        if SET in written and len(model.kernel[SET]) == len(model.known[SET]):
            missed = set(model.kernel[SET])
        elif model.kernel[SET] != missed:
            missed = None
        if missed is not None:
            drifted.discard(SET)
        assert drifted <= set(model.observe())
        model.compare()
        model.compare()  # a table that drifted, or that we wrote, is compared once more
        assert TABLE not in model.drifted()


@given(rounds=st.lists(st.lists(ROWS, max_size=4), max_size=8))
def test_our_changes_of_rows_that_the_kernel_counts_are_never_suspect(rounds: list[list[str]]) -> None:
    model = Model()
    for ours in rounds:
        for row in ours:
            model.write(SET, row)
        assert SET not in model.observe()


def test_a_table_that_we_wrote_is_compared_once() -> None:
    model = Model()
    model.write(TABLE, "a")
    assert model.observe() == [TABLE]
    model.compare()
    assert model.observe() == []


def test_a_scope_stays_suspect_until_it_was_compared() -> None:
    model = Model()
    model.meddle(SET, "a")
    assert model.observe() == [SET]
    model.write(SET, "b")
    model.meddle(SET, "a")
    assert model.observe() == [SET]
    model.marks.record_compared([TABLE], has_drift=False)
    assert model.observe() == [SET]
    model.marks.record_compared([SET], has_drift=False)
    assert model.observe() == []


def test_after_drift_a_scope_is_compared_until_no_row_differs() -> None:
    model = Model()
    model.meddle(SET, "a")
    assert model.observe() == [SET]
    model.compare()
    model.write(SET, "a")  # repaired
    model.meddle(SET, "b")
    model.known[SET].add("c")  # as many rows as are known
    assert model.observe() == [SET]


def test_rows_that_are_not_ours_are_suspect_once_and_do_not_make_our_changes_suspect() -> None:
    model = Model()
    model.excluded = {"x", "y"}
    model.meddle(SET, "x")
    model.compare()
    assert model.observe() == []
    model.write(SET, "a")
    assert model.observe() == []
    model.meddle(SET, "y")
    model.write(SET, "b")
    assert model.observe() == [SET]


def test_a_write_during_a_comparison_leaves_the_mark_to_the_next_observation() -> None:
    model = Model()
    model.meddle(TABLE, "a")
    assert model.observe() == [TABLE]
    model.known[TABLE].add("a")
    model.write(TABLE, "b")
    model.marks.record_compared([TABLE], has_drift=False)
    assert model.observe() == [TABLE], "what another program did between our write and now is not known"


def test_all_rows_that_were_read_again_are_confirmed_by_their_number() -> None:
    model = Model()
    model.write(SET, "a")
    model.marks.invalidate_all()
    assert model.observe() == [TABLE]
