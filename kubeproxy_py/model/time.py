"""Points in time, in seconds of a clock that only increases (`time.monotonic`)."""

NEVER = float("inf")
"""A time that is never reached; `-NEVER` is always in the past."""
