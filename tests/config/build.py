"""Builders: a configuration file as bytes, what became of it, and the fields by their paths."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import LoadedConfig, load
from kubeproxy_py.config.types import API_VERSION, KIND, Field, KubeProxyConfiguration, Section, fields_of


def document(fields: Mapping[str, Any] | None = None) -> bytes:
    """A valid file with the fields given by their paths."""
    whole: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND, "mode": "ipvs"}
    for path, value in (fields or {}).items():
        *groups, key = path.split(".")
        inner = whole
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[key] = value
    return json.dumps(whole).encode()


def from_file(fields: Mapping[str, Any] | None = None, **flags: str) -> LoadedConfig:
    """What a file with these fields, and flags (``hostname_override="x"``) beside it, come to."""
    given = {name.replace("_", "-"): text for name, text in flags.items()}
    return load({"config": "proxy.yaml", **given}, document(fields))


def problems(content: bytes) -> list[str]:
    """Every problem of a file that can't be used, as text."""
    try:
        loaded = load({"config": "proxy.yaml"}, content)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    raise AssertionError(f"accepted: {loaded}")


def all_fields(section: type[Section] = KubeProxyConfiguration, path: str = "") -> Iterator[tuple[str, Field]]:
    """Every single setting, by its path."""
    for field in fields_of(section):
        if field.kind is None:
            yield from all_fields(type(field.default), f"{path}{field.key}.")
        else:
            yield f"{path}{field.key}", field


def value_at(config: Section, path: str) -> Any:
    """The value of the setting at *path*."""
    first, _, rest = path.partition(".")
    field = next(field for field in fields_of(type(config)) if field.key == first)
    value = getattr(config, field.name)
    return value_at(value, rest) if rest else value
