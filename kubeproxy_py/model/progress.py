"""How far a row is from what is desired: what waits to be tried again, and what drains.

All times are seconds of a clock that only increases (``time.monotonic``).
"""

from msgspec import Struct

from kubeproxy_py.model.rows import Key


class RetryState(Struct, frozen=True, gc=False):
    """A row that waits: its consecutive failures, and when it may be tried again."""

    failures: int  # 0: it has not been tried
    due_s: float
    error: str = ""  # why it waits, in words
    blocker: Key | None = None  # the row that it waits for


class Drain(Struct, frozen=True, gc=False):
    """A real server that drains: since when, and when it is deleted at the latest."""

    since_s: float
    deadline_s: float  # NEVER: it drains until it has no connections
