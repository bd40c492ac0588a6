"""Work of a thread that runs within a `with`, such as traffic while something else happens."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

_END_S = 30.0  # within which the work ends after it was asked to


class Background:
    """Calls `_run` in a thread within the `with`; at its end `_stop` is set, and `_run` has to return."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_END_S)
        assert not self._thread.is_alive(), f"{self._thread.name} has not ended within {_END_S:g} s"

    def _run(self) -> None:
        raise NotImplementedError
