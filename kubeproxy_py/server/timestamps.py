"""Moments as Kubernetes writes them: RFC 3339 with nanoseconds, as Go's time.RFC3339Nano.

Law: an integer of nanoseconds since 1970 goes out, and comes in; no float loses the last digits.
"""

import time

ZERO_TIME = "0001-01-01T00:00:00Z"  # Go's time.Time that was never set


def rfc3339(at_ns: int) -> str:
    """*at_ns* since 1970 in local time; zeros at the end of the fraction are left out, as Go does."""
    seconds, fraction = divmod(at_ns, 10**9)
    local = time.localtime(seconds)
    digits = f".{fraction:09}".rstrip("0").rstrip(".")
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}{digits}{_offset(local.tm_gmtoff)}"


def _offset(offset_s: int) -> str:
    if not offset_s:
        return "Z"
    hours, minutes = divmod(abs(offset_s) // 60, 60)
    return f"{'-' if offset_s < 0 else '+'}{hours:02}:{minutes:02}"
