"""YAML text: cut into documents, bounded, and read into plain dicts.

Law: each document stands alone, so that a broken one spoils no other; and no text, however made, costs more than its
size allows.  Two things in YAML grow without bound: aliases (a kilobyte can stand for gigabytes), and nesting (libyaml
recurses, and some 20,000 levels end the process).  Both are measured on libyaml's flat stream of events before any
value is made.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from kubeproxy_py.sources.decode.errors import FieldError

DEPTH_MAX = 100  # an EndpointSlice within a List has 8
VALUES_MAX = 200_000  # of a document that has aliases, once they are written out
_DEPTH_HARMLESS = 1000  # a text no longer than this can't nest deeper; libyaml takes it easily

_MARKER = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_CONTENT = re.compile(r"^[ \t]*[^ \t\r\n#]", re.MULTILINE)


class _Loader(yaml.CSafeLoader):
    """Safe YAML in which a date is a string, as it is for Kubernetes."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


class Document(NamedTuple):
    number: int  # 1 is the first
    line: int  # of the file, 1 is the first
    text: str


def documents(text: str) -> Iterator[Document]:
    """The documents of *text* that have content."""
    starts = [match.start() for match in _MARKER.finditer(text)]
    if not starts or _CONTENT.search(text[: starts[0]]):
        starts.insert(0, 0)
    line, position = 1, 0
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(text)], strict=True), 1):
        line += text.count("\n", position, start)
        position = start
        if _CONTENT.search(text[start:end].removeprefix("---")):
            yield Document(number, line, text[start:end])


def load(document: Document) -> Any:
    """What *document* says, as plain dicts, lists and scalars.  Raises Flaw, with the line of the file."""
    text = document.text
    try:
        if len(text) > _DEPTH_HARMLESS or "&" in text:
            _refuse_the_boundless(document)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 -- a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _flaw(document, mark, f"is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # ValueError: a number too long, or a tag that its value does not fit
        raise _flaw(document, None, f"is not YAML: {str(error).splitlines()[0]}") from None


def _flaw(document: Document, mark: Any, message: str) -> FieldError:
    """*mark* counts lines from 0; libyaml leaves it out where it knows no place."""
    return FieldError(f"line {document.line + (mark.line if mark else 0)}", message)


class _Open:
    """A collection that has not ended yet."""

    __slots__ = ("anchor", "size")

    def __init__(self, anchor: str | None) -> None:
        self.anchor = anchor
        self.size = 1


def _refuse_the_boundless(document: Document) -> None:
    """Raises Flaw if the document nests too deep, or has aliases and is too large with them written out."""
    sizes: dict[str, int] = {}  # of anchored values, with aliases written out
    stack = [_Open(None)]
    for event in yaml.parse(document.text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append(_Open(event.anchor))
            if len(stack) > DEPTH_MAX:
                raise _flaw(document, event.start_mark, "is nested too deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = stack.pop()
            stack[-1].size += ended.size
            if ended.anchor:
                sizes[ended.anchor] = ended.size
        elif isinstance(event, yaml.AliasEvent):
            if any(collection.anchor == event.anchor for collection in stack):
                raise _flaw(document, event.start_mark, "has a value that holds itself")
            stack[-1].size += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            stack[-1].size += 1
        if sizes and stack[-1].size > VALUES_MAX:
            raise _flaw(document, event.start_mark, "stands for too many values once its aliases are written out")
