"""ConfigError: what the operator must mend, all of it at once."""

from collections.abc import Sequence
from reprlib import Repr

from msgspec import Struct


class ConfigProblem(Struct, frozen=True, gc=False):
    """One thing that is wrong, or is not what it seems, in the configuration."""

    field: str  # as the operator wrote it: "ipvs.scheduler", or "--ipvs-scheduler"
    message: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.field}: {self.message}{hint}"


class ConfigError(Exception):
    """The configuration can't be used; ``problems`` has every reason, in the order of the fields.

    ``warnings`` has what was odd besides, which may be the cause: a misspelt field, say.
    """

    def __init__(self, problems: Sequence[ConfigProblem], warnings: Sequence[ConfigProblem] = ()) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)


def error_text(error: ConfigError) -> str:
    """Every problem as a line, and then what was odd besides."""
    return "\n".join([*map(str, error.problems), *(f"warning: {odd}" for odd in error.warnings)])


class InvalidValue(Exception):  # noqa: N818 - a verdict on one value, which its reader turns into a Problem
    """One value can't be what its field wants; the reader of the field adds where it stands."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def at(self, field: str) -> ConfigProblem:
        return ConfigProblem(field, self.message, self.hint)


_short = Repr()
# Aliases can make a small file describe a huge list, and writing that out must not take for ever.
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxstring, _short.maxlong = 2, 4, 4, 80, 80


def shown(value: object) -> str:
    """*value* as a message quotes it: on one line, and short whatever it is."""
    try:
        return _short.repr(value)
    except ValueError:  # Python does not write out integers of more than 4300 digits
        return "a huge number"
