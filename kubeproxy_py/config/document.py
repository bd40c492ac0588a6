"""Bytes of a configuration file -> its fields as plain data, with a warning for each duplicate key.

Invariants:
- Reading costs memory in proportion to the file, whose size and depth are limited (yaml_loader.py).
- Merge keys (``<<``) are refused: they let a small file grow without limit.
"""

from collections.abc import Iterable
from typing import Any

from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.model.problem import Problem

SIZE_MAX_BYTES = 1 << 20  # the size limit of a ConfigMap
_DEPTH_MAX = 32  # the fields of KubeProxyConfiguration need 5
_HINT = "YAML or JSON with apiVersion, kind and the fields of KubeProxyConfiguration"


def parse_document(content: bytes, where: str) -> tuple[dict[str, Any], list[Problem]]:
    """Parse the file *where*, and return its fields as written, and the warnings.

    Of a duplicate key the last value is used, as in kube-proxy.

    Raises:
        ConfigError: The file cannot be read; the problem names the line.
    """
    if len(content) > SIZE_MAX_BYTES:
        message = f"the file is larger than {SIZE_MAX_BYTES >> 20} MiB"
        raise ConfigError([Problem(field=where, message=message, hint="the limit of a ConfigMap")])
    parsed = _parse_json(content, where) if content.lstrip()[:1] == b"{" else None
    fields, warnings = parsed or _parse_yaml(content, where)
    if not isinstance(fields, dict):
        message = "contains no fields" if fields is None else "is not a mapping of fields"
        raise ConfigError([Problem(field=where, message=message, hint=_HINT)])
    return fields, warnings


def _parse_json(content: bytes, where: str) -> tuple[Any, list[Problem]] | None:
    """Return the fields and warnings, or None if *content* is not JSON: YAML may begin with a brace as well."""
    import json

    warnings: list[Problem] = []

    def without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields:
                warnings.append(_duplicate_key(where, key))
            fields[key] = value
        return fields

    try:
        return json.loads(content, object_pairs_hook=without_duplicates), warnings
    except (ValueError, RecursionError):
        return None


def _parse_yaml(content: bytes, where: str) -> tuple[Any, list[Problem]]:
    from kubeproxy_py.yaml_loader import YamlError, load_yaml  # 70 ms in user-mode-linux, which JSON does not need

    try:
        document = load_yaml(content, max_depth=_DEPTH_MAX)
    except YamlError as error:
        place = f"{where}, line {error.line}, column {error.column}" if error.line else where
        raise ConfigError([Problem(field=place, message=f"cannot be read: {error.message}", hint=_HINT)]) from None
    return document.value, [_duplicate_key(f"{where}, line {key.line}", key.key) for key in document.duplicate_keys]


def _duplicate_key(where: str, key: str) -> Problem:
    return Problem(field=where, message=f"duplicate field {key!r}", hint="the last one is used")
