"""How long a method of the product takes in all, while something else is measured.

Law: the method is called as ever; what is added to each call is two readings of the clock.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def spent_in(owner: type, method: str) -> Iterator[list[float]]:
    """Within it, the seconds spent in *method* of *owner* so far: the one item of the list."""
    spent_s = [0.0]
    really = getattr(owner, method)

    def timed(*arguments: Any, **named: Any) -> Any:
        began_s = time.perf_counter()
        try:
            return really(*arguments, **named)
        finally:
            spent_s[0] += time.perf_counter() - began_s

    with patch.object(owner, method, timed):
        yield spent_s
