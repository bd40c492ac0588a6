"""Split a YAML file into documents, and load each within bounds (yaml_loader.py).

Each document is loaded separately, so that an invalid one does not affect the others.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from kubeproxy_py.sources.decode.errors import FieldError
from kubeproxy_py.yaml_loader import YamlError, load_yaml

DEPTH_MAX = 100  # an EndpointSlice within a List has 8 levels
EXPANDED_VALUES_MAX = 200_000  # of a document, with its aliases expanded

_MARKER = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_CONTENT = re.compile(r"^[ \t]*[^ \t\r\n#]", re.MULTILINE)


class Document(NamedTuple):
    """The text of one document."""

    number: int  # from 1
    line: int  # of the file on which the document starts, from 1
    text: str


def split_documents(text: str) -> Iterator[Document]:
    """Yield the documents of *text* that have content."""
    starts = [match.start() for match in _MARKER.finditer(text)]
    if not starts or _CONTENT.search(text[: starts[0]]):
        starts.insert(0, 0)
    line, position = 1, 0
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(text)], strict=True), 1):
        line += text.count("\n", position, start)
        position = start
        if _CONTENT.search(text[start:end].removeprefix("---")):
            yield Document(number, line, text[start:end])


def load_document(document: Document) -> tuple[Any, list[FieldError]]:
    """Return the document as plain dicts, lists and scalars, and an error for each key that occurs twice.

    Of a key that occurs twice the last value is used, as by kubectl without validation.

    Raises:
        FieldError: The document cannot be loaded; its field is the line of the file.
    """
    try:
        loaded = load_yaml(document.text, max_depth=DEPTH_MAX, max_expanded_values=EXPANDED_VALUES_MAX)
    except YamlError as error:
        line = document.line + max(error.line - 1, 0)
        raise FieldError(f"line {line}", f"invalid YAML: {error.message}") from None
    return loaded.value, [
        FieldError(
            f"line {document.line + key.line - 1}", f"the key {key.key!r} occurs twice", "the last value is used"
        )
        for key in loaded.duplicate_keys
    ]
