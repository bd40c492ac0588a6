"""PageReader: the same items as of the whole page, however it arrives."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import objects
from kubeproxy_py.sources.decode.errors import FieldError
from kubeproxy_py.sources.kubernetes import page_reader
from kubeproxy_py.sources.kubernetes.answers import read_page
from kubeproxy_py.sources.kubernetes.page_reader import PageReader
from tests.examples import at_most

Json = dict[str, Any]
Read = tuple[list[bytes], str, str] | str
"""Items, version and continuation, or the message of the error."""

HEAD = {"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "7", "continue": "c"}}


def read_at_once(text: bytes) -> Read:
    try:
        page = read_page("Service", text)
    except FieldError as error:
        return error.message
    return [bytes(item) for item in page.items], page.version, page.continuation


def read_in_parts(text: bytes, size: int, piece_bytes: int) -> tuple[Read, int]:
    """Return what is read, and how many items were returned before the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_reader, "PIECE_BYTES", piece_bytes)
        reader = PageReader("Service")
        items = [bytes(item) for start in range(0, len(text), size) for item in reader.add(text[start : start + size])]
        try:
            page = reader.end()
        except FieldError as error:
            return error.message, len(items)
        return ([*items, *(bytes(item) for item in page.items)], page.version, page.continuation), len(items)


def compact(body: Json) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


TRICKS = ['},{"metadata":', '},{"metadata":{', "]}", '"items":[', "\\", '"', "}", ",", "{", "ä"]
texts = st.text(st.sampled_from('"\\{}[],:ax ä'), max_size=6) | st.sampled_from(TRICKS)
metadata = st.fixed_dictionaries({"metadata": st.fixed_dictionaries({"name": texts})})
items_of_one_kind = st.builds(
    lambda meta, spec, nested: {**meta, "spec": spec, "nested": nested},
    metadata,
    texts | st.integers() | st.dictionaries(texts, texts, max_size=2),
    st.lists(metadata, max_size=3),  # the same bytes as between two items
)


@at_most(300)
@given(
    st.lists(items_of_one_kind, max_size=8),
    st.integers(1, 300),
    st.integers(1, 400),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.sampled_from(["", "\n", " \r\n"]),
)
def test_page_in_parts_has_the_items_of_the_whole_page(
    items: list[Json], size: int, piece_bytes: int, indent: int | None, is_sorted: bool, end: str
) -> None:
    body = {**HEAD, "items": items}
    separators = None if indent else (",", ":")
    text = json.dumps(body, indent=indent, sort_keys=is_sorted, separators=separators, ensure_ascii=False) + end
    expected = [json.loads(json.dumps(item)) for item in items]
    read, _ = read_in_parts(text.encode(), size, piece_bytes)
    assert not isinstance(read, str)
    assert ([json.loads(item) for item in read[0]], read[1:]) == (expected, ("7", "c"))
    assert read == read_at_once(text.encode())


@at_most(500)
@given(st.data())
def test_damaged_page_is_read_as_the_whole_page_or_is_an_error(data: st.DataObject) -> None:
    text = bytearray(compact({**HEAD, "items": data.draw(st.lists(items_of_one_kind, min_size=1, max_size=5))}))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        insert = data.draw(st.sampled_from([b"", b'"', b"}", b"]", b",", b"{", b"x", b'],"items":[', b'"kind":"P",']))
        text[place : place + data.draw(st.integers(0, 2))] = insert
    read, _ = read_in_parts(bytes(text), data.draw(st.integers(1, 100)), data.draw(st.integers(1, 200)))
    if not isinstance(read, str):
        assert read == read_at_once(bytes(text))


@pytest.mark.parametrize(
    "after",
    [
        b',"items":[]}',
        b',"items":null}',
        b',"kind":"PodList"}',
        b',"metadata":{"resourceVersion":"1"}}',
        b"}{}",
        b"}]",
        b"",
        b'},{"metadata":{"name":"x"}}]}',
    ],
)
def test_anything_after_the_items_is_an_error(after: bytes) -> None:
    items = [{"metadata": {"name": str(number)}} for number in range(20)]
    text = compact({**HEAD, "items": items})
    assert read_in_parts(text, 10, 100)[0] == read_at_once(text)
    assert read_in_parts(text[:-1] + after, 10, 100)[0] == "the response is not a list"


@pytest.mark.parametrize(
    "head",
    [
        {"kind": "PodList", "metadata": {"resourceVersion": "7"}},
        {"kind": "Status", "metadata": {"resourceVersion": "7"}},
        {"metadata": {"resourceVersion": "7"}},
        {"kind": "ServiceList", "metadata": {}},
        {"kind": "ServiceList"},
    ],
)
def test_no_item_of_what_is_not_the_list_is_returned(head: Json) -> None:
    items = [{"metadata": {"name": str(number)}} for number in range(200)]
    text = compact({**head, "items": items})
    read, before_end = read_in_parts(text, 50, 100)
    assert (read, before_end) == (read_at_once(text), 0)
    assert isinstance(read, str)


def slices_list(number: int) -> bytes:
    head = {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {"resourceVersion": "9"}}
    items = []
    for each in range(number):
        body = objects.slice_json(each)
        items.append(
            {"metadata": body["metadata"], **{key: body[key] for key in ("addressType", "endpoints", "ports")}}
        )
    return compact({**head, "items": items}) + b"\n"


def test_items_are_returned_while_the_page_arrives_and_are_not_kept() -> None:
    text = slices_list(4000)
    assert len(text) > 8 << 20
    reader = PageReader("EndpointSlice")
    before_end = 0
    tracemalloc.start()
    for start in range(0, len(text), 1 << 16):
        before_end += len(reader.add(text[start : start + (1 << 16)]))
    at_end = len(reader.end().items)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert before_end + at_end == 4000
    assert before_end > 3500
    assert peak_bytes < 2 << 20  # of 8 MiB and more: two copies of a piece, and its items
