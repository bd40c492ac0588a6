"""Share equal tuples: 100,000 endpoints have few different zones, and most objects have the ports of many others."""

from functools import lru_cache
from typing import Any

_DISTINCT_MAX = 12_288  # zone hints, ports of slices and ports of Services


@lru_cache(maxsize=_DISTINCT_MAX)
def share(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return one and the same tuple for equal ones, to save memory."""
    return values
