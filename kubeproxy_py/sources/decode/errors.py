"""FieldError: what is wrong with a part of an object, and how decoding continues with the other parts.

Readers of a single value raise FieldError.  Readers of lists collect the errors, each with the path of its item, and
return them.  The reader of the object decides whether a part or all of it is lost.
"""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from kubeproxy_py.model.problem import Problem
from kubeproxy_py.net import CIDR, IP, parse_cidr, parse_ip

Item = TypeVar("Item")
Read = TypeVar("Read")

_TYPE_ERROR = re.compile(r"Expected `([^`]*)`, got `([^`]*)`(?: - at `\$\.?(.*)`)?")
_QUOTED_MAX = 64  # characters
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}  # of msgspec, as JSON calls them
_HINTS = {
    "string": "put the value in quotes",
    "integer": "write an integer, without quotes",
    "boolean": "write true or false",
    "array": "write a list: each item on a line of its own, after a dash",
    "object": "write fields, each with a name",
}


class FieldError(Exception):
    """One value cannot be used.

    Attributes:
        field: The path of the field within the object; "" is the object itself.
        message: What is wrong.
        hint: The remedy.
        is_warning: The value is used, but hardly as its author means it.
    """

    def __init__(self, field: str, message: str, hint: str = "", *, is_warning: bool = False) -> None:
        super().__init__(field, message, hint)
        self.field = field
        self.message = message
        self.hint = hint
        self.is_warning = is_warning

    def under(self, path: str) -> "FieldError":
        """Return the error with *path* before its field."""
        field = f"{path}.{self.field}" if self.field else path
        return FieldError(field, self.message, self.hint, is_warning=self.is_warning)

    def to_problem(self, where: str, *, is_warning: bool = False) -> Problem:
        """Return the Problem for the object *where*."""
        return Problem(where, self.field, self.message, self.hint, is_warning or self.is_warning)


def texts_of(errors: Iterable[FieldError]) -> tuple[str, ...]:
    """Return *errors* in words, for the value that is used without these parts."""
    return tuple(f"{error.field}: {error.message}" if error.field else error.message for error in errors)


def quoted(text: str | None) -> str:
    """Return *text* in quotes, and shortened if it is long."""
    text = text or ""
    return repr(text if len(text) <= _QUOTED_MAX else f"{text[: _QUOTED_MAX - 3]}...")


def read_each(
    path: str, items: Iterable[Item] | None, read: Callable[[Item], Read]
) -> tuple[list[Read], list[FieldError]]:
    """Apply *read* to each item; return the values, and the errors of those items for which it raised FieldError."""
    values: list[Read] = []
    errors: list[FieldError] = []
    for index, item in enumerate(items or ()):
        try:
            values.append(read(item))
        except FieldError as error:
            errors.append(error.under(f"{path}[{index}]"))
    return values, errors


def read_ip(text: str, field: str = "") -> IP:
    """Return the canonical form of an address.  Raises FieldError, for *field*."""
    try:
        return parse_ip(text)
    except ValueError as error:
        raise invalid_ip(field, error) from None


def invalid_ip(field: str, error: ValueError) -> FieldError:
    """Return the FieldError for an error of parse_ip."""
    return FieldError(field, str(error), "write it like 10.0.0.1 or fd00::1")


def read_cidr(text: str) -> CIDR:
    """Return the canonical form of a network, which may be surrounded by white space.  Raises FieldError."""
    try:
        return parse_cidr(text.strip())
    except ValueError as error:
        raise FieldError("", str(error), "write it like 10.0.0.0/8; one address is /32 or /128") from None


def from_validation_error(error: Exception) -> FieldError:
    """Return the FieldError for msgspec's ValidationError, with the path as Kubernetes writes it."""
    match = _TYPE_ERROR.match(str(error))
    if not match:
        return FieldError("", str(error))
    expected, actual, path = match.groups(default="")
    expected, actual = (_TYPES.get(name, name) for name in (expected.removesuffix(" | null"), actual))
    return FieldError(path, f"expected {expected}, got {actual}", _HINTS.get(expected, ""))


def json_type_name(value: object) -> str:
    """Return the type of a decoded value as JSON and msgspec call it."""
    name = type(value).__name__
    return _TYPE_NAMES.get(type(value), _TYPES.get(name, name))


def from_decode_error(error: Exception, body: bytes) -> FieldError:
    """Return the FieldError for one of the errors UNREADABLE, with the line of *body* that it names."""
    if isinstance(error, UnicodeDecodeError):
        return FieldError("", "is not UTF-8 text")
    if isinstance(error, RecursionError):
        return FieldError("", "is nested too deep")
    position = re.search(r"\(byte (\d+)\)", str(error))
    if not position:
        return FieldError("", f"is not JSON: {error}")
    line = body.count(b"\n", 0, int(position[1])) + 1
    return FieldError(f"line {line}", f"is not JSON: {error}")


_TYPE_NAMES = {dict: "object", list: "array", type(None): "null"}

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not JSON (its ValidationError is a DecodeError: catch that one first)."""
