"""The kinds of value that a setting may have: how each is read, checked, written, and taken from a flag.

Law: a kind is declared once and serves the file, the flag, the documentation and the way back to a file.  ``read``
takes what YAML or JSON gives; ``check`` is asked only about values that are not the default; both raise Refused.
"""

import re
from collections.abc import Callable
from math import isfinite
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.config.durations import format_duration, parse_duration
from kubeproxy_py.config.errors import InvalidValue, shown


def _as_it_is(value: Any) -> Any:
    return value


def _anything(value: Any) -> None:
    """No value is refused."""


class FieldType(Struct, frozen=True, gc=False):
    """What a setting's values are."""

    metavar: str
    read: Callable[[Any], Any]
    check: Callable[[Any], None] = _anything
    write: Callable[[Any], Any] = _as_it_is
    from_text: Callable[[str], Any] = _as_it_is  # a flag's text -> what a file would have there
    adds_up: bool = False  # a flag given twice means both
    # In Go a field that is no pointer can't tell its zero value from being left out, so zero means the default.
    keeps_zero: bool = False
    unused: bool = False  # accepted for the file's sake; does nothing here


def pointer(kind: FieldType) -> FieldType:
    """*kind* for a field that is a pointer upstream: zero means zero, and only null means the default."""
    return replace(kind, keeps_zero=True)


def unused(kind: FieldType) -> FieldType:
    """*kind* for a field that kube-proxy has and that means nothing here."""
    return replace(kind, unused=True)


def read_text(raw: Any) -> str:
    if isinstance(raw, str):
        return raw
    raise InvalidValue(f"expected text, got {shown(raw)}", "put it in quotes")


TEXT = FieldType("TEXT", read_text)


def _read_boolean(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    raise InvalidValue(f"expected true or false, got {shown(raw)}", "without quotes")


def _boolean_from_text(text: str) -> bool:
    """As Go's strconv.ParseBool, which reads kube-proxy's flags."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidValue(f"expected true or false, got {shown(text)}")


BOOLEAN = FieldType("BOOL", _read_boolean, from_text=_boolean_from_text)


def read_whole(raw: Any) -> int:
    """A whole number that Go's int64 holds; others, which may be endless, are not even written out."""
    if isinstance(raw, int) and not isinstance(raw, bool) and raw.bit_length() < 64:
        return raw
    raise InvalidValue(f"expected a whole number, got {shown(raw)}", "without quotes")


def _whole_from_text(text: str) -> int:
    if re.fullmatch(r"[-+]?[0-9]{1,19}", text):
        return int(text)
    raise InvalidValue(f"expected a whole number, got {shown(text)}")


def whole(least: int, most: int = 2**31 - 1) -> FieldType:
    """A whole number in *least*..*most*."""

    def check(value: int) -> None:
        if not least <= value <= most:
            raise InvalidValue(f"{value} is out of range", f"{least} to {most}")

    return FieldType("N", read_whole, check, from_text=_whole_from_text)


def _read_number(raw: Any) -> float:
    if isinstance(raw, float) and isfinite(raw):
        return raw
    try:
        return float(read_whole(raw))
    except InvalidValue:
        raise InvalidValue(f"expected a number, got {shown(raw)}", "without quotes") from None


def _number_from_text(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidValue(f"expected a number, got {shown(text)}") from None


NUMBER = FieldType("NUMBER", _read_number, from_text=_number_from_text)

_DURATION_HINT = 'a number with a unit, such as "30s", "1h30m", "250ms" or "0s"'


def _read_duration(raw: Any) -> float:
    try:
        return parse_duration(read_text(raw))
    except ValueError as reason:
        raise InvalidValue(f"{shown(raw)} is not a duration: {reason}", _DURATION_HINT) from None
    except InvalidValue:
        raise InvalidValue(f"expected a duration, got {shown(raw)}", _DURATION_HINT) from None


def _not_negative(duration_s: float) -> None:
    if duration_s < 0:
        raise InvalidValue(f"{format_duration(duration_s)} is negative", "0s or more")


def _positive(duration_s: float) -> None:
    if duration_s <= 0:
        raise InvalidValue(f"{format_duration(duration_s)} is too short", "more than 0s")


DURATION = FieldType("DURATION", _read_duration, _not_negative, format_duration)
PERIOD = replace(DURATION, check=_positive)


def _read_flush_frequency(raw: Any) -> float:
    return read_whole(raw) / 1e9 if type(raw) is int else _read_duration(raw)


# The one duration that may be a number, of nanoseconds (upstream's TimeOrMetaDuration); kubeadm writes 0.
FLUSH_FREQUENCY = replace(DURATION, read=_read_flush_frequency)


def one_of(what: str, *words: str, hint: str = "") -> FieldType:
    """One of *words*, where *what* says what they are."""

    def check(word: str) -> None:
        if word not in words:
            raise InvalidValue(f"unknown {what} {shown(word)}", hint or f"one of {', '.join(words)}")

    return FieldType("|".join(words) if len(words) < 5 else "NAME", read_text, check)


def words_from_text(text: str) -> list[str]:
    """A flag's comma list."""
    return [word.strip() for word in text.split(",")] if text.strip() else []


def _read_switches(raw: Any) -> dict[str, bool]:
    if isinstance(raw, dict) and all(isinstance(on, bool) for on in raw.values()):
        return {str(name): on for name, on in raw.items()}
    raise InvalidValue(f"expected names with true or false, got {shown(raw)}")


def _switches_from_text(text: str) -> dict[str, bool]:
    pairs = (word.partition("=") for word in words_from_text(text))
    return {name.strip(): _boolean_from_text(value.strip()) for name, _, value in pairs}


SWITCHES = FieldType("NAME=BOOL,...", _read_switches, write=dict, from_text=_switches_from_text, adds_up=True)
