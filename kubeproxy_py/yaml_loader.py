"""Bounded YAML loader: one document to plain dicts, lists and scalars.

Invariants:
- Loading costs bounded memory. Nesting, the number of values and the size of expanded aliases are measured on
  libyaml's flat stream of events before any value is built.
- Only plain data is built; tags that name Python objects are refused.
- Dates stay strings, as Kubernetes reads them.

Three things in YAML grow beyond the text: aliases and merge keys (a kilobyte can describe gigabytes), short values (two
bytes of "[x,x" become a node of 400), and nesting (libyaml's composer recurses in C, and some 20,000 levels end the
process without an exception).
"""

from typing import Any, NamedTuple

import yaml

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML built without libyaml; its loader raises RecursionError instead of ending the process
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

VALUES_MAX = 1_000_000  # at 400 bytes each; 16 MB of Services and EndpointSlices have fewer, at some 20 bytes of text
_SHORT_CHARACTERS = 1000  # a text this short cannot nest deep enough to exhaust libyaml's stack
_MERGE_TAG = "tag:yaml.org,2002:merge"  # the key "<<"
_VALUE_TAG = "tag:yaml.org,2002:value"  # the key "=", which PyYAML's flatten_mapping turns into text


_UNKNOWN_TAG = "could not determine a constructor for the tag "  # PyYAML's words


class YamlError(Exception):
    """A text that cannot be loaded.

    Attributes:
        message: What is wrong, without a place and without values from the text.
        line: The line of the text, from 1; 0 if it is not known.
        column: The column, from 1; 0 if it is not known.
    """

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


class DuplicateKey(NamedTuple):
    """A key that occurs more than once in one mapping; its last value is used."""

    key: str
    line: int  # of the repeated key, from 1


class YamlDocument(NamedTuple):
    """A loaded document."""

    value: Any
    duplicate_keys: tuple[DuplicateKey, ...] = ()


def load_yaml(content: str | bytes, *, max_depth: int, max_expanded_values: int | None = None) -> YamlDocument:
    """Load the one document in *content*.

    Args:
        content: The text. The caller limits its size.
        max_depth: The deepest nesting of lists and mappings. Texts of up to 1000 characters are not measured.
        max_expanded_values: The most values with all aliases expanded. None: aliases share their value and cost
            nothing, and merge keys are refused.

    Raises:
        YamlError: The text is not YAML, exceeds a limit, or does not describe plain data.
    """
    try:
        if len(content) > _SHORT_CHARACTERS or (max_expanded_values is not None and _has_anchor(content)):
            _check_limits(content, max_depth, max_expanded_values)
        loader = _Loader(content)
        loader.merge_keys = max_expanded_values is not None
        try:
            return YamlDocument(loader.get_single_data(), tuple(loader.duplicate_keys))
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _error_at(error.problem_mark or error.context_mark, _problem_text(error)) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # ValueError: a number with too many digits, bytes that are not text, or a tag that does not fit its value.
        raise YamlError(_reason_text(error)) from None


class _Loader(_SafeLoader):
    """Safe loader that checks keys and reads dates as strings."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self.merge_keys = False
        self.duplicate_keys: list[DuplicateKey] = []
        self._checked: set[int] = set()  # ids of the mappings whose keys were checked

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check the keys of *node*, then merge the mappings that its merge keys name."""
        if id(node) in self._checked:  # merging adds keys to the node, which are no duplicates
            return
        self._checked.add(id(node))
        if self._check_keys(node):
            super().flatten_mapping(node)

    def _check_keys(self, node: yaml.MappingNode) -> bool:
        """Return whether a key needs PyYAML's flatten_mapping; record duplicate keys."""
        needs_flattening = False
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.tag in (_MERGE_TAG, _VALUE_TAG):
                if key.tag == _MERGE_TAG and not self.merge_keys:
                    raise yaml.MarkedYAMLError(problem="merge keys (<<) are not supported", problem_mark=key.start_mark)
                needs_flattening = True
            elif key.value in seen:
                self.duplicate_keys.append(DuplicateKey(key.value, key.start_mark.line + 1))
            seen.add(key.value)
        return needs_flattening


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}


class _OpenCollection:
    """A list or mapping whose end event has not come yet."""

    __slots__ = ("anchor", "size")

    def __init__(self, anchor: str | None) -> None:
        self.anchor = anchor
        self.size = 1  # values in it, itself included, with aliases expanded


def _check_limits(content: str | bytes, max_depth: int, max_values: int | None) -> None:
    """Raise YamlError if *content* has too many values, nests too deep, or expands to more than *max_values*."""
    sizes: dict[str, int] = {}  # of anchored collections, with aliases expanded
    stack = [_OpenCollection(None)]
    for number, event in enumerate(yaml.parse(content, _SafeLoader)):
        if number > VALUES_MAX:
            raise _error_at(event.start_mark, f"more than {VALUES_MAX:,} values")
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append(_OpenCollection(event.anchor))
            if len(stack) - 1 > max_depth:
                raise _error_at(event.start_mark, f"nested deeper than {max_depth} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = stack.pop()
            stack[-1].size += ended.size
            if ended.anchor:
                sizes[ended.anchor] = ended.size
        elif isinstance(event, yaml.AliasEvent):
            if max_values is not None and any(collection.anchor == event.anchor for collection in stack):
                raise _error_at(event.start_mark, f"the alias *{event.anchor:.40} is inside the value that it names")
            stack[-1].size += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            stack[-1].size += 1
        if max_values is not None and sizes and stack[-1].size > max_values:
            raise _error_at(event.start_mark, f"more than {max_values} values once its aliases are expanded")


def _has_anchor(content: str | bytes) -> bool:
    return "&" in content if isinstance(content, str) else b"&" in content


def _error_at(mark: Any, message: str) -> YamlError:
    """Return the error *message* at *mark*, which counts from 0; libyaml omits it where it knows no place."""
    return YamlError(message, mark.line + 1, mark.column + 1) if mark else YamlError(message)


def _problem_text(error: yaml.MarkedYAMLError) -> str:
    """Return libyaml's message; a problem that continues its context ("but found ...") needs both."""
    problem = error.problem or error.context or "syntax error"
    if problem.startswith(_UNKNOWN_TAG):
        return f"the tag {problem.removeprefix(_UNKNOWN_TAG)} is not supported; remove it"
    return f"{error.context}, {problem}" if problem.startswith("but ") and error.context else problem


def _reason_text(error: Exception) -> str:
    reason = getattr(error, "reason", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return str(reason)
