"""Plain fields -> sections: every field read by its kind, every problem noted with its path, none of them fatal here.

Law: whatever is refused becomes its default, so that one pass finds all that is wrong.  Null, and zero where the
field is no pointer upstream, mean the default; but a flag that says zero means zero.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from kubeproxy_py.config.errors import ConfigProblem, InvalidValue, shown
from kubeproxy_py.config.fields import FieldType
from kubeproxy_py.config.types import Field, Section, fields_of

S = TypeVar("S", bound=Section)


class ValidationResult:
    """What reading one configuration brought to light."""

    def __init__(self, flags: Mapping[str, str] | None = None) -> None:
        self.flags = flags or {}  # path -> the flag that set it, by which the operator knows it
        self.problems: list[ConfigProblem] = []
        self.warnings: list[ConfigProblem] = []
        self.refused: set[str] = set()  # paths
        self.unused: list[str] = []  # what was set and does nothing
        self.given: set[str] = set()  # paths of what was set, be it to the default

    def refuse(self, path: str, reason: InvalidValue) -> None:
        self.refused.add(path)
        self.problems.append(reason.at(self.called(path)))

    def called(self, path: str) -> str:
        """The field as the operator wrote it."""
        return self.flags.get(path, path)


def read_section(section: type[S], raw: Any, findings: ValidationResult, path: str = "") -> S:
    """The section that the fields *raw* describe; what is not right in them goes to *findings*."""
    if raw is not None and not isinstance(raw, dict):
        findings.refuse(path, InvalidValue(f"expected fields, got {shown(raw)}", ", ".join(_keys(section))))
    fields = raw if isinstance(raw, dict) else {}
    for key in [key for key in fields if key not in _keys(section)]:
        findings.warnings.append(ConfigProblem(_join(path, key), "unknown field, ignored", _nearest(str(key), section)))
    return section(**{
        field.name: _read_field(field, fields.get(field.key), findings, _join(path, field.key))
        for field in fields_of(section)
    })  # fmt: skip


def _read_field(field: Field, raw: Any, findings: ValidationResult, path: str) -> Any:
    if field.kind is None:
        return read_section(type(field.default), raw, findings, path)
    if raw is None:
        return field.default
    findings.given.add(path)
    try:
        value = _read_value(field.kind, field.default, raw, explicit=path in findings.flags and raw != "")
    except InvalidValue as reason:
        findings.refuse(path, reason)
        return field.default
    if field.kind.unused and value != field.default:
        findings.unused.append(findings.called(path))
    return value


def _read_value(kind: FieldType, default: Any, raw: Any, *, explicit: bool) -> Any:
    value = kind.read(raw)
    if value == default or not (value or explicit or kind.keeps_zero):
        return default
    kind.check(value)
    return value


def _keys(section: type[Section]) -> tuple[str, ...]:
    return section.__struct_encode_fields__


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _nearest(key: str, section: type[Section]) -> str:
    from difflib import get_close_matches

    known = {name.lower(): name for name in _keys(section)}
    close = get_close_matches(key.lower(), known, n=1)
    return f"did you mean {known[close[0]]}?" if close else ""
