"""Field types: how a setting's value is read, checked, written, and parsed from a flag.

Invariants:
- A type is declared once and serves the file, the flag, the documentation and ``--write-config-to``.
- ``read`` receives what YAML or JSON contains; ``check`` is called only for values that are not the default. Both raise
  InvalidValue.

Types that only kube-proxy's configuration has are in kubeproxy_fields.py.
"""

import re
from collections.abc import Callable
from math import isfinite
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.config.durations import format_duration, parse_duration
from kubeproxy_py.config.errors import InvalidValue, abbreviated


def _identity(value: Any) -> Any:
    return value


def _accept_any(value: Any) -> None:
    """Accept *value*."""


class FieldType(Struct, frozen=True, gc=False):
    """The type of a setting's value."""

    metavar: str  # the value in help texts and documentation
    read: Callable[[Any], Any]  # plain data of the file -> value; raises InvalidValue
    check: Callable[[Any], None] = _accept_any  # raises InvalidValue for a value that is out of range
    write: Callable[[Any], Any] = _identity  # value -> plain data for a file
    from_text: Callable[[str], Any] = _identity  # a flag's text -> the plain data that a file would have
    accumulates: bool = False  # a flag given twice sets both values
    # In Go a field that is no pointer cannot distinguish its zero value from absence, so zero means the default.
    keeps_zero: bool = False
    unused: bool = False  # accepted in the file; has no effect here
    choices: tuple[str, ...] = ()  # every value, if they can be listed


def pointer(field_type: FieldType) -> FieldType:
    """Return *field_type* for a field that is a pointer upstream: zero means zero, only null means the default."""
    return replace(field_type, keeps_zero=True)


def unused(field_type: FieldType) -> FieldType:
    """Return *field_type* for a field that kube-proxy has and that has no effect here."""
    return replace(field_type, unused=True)


# Text


def read_text(raw: Any) -> str:
    """Return *raw*, which must be text."""
    if isinstance(raw, str):
        return raw
    hint = "" if raw is None or isinstance(raw, list | dict) else "put it in quotes"
    raise InvalidValue(f"expected text, got {abbreviated(raw)}", hint)


TEXT = FieldType("TEXT", read_text)
FILE = replace(TEXT, metavar="FILE")
DIRECTORY = replace(TEXT, metavar="DIR")
URL = replace(TEXT, metavar="URL")


def one_of(description: str, *values: str) -> FieldType:
    """Return the type of a field that has one of *values*; *description* names the field in messages."""

    def check(value: str) -> None:
        if value not in values:
            raise InvalidValue(f"unknown {description} {abbreviated(value)}", f"one of {', '.join(values)}")

    metavar = "|".join(values) if len(values) < 5 else "NAME"  # noqa: PLR2004 - fits a line
    return FieldType(metavar, read_text, check, choices=values)


def split_list(text: str) -> list[str]:
    """Return the items of a flag's comma-separated list."""
    return [word.strip() for word in text.split(",")] if text.strip() else []


# Booleans


def _read_boolean(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    raise InvalidValue(f"expected true or false, got {abbreviated(raw)}", "without quotes")


def _boolean_from_text(text: str) -> bool:
    """Parse as Go's strconv.ParseBool, which parses kube-proxy's flags."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidValue(f"expected true or false, got {abbreviated(text)}")


BOOLEAN = FieldType("BOOL", _read_boolean, from_text=_boolean_from_text)


def _read_boolean_map(raw: Any) -> dict[str, bool]:
    if isinstance(raw, dict) and all(isinstance(value, bool) for value in raw.values()):
        return {str(name): value for name, value in raw.items()}
    raise InvalidValue(f"expected names with true or false, got {abbreviated(raw)}")


def _boolean_map_from_text(text: str) -> dict[str, bool]:
    booleans: dict[str, bool] = {}
    for word in split_list(text):
        name, _, value = (part.strip() for part in word.partition("="))
        try:
            booleans[name] = _boolean_from_text(value)
        except InvalidValue as error:
            raise InvalidValue(f"{name}: {error.args[0]}", "write it NAME=true or NAME=false") from None
    return booleans


BOOLEAN_MAP = FieldType(
    "NAME=BOOL,...", _read_boolean_map, write=dict, from_text=_boolean_map_from_text, accumulates=True
)


# Numbers

_INT64_BITS = 64


def read_integer(raw: Any) -> int:
    """Return *raw*, which must be an integer that fits Go's int64; longer ones are not even printed."""
    if isinstance(raw, int) and not isinstance(raw, bool) and raw.bit_length() < _INT64_BITS:
        return raw
    raise InvalidValue(f"expected an integer, got {abbreviated(raw)}", "without quotes")


def _integer_from_text(text: str) -> int:
    if re.fullmatch(r"[-+]?[0-9]{1,19}", text):
        return int(text)
    raise InvalidValue(f"expected an integer, got {abbreviated(text)}")


def integer(minimum: int, maximum: int = 2**31 - 1, *, metavar: str = "N") -> FieldType:
    """Return the type of an integer in *minimum*..*maximum*."""

    def check(value: int) -> None:
        if not minimum <= value <= maximum:
            raise InvalidValue(f"{value} is out of range", f"{minimum} to {maximum}")

    return FieldType(metavar, read_integer, check, from_text=_integer_from_text)


def _read_mark_mask(raw: Any) -> int:
    """Return *raw*, an integer, or its text as 0x3fff or 16383."""
    if not isinstance(raw, str):
        return read_integer(raw)
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,16}", raw):
        raise InvalidValue(f"expected bits of marks, got {abbreviated(raw)}", "such as 0x3fff")
    return int(raw, 16) if raw[1:2] in {"x", "X"} else int(raw)


MARK_MASK = FieldType("MASK", _read_mark_mask, integer(1, 2**32 - 1).check, hex)


def _read_number(raw: Any) -> float:
    if isinstance(raw, float) and isfinite(raw):
        return raw
    try:
        return float(read_integer(raw))
    except InvalidValue:
        raise InvalidValue(f"expected a number, got {abbreviated(raw)}", "without quotes") from None


def _number_from_text(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidValue(f"expected a number, got {abbreviated(text)}") from None


NUMBER = FieldType("NUMBER", _read_number, from_text=_number_from_text)


# Durations, in seconds

_DURATION_HINT = 'a number with a unit, such as "30s", "1h30m", "250ms" or "0s"'


def _read_duration(raw: Any) -> float:
    try:
        return parse_duration(read_text(raw))
    except ValueError as reason:
        raise InvalidValue(f"{abbreviated(raw)} is not a duration: {reason}", _DURATION_HINT) from None
    except InvalidValue:
        raise InvalidValue(f"expected a duration, got {abbreviated(raw)}", _DURATION_HINT) from None


def _check_not_negative(duration_s: float) -> None:
    if duration_s < 0:
        raise InvalidValue(f"{format_duration(duration_s)} is negative", "0s or more")


def _check_positive(duration_s: float) -> None:
    if duration_s <= 0:
        raise InvalidValue(f"{format_duration(duration_s)} is too short", "more than 0s")


DURATION = FieldType("DURATION", _read_duration, _check_not_negative, format_duration)
PERIOD = replace(DURATION, check=_check_positive)


def _read_flush_frequency(raw: Any) -> float:
    return read_integer(raw) / 1e9 if type(raw) is int else _read_duration(raw)


# The only duration that may be a number, of nanoseconds (upstream's TimeOrMetaDuration); kubeadm writes 0.
FLUSH_FREQUENCY = replace(DURATION, read=_read_flush_frequency)
