"""Bytes of a configuration file -> one plain dict, and a warning for each key that stands twice.

Law: reading costs memory in proportion to the file, whose size and depth are bounded, and makes nothing but plain
data: YAML's tags of objects are refused, and so are its merge keys (``<<``), by which a small file can grow without
limit.
"""

from collections.abc import Hashable
from typing import Any

import yaml

from kubeproxy_py.config.errors import ConfigError, Problem

SIZE_MAX_BYTES = 1 << 20  # what a ConfigMap can hold
DEPTH_MAX = 32  # the fields of KubeProxyConfiguration need 5

_HINT = "YAML or JSON with apiVersion, kind and the fields of KubeProxyConfiguration"
_Loader: type[yaml.CSafeLoader] | type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_document(content: bytes, where: str) -> tuple[dict[str, Any], list[Problem]]:
    """The fields of the file *where*, as written, and its warnings.

    Of a key that stands twice the last one counts, as it does for kube-proxy.  Raises ConfigError, with the line.
    """
    if len(content) > SIZE_MAX_BYTES:
        raise ConfigError([Problem(where, f"{len(content)} bytes are too many", f"at most {SIZE_MAX_BYTES}")])
    warnings: list[Problem] = []
    fields = _parse_json(content, where, warnings) if content.lstrip()[:1] == b"{" else None
    if fields is None:
        fields = _parse_yaml(content, where, warnings)
    if not isinstance(fields, dict):
        raise ConfigError([Problem(where, "holds no fields", _HINT)])
    return fields, warnings


def _parse_json(content: bytes, where: str, warnings: list[Problem]) -> Any:
    """None if it is no JSON: YAML may begin with a brace as well."""
    import json

    twice: list[Problem] = []

    def with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields:
                twice.append(_stands_twice(where, key))
            fields[key] = value
        return fields

    try:
        fields = json.loads(content, object_pairs_hook=with_unique_keys)
    except (ValueError, RecursionError):
        return None
    warnings += twice
    return fields


def _parse_yaml(content: bytes, where: str, warnings: list[Problem]) -> Any:
    class Loader(_Loader):  # type: ignore[misc,valid-type]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            keys: set[str] = set()
            for key, _ in node.value:
                _check_key(key, keys, where, warnings)
            return dict(super().construct_mapping(node, deep))

    try:
        _check_depth(content)
        return yaml.load(content, Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError([_broken(error, where)]) from None


def _check_depth(content: bytes) -> None:
    # libyaml's composer calls itself for each level and, unlike Python, never says when the stack ends: the process
    # would die of 100,000 brackets.  Its parser, which gives these events, does not recurse.
    depth = 0
    for event in yaml.parse(content, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise yaml.YAMLError(f"deeper than {DEPTH_MAX} levels")


def _check_key(key: yaml.Node, seen: set[str], where: str, warnings: list[Problem]) -> None:
    if not isinstance(key, yaml.ScalarNode):
        raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
    if key.tag == "tag:yaml.org,2002:merge":
        raise yaml.MarkedYAMLError(problem="merge keys (<<) are not read", problem_mark=key.start_mark)
    if key.value in seen:
        warnings.append(_stands_twice(f"{where}, line {key.start_mark.line + 1}", key.value))
    seen.add(key.value)


def _stands_twice(where: str, key: str) -> Problem:
    return Problem(where, f"the field {key!r} stands twice", "the last one counts")


def _broken(error: Exception, where: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return Problem(where + line, f"can't be read: {reason}", _HINT)
