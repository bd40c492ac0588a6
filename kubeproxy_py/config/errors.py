"""Errors of a configuration that cannot be used, with all problems together."""

from collections.abc import Sequence
from itertools import islice
from reprlib import Repr

from kubeproxy_py.model.problem import Problem


class ConfigError(Exception):
    """The configuration cannot be used.

    Attributes:
        problems: Every reason, in the order of the fields.
        warnings: What else was noticed and may be the cause, such as a misspelt field.
    """

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[Problem] = ()) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)


def error_text(error: ConfigError) -> str:
    """Return every problem and then every warning, one a line."""
    return "\n".join([*map(str, error.problems), *(f"warning: {warning}" for warning in error.warnings)])


class InvalidValue(Exception):  # noqa: N818 - a verdict on one value; the reader of the field makes it a Problem
    """A value that its field does not accept; the reader of the field adds the field's path."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_problem(self, field: str) -> Problem:
        """Return the problem of *field* that has this value."""
        return Problem(field=field, message=self.message, hint=self.hint)


_short = Repr()
# Aliases let a small file describe a huge list, and printing it must end.
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxstring, _short.maxlong = 2, 4, 4, 80, 80


def abbreviated(value: object) -> str:
    """Return *value* as a message quotes it: on one line, and short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        if isinstance(value, dict):
            return f"fields ({', '.join(map(_short.repr, islice(value, _short.maxdict)))})"
        return _short.repr(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a huge number"
