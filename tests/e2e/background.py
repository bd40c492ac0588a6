"""Work of a thread that runs within a `with`, such as traffic while something else happens."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

_END_S = 30.0  # within which the work ends after it was asked to


class Background:
    """Calls `_run` in a thread within the `with`; at its end `_stop` is set, and `_run` has to return.

    An exception of `_run` fails the `with`, or is a note of the exception that ends it.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry_out, name=type(self).__name__, daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_END_S)
        ending = f"has not ended within {_END_S:g} s" if self._thread.is_alive() else ""
        if self._error:
            ending = f"ended by itself: {self._error!r}"
        if error and ending:
            error.add_note(f"{self._thread.name} {ending}")
        else:
            assert not ending, f"{self._thread.name} {ending}"

    def _carry_out(self) -> None:
        try:
            self._run()
        except Exception as error:
            self._error = error

    def _run(self) -> None:
        raise NotImplementedError
