"""Read the annotations of a Service that set something for it alone (``kubeproxy-py.io/...``); pure.

Invariants:
- A wrong value, and an unknown name under our prefix, is a SettingProblem, and everything else of the Service is used.
- A Service without any annotation costs nothing, one with others a search in its bytes; neither costs memory.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

import msgspec
from msgspec import Struct

from kubeproxy_py.config.durations import parse_duration
from kubeproxy_py.model.peers import key_of
from kubeproxy_py.model.settings import (
    NO_SETTINGS,
    SCHEDULER_FLAGS,
    SCHEDULERS,
    ServiceSettings,
    SettingProblem,
    Weight,
    WeightKey,
    Written,
)
from kubeproxy_py.net import ADDRESS_BITS, FAMILIES, Family, parse_ip
from kubeproxy_py.sources.decode.errors import FieldError, quoted

PREFIX = "kubeproxy-py.io/"
OTHER_NAMES: Mapping[str, str] = {
    # the annotations of others that mean the same, and ours before they had the prefix
    "kube-router.io/service.scheduler": "scheduler",
    "kube-router.io/service.schedflags": "scheduler-flags",
    "kubeproxy-py/drain-deadline": "drain-deadline",
}
_MARKER = re.compile(rb"kube(?:proxy-py|-router\.io)")  # without the slash, which JSON may escape

_WEIGHT_MAX = 65535  # ipvsadm(8)
_WEIGHTS_MAX = 100  # each is looked at for each endpoint
_UNKNOWN_MAX = 10  # unknown names of one Service that are named
_CONNECTIONS_MAX = 2**31 - 1
_TIMEOUT_MAX_S = 2**31 // 1000  # ip_vs counts in ticks of up to 1 ms in 32 bits
_FAMILY_NAMES: Mapping[str, Family] = {family.lower(): family for family in FAMILIES}
_WEIGHT_KEYS: tuple[WeightKey, ...] = get_args(WeightKey)
_NAMED_KEYS: tuple[WeightKey, ...] = ("address", "node", "zone")
_WORDS: tuple[WeightKey, ...] = tuple(key for key in _WEIGHT_KEYS if key != "label")
_WEIGHT_HINT = (
    "such as zone/a=3, node/n1=2, address/10.0.0.5=4, own-node=20, own-zone=10, others=1; pool=large:4 by label"
)
# Labels, as Kubernetes allows them (k8s.io/apimachinery, pkg/util/validation, IsQualifiedName and IsValidLabelValue).
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_LABEL_NAME_HINT = "at most 63 letters, digits, -, _ and ., with a letter or digit at both ends"
_LABEL_PREFIX = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_LABEL_PREFIX_HINT = "a DNS name: at most 253 lowercase letters, digits, - and ."
_SEVERAL = re.compile(r"[=:]\s*\d+[\s;|&+]+[^\s=;|&+]+\s*=")  # a weight, and how another one begins
_FLAG_NAMES: Mapping[str, str] = {
    **{f"{scheduler}-{flag}": flag for scheduler in ("sh", "mh") for flag in SCHEDULER_FLAGS},
    "flag-1": "fallback",
    "flag-2": "port",
}
_VALUE_MAX = 200  # characters of a value that are kept
_DIGIT_BUT_ZERO = re.compile("[1-9]")


# Parsers of one value; each raises FieldError with a message and a hint.


def _health_check(text: str) -> str:
    if text not in ("none", "tcp"):
        raise _invalid("is neither tcp nor none", "write tcp or none")
    return text


def _direct_return(text: str) -> str:
    if text not in ("route", "tunnel"):
        raise _invalid("is neither route nor tunnel", "write route or tunnel")
    return text


def _scheduler(text: str) -> str:
    if text not in SCHEDULERS:
        raise _invalid("is no scheduler of IPVS", _nearest(text, SCHEDULERS) or f"one of {', '.join(SCHEDULERS)}")
    return text


def _scheduler_flags(text: str) -> tuple[str, ...]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if unknown := next((name for name in names if name not in _FLAG_NAMES), ""):
        raise _invalid(f"{quoted(unknown)} is no flag of a scheduler", f"of {', '.join(_FLAG_NAMES)}")
    flags = {_FLAG_NAMES[name] for name in names}
    return tuple(flag for flag in SCHEDULER_FLAGS if flag in flags)


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text]
    except KeyError:
        raise _invalid("is neither true nor false", 'write "true" or "false", in quotes') from None


def _weights(text: str) -> tuple[Weight, ...]:
    weights = [_weight(part.strip()) for part in text.split(",") if part.strip()]
    if len(weights) > _WEIGHTS_MAX:
        raise _invalid(f"has more than {_WEIGHTS_MAX} weights", "use zones, labels of nodes, and others")
    if not weights:
        raise _invalid("has no weight", "such as zone/a=3, own-zone=10, others=1")
    keys = [(weight.key, weight.name) for weight in weights]
    if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
        text = twice[1] if twice[0] == "label" else "/".join(filter(None, twice))
        raise _invalid(f"has two weights of {quoted(text)}", "write each key once")
    return tuple(sorted(weights, key=lambda weight: _WEIGHT_KEYS.index(weight.key)))


def _weight(part: str) -> Weight:
    selector, equals, number = (piece.strip() for piece in part.rpartition("="))
    if equals and ":" in number:  # which no weight of another kind has after its last =
        return _label_weight(selector, number)
    word, slash, name = selector.partition("/")
    key = next((key for key in _WORDS if key == word), None)
    if not equals or key is None or bool(slash) is not (key in _NAMED_KEYS) or bool(name) is not bool(slash):
        raise _invalid(f"{quoted(part)} is no weight of endpoints", _weight_hint(part))
    if key == "address":
        try:
            name = parse_ip(name)
        except ValueError as error:
            raise _invalid(str(error), "write it like 10.0.0.1 or fd00::1") from None
    elif key == "zone" and not _LABEL_NAME.fullmatch(name):  # a zone is the value of a label of nodes
        raise _invalid(f"{quoted(name)} is no name of a zone", _separator_hint(part) or _LABEL_NAME_HINT)
    elif key == "node" and not _LABEL_PREFIX.fullmatch(name):
        raise _invalid(f"{quoted(name)} is no name of a node", _separator_hint(part) or _LABEL_PREFIX_HINT)
    return Weight(key, name, _whole_number(number, _WEIGHT_MAX))


def _label_weight(label_key: str, rest: str) -> Weight:
    """Return the weight of *label_key* with *rest*, which is value:weight.  Raises FieldError."""
    value, _, number = (piece.strip() for piece in rest.rpartition(":"))
    prefix, slash, name = label_key.rpartition("/")
    if slash and not _LABEL_PREFIX.fullmatch(prefix):
        raise _invalid(f"{quoted(prefix)} is no prefix of a label's key", _LABEL_PREFIX_HINT)
    if not _LABEL_NAME.fullmatch(name):
        raise _invalid(f"{quoted(name)} is no name of a label", _LABEL_NAME_HINT)
    if value and not _LABEL_NAME.fullmatch(value):
        raise _invalid(f"{quoted(value)} is no value of a label", _LABEL_NAME_HINT)
    return Weight("label", f"{label_key}={value}", _whole_number(number, _WEIGHT_MAX))


def _separator_hint(part: str) -> str:
    """Return the remedy for *part* if it is several weights without a comma between them; "" if it is not."""
    return "write commas between weights" if _SEVERAL.search(part) else ""


def _weight_hint(part: str) -> str:
    """Return the remedy for *part*, which may be a label whose weight is missing, or is not after a colon."""
    if hint := _separator_hint(part):
        return hint
    if "=" not in part:
        return _WEIGHT_HINT
    label_key, _, value = part.partition("=")
    value, _, number = value.rpartition("=") if "=" in value else (value, "", "4")
    try:
        label = _label_weight(label_key.strip(), f"{value.strip()}:{number.strip()}")
    except FieldError:
        return _WEIGHT_HINT
    if key_of(label.name) in _WORDS or value.strip().isdecimal():
        return _WEIGHT_HINT
    return f"the weight of a label's nodes comes after a colon: {label.name}:{label.weight}"


def _affinity_prefixes(text: str) -> tuple[tuple[Family, int], ...]:
    prefixes: dict[Family, int] = {}
    for part in text.split(","):
        word, _, length = part.strip().partition("/")
        family = _FAMILY_NAMES.get(word.lower())
        if family is None or family in prefixes:
            raise _invalid(f"{quoted(part)} is no mask of clients of one family", "such as ipv4/24 or ipv4/24,ipv6/64")
        prefixes[family] = _whole_number(length, ADDRESS_BITS[family])
    return tuple(sorted(prefixes.items()))


def _duration(text: str, hint: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise _invalid(f"is not a duration: {error}", hint) from None
    if text.startswith("-"):
        raise _invalid("is negative", hint)
    if not seconds and _DIGIT_BUT_ZERO.search(text):  # 0 may mean the opposite: none
        raise _invalid("is less than a nanosecond", hint)
    return seconds


def _drain_deadline(text: str) -> float:
    return _duration(text, "such as 30s or 5m; 0s: no deadline")


def _affinity_timeout(text: str) -> int:
    hint = f"such as 10m or 48h; whole seconds, 1s to {_TIMEOUT_MAX_S}s"
    seconds = _duration(text, hint)
    if not 1 <= seconds <= _TIMEOUT_MAX_S:
        raise _invalid("is out of range", hint)
    if seconds != int(seconds):
        raise _invalid("has a fraction of a second, which IPVS does not count", hint)
    return int(seconds)


def _bounded_duration(shortest_s: float, longest_s: float) -> Callable[[str], float]:
    hint = f"such as {shortest_s:g}s; {shortest_s:g}s to {longest_s:g}s"

    def parse(text: str) -> float:
        seconds = _duration(text, hint)
        if not shortest_s <= seconds <= longest_s:
            raise _invalid("is out of range", hint)
        return seconds

    return parse


def _count(most: int) -> Callable[[str], int]:
    return lambda text: _whole_number(text, most)


def _whole_number(text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise _invalid(f"{quoted(text)} is not a number from 1 to {most}", f"write a number from 1 to {most}")
    return int(text)


SETTINGS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    # the annotation, without our prefix: its field of ServiceSettings, and what reads its value
    "scheduler": ("scheduler", _scheduler),
    "scheduler-flags": ("scheduler_flags", _scheduler_flags),
    "source-hash-port": ("source_hash_port", _boolean),
    "weights": ("weights", _weights),
    "drain-deadline": ("drain_deadline_s", _drain_deadline),
    "slow-start": ("slow_start_s", _bounded_duration(1, 3600)),
    "affinity-timeout": ("affinity_timeout_s", _affinity_timeout),
    "affinity-mask": ("affinity_prefixes", _affinity_prefixes),
    "max-connections": ("max_connections", _count(_CONNECTIONS_MAX)),
    "dsr": ("direct_return", _direct_return),
    "health-check": ("health_check", _health_check),
    "health-check-interval": ("health_check_interval_s", _bounded_duration(0.5, 3600)),
    "health-check-threshold": ("health_check_threshold", _count(100)),
}


def read_settings(annotations: Mapping[str, Any]) -> ServiceSettings:
    """Return what *annotations* set; NO_SETTINGS if none of them is ours.

    Of two annotations for one setting, that with our prefix counts, even if it is wrong; the other one is a problem
    unless it means the same.  A value that is no text, which only a manifest can have, is a problem, too.
    """
    fields: dict[str, Any] = {}
    written: list[Written] = []
    problems: list[SettingProblem] = []
    for annotation, name in _ours(annotations):
        value = _shortened(str(annotations[annotation]))
        try:
            field, parsed = _parse(name, annotations[annotation])
        except FieldError as error:
            problems.append(SettingProblem(annotation, value, error.message, error.hint))
        else:
            fields[field] = parsed
            written.append(Written(name, annotation, value))
    if not written and not problems:  # nearly always
        return NO_SETTINGS
    problems += (*_outdone(annotations, fields), *_more_unknown(annotations))
    return ServiceSettings(**fields, problems=tuple(problems), written=tuple(written))


def _outdone(annotations: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[SettingProblem]:
    """Yield each annotation that does not count beside ours, unless it means the same as *fields*, read from ours."""
    for annotation, name in OTHER_NAMES.items():
        ours = PREFIX + name
        if annotation in annotations and ours in annotations and not _says(annotations[annotation], name, fields):
            value = _shortened(str(annotations[annotation]))
            yield SettingProblem(annotation, value, f"does not count beside {ours}", "remove one of both")


def _more_unknown(annotations: Mapping[str, Any]) -> Iterator[SettingProblem]:
    """Yield how many unknown names there are besides those that are named."""
    more = sum(name not in SETTINGS for name in _names(annotations)) - _UNKNOWN_MAX
    if more > 0:
        yield SettingProblem(f"{PREFIX}*", "...", f"{more:,} more are unknown", f"known are {', '.join(SETTINGS)}")


def _says(value: object, name: str, fields: Mapping[str, Any]) -> bool:
    """Return whether *value* sets the setting *name* to what *fields* has of it."""
    try:
        field, parsed = _parse(name, value)
    except FieldError:
        return False
    return field in fields and bool(fields[field] == parsed)


def _parse(name: str, value: object) -> tuple[str, Any]:
    """Return the field of the setting *name*, and what it is set to.  Raises FieldError."""
    if name not in SETTINGS:
        raise _invalid("is unknown", _nearest(name, SETTINGS) or f"known are {', '.join(SETTINGS)}")
    if not isinstance(value, str):
        raise _invalid("is not text", "put the value in quotes")
    field, parse = SETTINGS[name]
    return field, parse(value.strip())


def annotations_of(body: bytes | msgspec.Raw | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the annotations of the Service *body* that may be ours; none, without parsing it, if none can be.

    Raises the errors of msgspec; none for what was decoded before.
    """
    if isinstance(body, Mapping):
        meta = body.get("metadata")
        annotations = meta.get("annotations") if isinstance(meta, Mapping) else None
        return annotations if isinstance(annotations, Mapping) else {}
    if not _MARKER.search(body):
        return {}
    meta = _DECODER.decode(body).metadata
    return (meta.annotations if meta else None) or {}


class _MetaWire(Struct):
    annotations: dict[str, Any] | None = None


class _ObjectWire(Struct):
    metadata: _MetaWire | None = None


_DECODER = msgspec.json.Decoder(_ObjectWire)


def _ours(annotations: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each annotation that sets something, and the name of the setting; then unknown ones under our prefix."""
    for annotation, name in OTHER_NAMES.items():
        if annotation in annotations and PREFIX + name not in annotations:
            yield annotation, name
    names = _names(annotations)
    yield from ((PREFIX + name, name) for name in names if name in SETTINGS)
    unknown = [name for name in names if name not in SETTINGS]
    yield from ((PREFIX + name, name) for name in unknown[:_UNKNOWN_MAX])


def _names(annotations: Mapping[str, Any]) -> list[str]:
    """Return the names under our prefix, sorted."""
    ours = sorted(text for text in annotations if isinstance(text, str) and text.startswith(PREFIX))
    return [annotation.removeprefix(PREFIX) for annotation in ours]


def _invalid(message: str, hint: str) -> FieldError:
    return FieldError("", message, hint)


def _nearest(text: str, words: Any) -> str:
    return f"did you mean {near[0]}?" if (near := get_close_matches(text.lower(), list(words), 1)) else ""


def _shortened(text: str) -> str:
    return text if len(text) <= _VALUE_MAX else f"{text[: _VALUE_MAX - 3]}..."
