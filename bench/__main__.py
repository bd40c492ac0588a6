"""`python -m bench [--quick] [--beside | --policies]`: boot the lab for each measurement, print a table.

The figures are written to build/bench.json as well.
Exit status: 0 if every figure is within its limit, 1 if one is not, 2 if something could not be measured.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

import msgspec
from msgspec import Struct

import lab
from bench import figures, figures_load, figures_policies, peers
from bench.figures import Raw
from bench.rows import Row, rows_json, table_text
from tests.apiserver.real import MissingProgramError

_RESULT = Path(__file__).resolve().parents[1] / "build" / "bench.json"
_TIMEOUT_S = 600.0
_BESIDE_TIMEOUT_S = 2400.0  # two kube-apiservers, which take up to 95 s to start, and kube-proxy, which takes minutes
_FEW_CHANGES = 20  # endpoints replaced one by one, where Services and changes in a row are measured
_COMPARES = 3  # times the repeats: each takes only half a second, and their times differ by a third
WITHIN_LIMITS, OVER_A_LIMIT, FAILED = 0, 1, 2


class Extent(Struct, frozen=True, gc=False):
    """The sizes of the measurements: numbers of Services, and repeats of each figure."""

    repeats: int
    starts: tuple[int, ...]
    api_starts: tuple[int, ...]
    offline_starts: tuple[int, ...]
    change_sizes: tuple[int, ...]
    changes: int
    floors: tuple[int, ...]
    churn: tuple[int, int]  # Services, seconds
    churn_new: tuple[int, int]
    rollouts: tuple[int, ...]  # pods
    contested: int  # ports
    asked: int
    compares: tuple[int, ...]
    idle: tuple[int, ...]
    idle_s: int
    beside: int
    policies: int
    connections: tuple[int, int]  # Services, batches


FULL = Extent(
    repeats=5,
    starts=(10, 100, 1000, 10_000),
    api_starts=(100, 10_000),
    offline_starts=(100, 1000),
    change_sizes=(100, 1000, 10_000, 30_000),
    changes=200,
    floors=(10_000,),
    churn=(5000, 60),
    churn_new=(5000, 20),
    rollouts=(250, 1000),
    contested=2500,
    asked=10_000,
    compares=(10_000,),
    idle=(100, 10_000),
    idle_s=60,
    beside=1000,
    policies=10_000,
    connections=(200, 50),
)
QUICK = Extent(
    repeats=1,
    starts=(10, 1000),
    api_starts=(1000,),
    offline_starts=(100,),
    change_sizes=(100, 1000),
    changes=20,
    floors=(1000,),
    churn=(1000, 5),
    churn_new=(1000, 5),
    rollouts=(50, 200),
    contested=200,
    asked=1000,
    compares=(1000,),
    idle=(100,),
    idle_s=35,  # contains one full compare, 30 s after the first sync
    beside=100,
    policies=500,
    connections=(20, 5),
)


class NotMeasuredError(Exception):
    """The program in the lab failed; its output was passed on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the agent on the lab kernel.")
    parser.add_argument("--quick", action="store_true", help="small numbers, few repeats: to test the bench itself")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--beside", action="store_true", help="only the figures beside kube-proxy, and of a take-over")
    only.add_argument("--policies", action="store_true", help="only the figures of exact policies beside the others")
    parser.add_argument("--output", type=Path, default=_RESULT, help="JSON file to write (default: build/bench.json)")
    options = parser.parse_args(argv)
    try:
        if peers.is_set():
            peers.programs()  # before a quarter of an hour is spent on other figures
        measure = _beside_rows if options.beside else _policies_rows if options.policies else _rows
        rows = list(measure(QUICK if options.quick else FULL))
    except (NotMeasuredError, MissingProgramError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return FAILED
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(rows_json(rows))
    sys.stdout.write(table_text(rows))
    return OVER_A_LIMIT if any(row.holds is False for row in rows) else WITHIN_LIMITS


def _rows(extent: Extent) -> Iterator[Row]:
    machine = _measure("machine", extent.repeats, 0)["0"]
    yield from figures.machine_rows(machine)
    page_us = machine["page_us"]
    floors = {n: _measure("floor", extent.repeats, n)[str(n)] for n in extent.floors}
    for n, raw in floors.items():
        yield from figures.floor_rows(n, raw)
    floors_s = {n: figures.floor_s(raw) for n, raw in floors.items()}
    for n in extent.starts:
        yield from figures.start_rows(n, _measure("cold", extent.repeats, n)[str(n)], floors_s.get(n), page_us)
    for n in extent.api_starts:
        yield from figures.api_rows(n, _measure("cold-api", extent.repeats, n)[str(n)], floors_s.get(n), page_us)
    for n in extent.offline_starts:
        yield from figures.offline_rows(n, _measure("cold-offline", extent.repeats, n)[str(n)])
    yield from _change_rows(extent)
    yield from _load_rows(extent)
    yield from _policies_rows(extent)
    yield figures_load.help_row(_help_s(max(5, extent.repeats)))
    yield from _beside_rows(extent)


def _beside_rows(extent: Extent) -> Iterator[Row]:
    """Yield the figures of kube-proxy beside the agent's, where there is one, and those of a take-over."""
    n = extent.beside
    if peers.is_set():
        yield from figures_load.beside_rows(n, _measure("beside", 1, n, timeout_s=_BESIDE_TIMEOUT_S)[str(n)])
    yield from figures_load.takeover_rows(n, _measure("takeover", 1, n, timeout_s=_BESIDE_TIMEOUT_S)[str(n)])


def _policies_rows(extent: Extent) -> Iterator[Row]:
    """Yield the figures of exact policies beside those of kube-proxy's."""
    n = extent.policies
    changes = _measure("policies-change", extent.changes, n)[str(n)]
    yield from figures_policies.policies_change_rows(n, changes)
    yield from figures_policies.policies_start_rows(n, _measure("policies-cold", extent.repeats, n)[str(n)])
    n, batches = extent.connections
    yield from figures_policies.policies_connection_rows(n, _measure("policies-connections", batches, n)[str(n)])


def _change_rows(extent: Extent) -> Iterator[Row]:
    changes = _measure("change", extent.changes, *extent.change_sizes)
    for n in extent.change_sizes:
        single = _measure("change", _FEW_CHANGES, n)[str(n)]
        yield from figures.change_rows(n, changes[str(n)], single)
    smallest, *larger = extent.change_sizes
    for n in larger:
        yield figures.growth_row(changes[str(smallest)], changes[str(n)], n)


def _load_rows(extent: Extent) -> Iterator[Row]:
    n, seconds = extent.churn
    yield from figures_load.churn_rows(n, _measure("churn", seconds, n)[str(n)])
    n, seconds = extent.churn_new
    yield from figures_load.churn_new_rows(n, _measure("churn-new", seconds, n)[str(n)])
    yield from figures_load.rollout_rows(_measure("rollout", extent.repeats, *extent.rollouts))
    contested = _measure("contested", extent.repeats, extent.contested)[str(extent.contested)]
    yield from figures_load.contested_rows(extent.contested, contested)
    asked = _measure("asked", extent.repeats, extent.asked)[str(extent.asked)]
    yield from figures_load.asked_rows(extent.asked, asked)
    for n in extent.compares:
        yield from figures_load.drift_rows(n, _measure("drift", _COMPARES * extent.repeats, n)[str(n)])
    idle = _measure("idle", extent.idle_s, *extent.idle)
    for n in extent.idle:
        yield from figures_load.idle_rows(n, idle[str(n)])


def _help_s(repeats: int) -> list[float]:
    """Return the seconds of `kubeproxy-py --help` on this host, after one run that reads it from the disk."""
    words = [sys.executable, "-m", "kubeproxy_py", "--help"]
    return [_seconds(words) for _ in range(repeats + 1)][1:]


def _seconds(words: Sequence[str]) -> float:
    began_s = monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return monotonic() - began_s


def _measure(what: str, repeats: int, *sizes: int, timeout_s: float = _TIMEOUT_S) -> Raw:
    """Boot the lab for one measurement and return its raw figures by size.  Raises NotMeasuredError."""
    began_s = monotonic()
    words = [sys.executable, "-m", "bench.inside", what, str(repeats), *map(str, sizes)]
    label = f"{what} at {', '.join(f'{n:,}' for n in sizes)}"
    with tempfile.TemporaryFile() as output:
        status = lab.run(words, timeout_s=timeout_s, stdout=output)
        output.seek(0)
        text = output.read()
    if status:
        raise NotMeasuredError(f"{label} failed with status {status}")
    print(f"bench: {label} measured in {monotonic() - began_s:.0f} s", file=sys.stderr)
    raw: Raw = msgspec.json.decode(text)
    return raw


if __name__ == "__main__":
    sys.exit(main())
