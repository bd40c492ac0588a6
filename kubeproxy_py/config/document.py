"""Bytes of a configuration file -> one plain dict, and a warning for each key that stands twice.

Law: reading costs memory in proportion to the file, whose size and depth are bounded, and makes nothing but plain
data: YAML's tags of objects are refused, and so are its merge keys (``<<``), by which a small file can grow without
limit.
"""

from typing import Any

from kubeproxy_py.config.errors import ConfigError, ConfigProblem

SIZE_MAX_BYTES = 1 << 20  # what a ConfigMap can hold
HINT = "YAML or JSON with apiVersion, kind and the fields of KubeProxyConfiguration"


def parse_document(content: bytes, where: str) -> tuple[dict[str, Any], list[ConfigProblem]]:
    """The fields of the file *where*, as written, and its warnings.

    Of a key that stands twice the last one counts, as it does for kube-proxy.  Raises ConfigError, with the line.
    """
    if len(content) > SIZE_MAX_BYTES:
        raise ConfigError([ConfigProblem(where, f"{len(content)} bytes are too many", f"at most {SIZE_MAX_BYTES}")])
    warnings: list[ConfigProblem] = []
    fields = _parse_json(content, where, warnings) if content.lstrip()[:1] == b"{" else None
    if fields is None:
        from kubeproxy_py.config.yaml_document import parse_yaml  # 70 ms in user-mode-linux, which JSON does not pay

        fields = parse_yaml(content, where, warnings)
    if not isinstance(fields, dict):
        raise ConfigError([ConfigProblem(where, "holds no fields", HINT)])
    return fields, warnings


def _parse_json(content: bytes, where: str, warnings: list[ConfigProblem]) -> Any:
    """None if it is no JSON: YAML may begin with a brace as well."""
    import json

    twice: list[ConfigProblem] = []

    def with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields:
                twice.append(stands_twice(where, key))
            fields[key] = value
        return fields

    try:
        fields = json.loads(content, object_pairs_hook=with_unique_keys)
    except (ValueError, RecursionError):
        return None
    warnings += twice
    return fields


def stands_twice(where: str, key: str) -> ConfigProblem:
    """A key of which the last value counts."""
    return ConfigProblem(where, f"the field {key!r} stands twice", "the last one counts")
