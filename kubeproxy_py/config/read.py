"""Plain fields -> configuration sections, with every problem recorded under its path.

Invariants:
- An invalid value becomes its default, so that one pass finds every problem.
- Null, and zero where the field is no pointer upstream, mean the default; but a flag with zero means zero.
- A check across fields runs only if all fields that it names are valid.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kubeproxy_py.config.durations import format_duration
from kubeproxy_py.config.errors import InvalidValue, abbreviated
from kubeproxy_py.config.fields import FieldType
from kubeproxy_py.config.types import DetectLocal, DetectLocalMode, Field, KubeProxyConfiguration, Section, fields_of
from kubeproxy_py.model.problem import Problem

S = TypeVar("S", bound=Section)


class ValidationResult:
    """What reading one configuration found.

    Attributes:
        flags: The flag that set a field, by the field's path.
        problems: Reasons not to use the configuration.
        warnings: What the operator should know of a valid configuration.
        invalid: Paths of the fields that have a problem.
        unused_fields: Fields that are set and have no effect.
        given_fields: Paths of the fields that the operator set, also to their defaults.
    """

    def __init__(self, flags: Mapping[str, str] | None = None) -> None:
        self.flags = flags or {}
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.invalid: set[str] = set()
        self.unused_fields: list[str] = []
        self.given_fields: set[str] = set()

    def add_problem(self, path: str, reason: InvalidValue) -> None:
        """Record that the field at *path* is invalid."""
        self.invalid.add(path)
        self.problems.append(reason.as_problem(self.display_name(path)))

    def display_name(self, path: str) -> str:
        """Return the field as the operator wrote it: its path, or the flag that set it."""
        return self.flags.get(path, path)


def read_section(section: type[S], raw: Any, result: ValidationResult, path: str = "") -> S:
    """Return the *section* that the fields *raw* describe; problems and warnings are added to *result*."""
    if raw is not None and not isinstance(raw, dict):
        reason = InvalidValue(f"expected fields, got {abbreviated(raw)}", ", ".join(_keys(section)))
        result.add_problem(path, reason)
    fields = raw if isinstance(raw, dict) else {}
    for key in [key for key in fields if key not in _keys(section)]:
        hint = _suggestion(str(key), section)
        result.warnings.append(Problem(field=_join(path, key), message="unknown field, ignored", hint=hint))
    return section(**{
        field.name: _read_field(field, fields.get(field.key), result, _join(path, field.key))
        for field in fields_of(section)
    })  # fmt: skip


def _read_field(field: Field, raw: Any, result: ValidationResult, path: str) -> Any:
    if field.field_type is None:
        return read_section(type(field.default), raw, result, path)
    if raw is None:
        return field.default
    result.given_fields.add(path)
    try:
        value = _read_value(field.field_type, field.default, raw, explicit=path in result.flags and raw != "")
    except InvalidValue as reason:
        result.add_problem(path, reason)
        return field.default
    if field.field_type.unused and value != field.default:
        result.unused_fields.append(result.display_name(path))
    return value


def _read_value(field_type: FieldType, default: Any, raw: Any, *, explicit: bool) -> Any:
    value = field_type.read(raw)
    if value == default or not (value or explicit or field_type.keeps_zero):
        return default
    field_type.check(value)
    return value


def _keys(section: type[Section]) -> tuple[str, ...]:
    return section.__struct_encode_fields__


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _suggestion(key: str, section: type[Section]) -> str:
    """Return a hint with the field of *section* whose name is most like *key*, "" if none is."""
    from difflib import get_close_matches

    known = {name.lower(): name for name in _keys(section)}
    close = get_close_matches(key.lower(), known, n=1)
    return f"did you mean {known[close[0]]}?" if close else ""


# Checks across fields

_Check = Callable[[KubeProxyConfiguration], InvalidValue | None]


def check_across_fields(config: KubeProxyConfiguration, result: ValidationResult) -> None:
    """Add to *result* each contradiction in *config*, under the first field that the check names."""
    for paths, check in _CHECKS:
        if result.invalid.isdisjoint(paths) and (reason := check(config)):
            result.add_problem(paths[0], reason)


def _check_periods(config: KubeProxyConfiguration) -> InvalidValue | None:
    minimum_s, period_s = config.ipvs.min_sync_period_s, config.ipvs.sync_period_s
    if minimum_s <= period_s:
        return None
    message = f"{format_duration(minimum_s)} is longer than ipvs.syncPeriod, {format_duration(period_s)}"
    return InvalidValue(message, "at most ipvs.syncPeriod")


def _required_in(mode: DetectLocalMode, hint: str, value: Callable[[DetectLocal], str]) -> _Check:
    def check(config: KubeProxyConfiguration) -> InvalidValue | None:
        missing = config.detect_local_mode == mode and not value(config.detect_local)
        return InvalidValue(f"empty, but detectLocalMode is {mode}", hint) if missing else None

    return check


def _check_vmodule(config: KubeProxyConfiguration) -> InvalidValue | None:
    if config.logging.vmodule and config.logging.format != "text":
        return InvalidValue("requires the log format text", "remove it, or set logging.format: text")
    return None


_CHECKS: tuple[tuple[tuple[str, ...], _Check], ...] = (
    (("ipvs.minSyncPeriod", "ipvs.syncPeriod"), _check_periods),
    (
        ("detectLocal.bridgeInterface", "detectLocalMode"),
        _required_in("BridgeInterface", "the pods' bridge, such as cni0", lambda detect: detect.bridge_interface),
    ),
    (
        ("detectLocal.interfaceNamePrefix", "detectLocalMode"),
        _required_in(
            "InterfaceNamePrefix",
            "the prefix of the pods' interfaces, such as veth",
            lambda detect: detect.interface_name_prefix,
        ),
    ),
    (("logging.vmodule", "logging.format"), _check_vmodule),
)
