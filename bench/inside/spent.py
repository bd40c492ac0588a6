"""Measure the total time in a method of the product; each call of it additionally reads the clock twice."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def time_spent_in(owner: type, method: str) -> Iterator[list[float]]:
    """Yield a list of one item: the seconds spent in *method* of *owner* within the `with`."""
    spent_s = [0.0]
    original = getattr(owner, method)

    def timed(*arguments: Any, **named: Any) -> Any:
        began_s = time.perf_counter()
        try:
            return original(*arguments, **named)
        finally:
            spent_s[0] += time.perf_counter() - began_s

    with patch.object(owner, method, timed):
        yield spent_s
