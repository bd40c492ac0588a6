"""Durations as Go writes them: ``1h30m``, ``250ms``, ``0s``.

Invariants:
- ``parse_duration(format_duration(s)) == s`` for every integral number of nanoseconds (Go's unit) below 2**50, which is
  13 days; beyond, for integral seconds: a float is not more precise.

Source: Go's ``time.ParseDuration`` and ``Duration.String``.
"""

import re

_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # MICRO SIGN
    "μs": 1_000,  # GREEK SMALL LETTER MU, which Go accepts as well
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_MAX_NS = 2**63 - 1  # Go counts in an int64
_MAX_DIGITS = 40  # of a number; more than an int64 needs
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([a-zµμ]+)", re.ASCII)


def parse_duration(text: str) -> float:
    """Return the seconds that *text* describes.

    Raises:
        ValueError: *text* is not an optional sign and one or more numbers with a unit, or only ``0``.
    """
    sign, unsigned = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    nanoseconds = 0 if unsigned == "0" else sum(_part_ns(part) for part in _parts(unsigned))
    if nanoseconds > _MAX_NS:
        raise ValueError("more than 292 years")
    return sign * nanoseconds / 1e9


def _parts(text: str) -> list[re.Match[str]]:
    """Split *text* into numbers with their units."""
    parts: list[re.Match[str]] = []
    position = 0
    while position < len(text) or not parts:
        part = _PART.match(text, position)
        if part is None or not (part[1] or part[2]) or part[3] not in _UNIT_NS:
            raise ValueError("no number with a unit")
        parts.append(part)
        position = part.end()
    return parts


def _part_ns(part: re.Match[str]) -> int:
    integer: str = part[1]
    fraction: str = part[2] or ""
    unit_ns = _UNIT_NS[part[3]]
    if len(integer) + len(fraction) > _MAX_DIGITS:
        raise ValueError("too many digits")
    return int(integer or "0") * unit_ns + int(fraction or "0") * unit_ns // int(10 ** len(fraction))


def format_duration(duration_s: float) -> str:
    """Return *duration_s* seconds as Go prints them: ``1h0m0s``, ``1.5s``, ``250ms``, ``0s``."""
    nanoseconds = round(abs(duration_s) * 1e9)
    sign = "-" if duration_s < 0 and nanoseconds else ""
    if 0 < nanoseconds < _UNIT_NS["s"]:
        unit = next(unit for unit in ("ms", "µs", "ns") if nanoseconds >= _UNIT_NS[unit])
        return f"{sign}{_decimal(nanoseconds, _UNIT_NS[unit])}{unit}"
    minutes, below_minute_ns = divmod(nanoseconds, _UNIT_NS["m"])
    hours, minutes = divmod(minutes, 60)
    large = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{large}{_decimal(below_minute_ns, _UNIT_NS['s'])}s"


def _decimal(value: int, unit: int) -> str:
    """Return *value* / *unit* (a power of ten) exactly, without trailing zeros."""
    integer, fraction = divmod(value, unit)
    digits = str(fraction).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{integer}.{digits}" if digits else str(integer)
