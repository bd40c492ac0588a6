"""``python -m bench [--quick]``: boot the lab for each measurement, print the table, write build/bench.json.

Exit status: 0 if every bar holds, 1 if one does not, 2 if something could not be measured.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

import msgspec
from msgspec import Struct

from bench.figures import Raw, change_rows, floor_rows, growth_row, start_rows
from bench.rows import Row, rows_json, table_text
from tests import lab

_RESULT = Path(__file__).resolve().parents[1] / "build" / "bench.json"
_TIMEOUT_S = 600.0
HELD, BROKEN, FAILED = 0, 1, 2


class Extent(Struct, frozen=True, gc=False):
    """How much is measured: the numbers of Services, and how often each figure is taken."""

    sizes: tuple[int, ...]
    starts: int
    changes: int
    floors: int
    floor_sizes: tuple[int, ...]


FULL = Extent(sizes=(100, 1000, 10_000), starts=5, changes=50, floors=5, floor_sizes=(10_000,))
QUICK = Extent(sizes=(100, 1000), starts=1, changes=20, floors=1, floor_sizes=())


class NotMeasuredError(Exception):
    """What runs in the lab ended badly; its own words were passed on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, tell, and say by the status whether all bars hold."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the agent on the lab kernel.")
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 Services, few repeats, no floor")
    parser.add_argument("--output", type=Path, default=_RESULT, help="where the JSON goes (default: build/bench.json)")
    options = parser.parse_args(argv)
    try:
        rows = list(_rows(QUICK if options.quick else FULL))
    except NotMeasuredError as error:
        print(f"bench: {error}", file=sys.stderr)
        return FAILED
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(rows_json(rows))
    sys.stdout.write(table_text(rows))
    return BROKEN if any(row.holds is False for row in rows) else HELD


def _rows(extent: Extent) -> Iterator[Row]:
    for n in extent.sizes:
        yield from start_rows(n, _measure("cold", extent.starts, n)[str(n)])
    changes = _measure("change", extent.changes, *extent.sizes)
    for n in extent.sizes:
        yield from change_rows(n, changes[str(n)])
    smallest, largest = min(extent.sizes), max(extent.sizes)
    yield growth_row(changes[str(smallest)], changes[str(largest)], largest)
    for n in extent.floor_sizes:
        yield from floor_rows(n, _measure("floor", extent.floors, n)[str(n)])


def _measure(what: str, repeats: int, *sizes: int) -> Raw:
    """One boot of the lab, for one measurement; raw figures by size.  Raises NotMeasuredError."""
    began_s = monotonic()
    words = [sys.executable, "-m", "bench.inside", what, str(repeats), *map(str, sizes)]
    about = f"{what} at {', '.join(f'{n:,}' for n in sizes)} Services"
    with tempfile.TemporaryFile() as output:
        status = lab.run(words, timeout_s=_TIMEOUT_S, stdout=output)
        output.seek(0)
        text = output.read()
    if status:
        raise NotMeasuredError(f"{about} ended with status {status}")
    print(f"bench: {about} measured in {monotonic() - began_s:.0f} s", file=sys.stderr)
    raw: Raw = msgspec.json.decode(text)
    return raw


if __name__ == "__main__":
    sys.exit(main())
