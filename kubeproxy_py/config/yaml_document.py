"""The YAML of a configuration file -> plain data; see document.py, whose law it keeps."""

from collections.abc import Hashable
from typing import Any

import yaml

from kubeproxy_py.config.document import HINT, stands_twice
from kubeproxy_py.config.errors import ConfigError, ConfigProblem

DEPTH_MAX = 32  # the fields of KubeProxyConfiguration need 5

_Loader: type[yaml.CSafeLoader] | type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(content: bytes, where: str, warnings: list[ConfigProblem]) -> Any:
    """What *content* says; keys that stand twice are added to *warnings*.  Raises ConfigError, with the line."""

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


def _check_key(key: yaml.Node, seen: set[str], where: str, warnings: list[ConfigProblem]) -> None:
    if not isinstance(key, yaml.ScalarNode):
        raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
    if key.tag == "tag:yaml.org,2002:merge":
        raise yaml.MarkedYAMLError(problem="merge keys (<<) are not read", problem_mark=key.start_mark)
    if key.value in seen:
        warnings.append(stands_twice(f"{where}, line {key.start_mark.line + 1}", key.value))
    seen.add(key.value)


def _broken(error: Exception, where: str) -> ConfigProblem:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return ConfigProblem(where + line, f"can't be read: {reason}", HINT)
