"""What is wrong with a part of an object, and how to go on past it.

Law: the readers of single values raise Flaw; the readers of lists collect them, each under its index; whoever reads
the whole object decides whether a part or all of it is lost.
"""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from kubeproxy_py.model.events import ObjectProblem

Given = TypeVar("Given")
Read = TypeVar("Read")

_TYPE_ERROR = re.compile(r"Expected `([^`]*)`, got `([^`]*)`(?: - at `\$\.?(.*)`)?")
_HINTS = {
    "str": "put the value in quotes",
    "int": "write a whole number, without quotes",
    "bool": "write true or false",
}


class FieldError(Exception):
    """One value can't be used: the field's path, what is wrong, and a hint."""

    def __init__(self, field: str, message: str, hint: str = "") -> None:
        super().__init__(field, message, hint)
        self.field = field
        self.message = message
        self.hint = hint

    def under(self, path: str) -> "FieldError":
        """The same flaw, seen from the object that has *path*."""
        return FieldError(f"{path}.{self.field}" if self.field else path, self.message, self.hint)

    def problem(self, where: str) -> ObjectProblem:
        return ObjectProblem(where, self.field or "(all)", self.message, self.hint)


def read_each(
    path: str, items: Iterable[Given] | None, read: Callable[[Given], Read], flaws: list[FieldError]
) -> list[Read]:
    """What *read* makes of each item; those it raises Flaw for are left out, and the flaws added to *flaws*."""
    values: list[Read] = []
    for index, item in enumerate(items or ()):
        try:
            values.append(read(item))  # not by read_one, which costs a list for each of 100,000 endpoints
        except FieldError as flaw:
            flaws.append(flaw.under(f"{path}[{index}]"))
    return values


def read_one(path: str, item: Given, read: Callable[[Given], Read], flaws: list[FieldError]) -> list[Read]:
    """What *read* makes of *item*, or nothing and a flaw in *flaws*."""
    try:
        return [read(item)]
    except FieldError as flaw:
        flaws.append(flaw.under(path))
        return []


def of_type_error(error: Exception) -> FieldError:
    """A Flaw from msgspec's ValidationError, with the path as Kubernetes writes it."""
    match = _TYPE_ERROR.match(str(error))
    if not match:
        return FieldError("", str(error))
    expected, got, path = match.groups(default="")
    wanted = expected.removesuffix(" | null")
    return FieldError(path, f"expected {wanted}, got {got}", _HINTS.get(wanted, ""))


def of_syntax_error(error: Exception, body: bytes) -> FieldError:
    """A Flaw from msgspec's DecodeError, with the line it names."""
    if isinstance(error, UnicodeDecodeError):
        return FieldError("", "is not UTF-8 text")
    if isinstance(error, RecursionError):
        return FieldError("", "is nested too deep")
    at = re.search(r"\(byte (\d+)\)", str(error))
    if not at:
        return FieldError("", f"is not JSON: {error}")
    line = body.count(b"\n", 0, int(at[1])) + 1
    return FieldError(f"line {line}", f"is not JSON: {error}")


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no JSON (its ValidationError is a DecodeError: catch that one first)."""
