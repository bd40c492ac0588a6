"""``python -m bench.inside cold|change|floor REPEATS N...``, in the lab: the raw figures as JSON, by N."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from bench.inside import change, cold, floor

_MEASURES: dict[str, Callable[[Sequence[int], int], Mapping[str, Any]]] = {
    "cold": lambda sizes, repeats: {str(n): cold.measure(n, repeats) for n in sizes},
    "change": change.measure,
    "floor": lambda sizes, repeats: {str(n): floor.measure(n, repeats) for n in sizes},
}

if __name__ == "__main__":
    what, repeats, *sizes = sys.argv[1:]
    found = _MEASURES[what]([int(n) for n in sizes], int(repeats))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
