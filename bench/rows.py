"""One row of figures with its limit ("bar"), printed as a table and written as JSON.

A row with a limit is within it or not; a row without one never fails.
"""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

_HEADINGS = ("measure", "n", "value", "unit", "bar", "holds")
_GAP = "  "


class Row(Struct, frozen=True, gc=False):
    """One figure.  `bar` is its upper limit; None: no limit."""

    measure: str
    n: int  # Services of 10 endpoints each; 0 if the figure does not depend on them
    value: float
    unit: str  # "s", "ms", "us", "MB" (10^6 bytes), "x" (a ratio), "%" (of a core); "": a count
    bar: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the figure is within its limit; None if it has none."""
        return None if self.bar is None else self.value <= self.bar


def table_text(rows: Iterable[Row]) -> str:
    """Return *rows* as a table with headings and aligned columns."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    return "".join(_line(line, widths) for line in cells)


def rows_json(rows: Iterable[Row]) -> bytes:
    """Return a JSON list of `{measure, n, value, unit, bar, holds}`; bar and holds are null if there is no limit."""
    plain = [{**msgspec.structs.asdict(row), "holds": row.holds} for row in rows]
    return msgspec.json.format(msgspec.json.encode(plain)) + b"\n"


def _cells(row: Row) -> Sequence[str]:
    holds = {None: "", True: "yes", False: "NO"}[row.holds]
    return row.measure, f"{row.n:,}", _number(row.value), row.unit, "" if row.bar is None else f"{row.bar:.3g}", holds


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value < 10 else f"{value:.1f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    measure, *values = cells
    columns = [measure.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(values, widths[1:], strict=True))]
    return _GAP.join(columns).rstrip() + "\n"
