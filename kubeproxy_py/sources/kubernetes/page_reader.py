"""PageReader: reads a page of a list while it arrives, so that no more than a piece of it is in memory.

msgspec decodes complete texts only, 20 times faster than a parser that accepts pieces.  So the text is cut between two
items, and the items before the cut are decoded as an array.

A cut is found by bytes that are between two items: the end of an object, a comma, and the beginning of another with the
same first key (``},{"metadata":``, as kube-apiserver writes it).  The same bytes may be within an item, or in a
string, but then a bracket or a quote is open at the cut, so that what is before it is no complete array, and msgspec
rejects it.  In that case, and with a server that writes lists otherwise (other keys first, spaces), more of the text is
waited for; in the end it is read as a whole.

Invariants:
- The items and the version are the same as if the page were read as a whole, or FieldError is raised.
- No item is returned before the page said that it is the list that was asked for.

Source: k8s.io/apimachinery, pkg/runtime/serializer/json/collections.go (streaming of lists), for the order of keys.
"""

import re

import msgspec
from msgspec import Raw

from kubeproxy_py.sources.decode.errors import UNREADABLE, FieldError
from kubeproxy_py.sources.decode.objects import Kind
from kubeproxy_py.sources.kubernetes.answers import PROXY_HINT, Page, read_page

PIECE_BYTES = 1 << 18  # larger ones leave holes between the objects that stay: 11 MB at 10,000 Services with 4 MiB
_HEAD_MAX_BYTES = 1 << 16
_ITEMS = b'"items":['
_FIRST_KEY = re.compile(rb'\{"[^"\\]*":')

_ARRAY = msgspec.json.Decoder(list[Raw])
_NOT_AN_ARRAY = (msgspec.ValidationError, *UNREADABLE)


class PageReader:
    """Reads one page of a list of *kind*."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._text = bytearray()  # what was not returned yet; after the head it begins with the array's bracket
        self._wanted = PIECE_BYTES  # bytes of text with which a cut is looked for
        self._head: Page | None = None  # what precedes the items
        self._between = b""  # two items

    def add(self, part: bytes | bytearray) -> list[Raw]:
        """Add the next *part* of the text; return the items that it completed, if there are many."""
        self._text += part
        if len(self._text) < self._wanted:
            return []
        items = self._take_items()
        self._wanted = PIECE_BYTES if items else 2 * len(self._text)  # so that all tries cost no more than two
        return items

    def end(self) -> Page:
        """Return the page, of which the items are the remaining ones.  Raises FieldError if it is not a list."""
        text, self._text = self._text, bytearray()
        if not self._head:
            return read_page(self._kind, text)
        try:
            return Page(_read_rest(text), self._head.version, self._head.continuation)
        except _NOT_AN_ARRAY:
            raise FieldError("list", "the response is not a list", PROXY_HINT) from None

    def _take_items(self) -> list[Raw]:
        """Return the items before the last cut, and remove them from the text."""
        if not self._head and not self._take_head():
            return []
        end = self._text.rfind(self._between) + 1
        if not end:
            return []
        with memoryview(self._text) as text:
            array = b"".join((text[:end], b"]"))
        try:
            items = _ARRAY.decode(array)
        except _NOT_AN_ARRAY:
            return []
        self._text[: end + 1] = b"["
        return items

    def _take_head(self) -> bool:
        """Remove what precedes the items, if it is that of a list of this kind; else return False."""
        end = self._text.find(_ITEMS, 0, _HEAD_MAX_BYTES) + len(_ITEMS)
        first_key = _FIRST_KEY.match(self._text, end)
        if end < len(_ITEMS) or not first_key:
            return False
        try:
            self._head = read_page(self._kind, bytes(self._text[:end]) + b"]}")
        except FieldError:
            return False
        self._between = b"}," + first_key[0]
        del self._text[: end - 1]
        return True


def _read_rest(text: bytearray) -> list[Raw]:
    """Return the items in the rest of a page, from the array's bracket to the brace that ends the list.

    Anything else after the items could contradict what was read already.  Raises the errors of _NOT_AN_ARRAY.
    """
    array, brace, after = text.rpartition(b"}")
    return _ARRAY.decode(array if brace and not after.strip() else b"")
