"""Builders of configuration files, and access to fields by their paths."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import LoadedConfig, load
from kubeproxy_py.config.types import API_VERSION, KIND, Field, KubeProxyConfiguration, Section, fields_of


def document(fields: Mapping[str, Any] | None = None) -> bytes:
    """Return a valid file with *fields*, which are given by their paths."""
    root: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND, "mode": "ipvs"}
    for path, value in (fields or {}).items():
        *groups, key = path.split(".")
        inner = root
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[key] = value
    return json.dumps(root).encode()


def from_file(fields: Mapping[str, Any] | None = None, **flags: str) -> LoadedConfig:
    """Load a file with *fields* and the given *flags* (``hostname_override="x"``)."""
    texts = {name.replace("_", "-"): text for name, text in flags.items()}
    return load({"config": "proxy.yaml", **texts}, document(fields))


def problems(content: bytes) -> list[str]:
    """Return every problem of an invalid file as text."""
    try:
        loaded = load({"config": "proxy.yaml"}, content)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    raise AssertionError(f"accepted: {loaded}")


def all_fields(section: type[Section] = KubeProxyConfiguration, path: str = "") -> Iterator[tuple[str, Field]]:
    """Yield every setting with its path; groups are resolved."""
    for field in fields_of(section):
        if field.field_type is None:
            yield from all_fields(type(field.default), f"{path}{field.key}.")
        else:
            yield f"{path}{field.key}", field


def value_at(config: Section, path: str) -> Any:
    """Return the value of the setting at *path*."""
    first, _, inner_path = path.partition(".")
    field = next(field for field in fields_of(type(config)) if field.key == first)
    value = getattr(config, field.name)
    return value_at(value, inner_path) if inner_path else value
