"""Durations as Go writes them: ``1h30m``, ``250ms``, ``0s``.

Law: ``parse_duration(format_duration(s)) == s`` for every whole number of nanoseconds (the unit in which Go counts)
below 2**50, which is 13 days; beyond, for whole seconds: a float holds no more.

Source: Go's ``time.ParseDuration`` and ``Duration.String``.
"""

import re

_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # MICRO SIGN
    "μs": 1_000,  # GREEK SMALL LETTER MU, which Go takes as well
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_MAX_NS = 2**63 - 1  # Go counts in an int64
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([a-zµμ]+)", re.ASCII)


def parse_duration(text: str) -> float:
    """The seconds that *text* names.

    Raises ValueError unless it is an optional sign and one or more numbers with a unit, or a lone ``0``.
    """
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    nanoseconds = 0 if rest == "0" else sum(_part_ns(part) for part in _parts(rest))
    if nanoseconds > _MAX_NS:
        raise ValueError("more than 292 years")
    return sign * nanoseconds / 1e9


def _parts(text: str) -> list[re.Match[str]]:
    """*text* cut into numbers with their units."""
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
    whole: str = part[1]
    fraction: str = part[2] or ""
    unit_ns = _UNIT_NS[part[3]]
    if len(whole) + len(fraction) > 40:
        raise ValueError("too many digits")
    return int(whole or "0") * unit_ns + int(fraction or "0") * unit_ns // int(10 ** len(fraction))


def format_duration(duration_s: float) -> str:
    """*duration_s* seconds as Go prints them: ``1h0m0s``, ``1.5s``, ``250ms``, ``0s``."""
    nanoseconds = round(abs(duration_s) * 1e9)
    sign = "-" if duration_s < 0 and nanoseconds else ""
    if 0 < nanoseconds < _UNIT_NS["s"]:
        unit = next(unit for unit in ("ms", "µs", "ns") if nanoseconds >= _UNIT_NS[unit])
        return f"{sign}{_decimal(nanoseconds, _UNIT_NS[unit])}{unit}"
    minutes, rest = divmod(nanoseconds, _UNIT_NS["m"])
    hours, minutes = divmod(minutes, 60)
    large = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{large}{_decimal(rest, _UNIT_NS['s'])}s"


def _decimal(value: int, unit: int) -> str:
    """*value* / *unit* (a power of ten) in full, without trailing zeros."""
    whole, fraction = divmod(value, unit)
    digits = str(fraction).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
