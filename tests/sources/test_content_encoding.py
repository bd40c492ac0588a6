"""Bodies that are compressed: decoded in bounded parts, and errors of what is not what it says."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.sources.kubernetes.content_encoding import PART_MAX_BYTES, EncodingError, decode_content

BODY = b'{"kind":"ServiceList"}' * 100


def in_chunks(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def decoded(encoding: str, data: bytes, size: int = 7) -> bytes:
    return b"".join(decode_content(encoding, in_chunks(data, size)))


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_body_without_encoding_is_as_it_is(encoding: str) -> None:
    assert decoded(encoding, BODY) == BODY


@given(
    st.binary(max_size=2000),
    st.integers(1, 50),
    st.integers(0, 9),
    st.sampled_from(["gzip", "GZIP", "x-gzip"]),
    st.integers(1, 400),
)
def test_gzip_is_decoded_however_it_is_cut(data: bytes, size: int, level: int, encoding: str, times: int) -> None:
    assert decoded(encoding, gzip.compress(data * times, level), size) == data * times


def test_parts_are_small_however_much_a_chunk_expands_to() -> None:
    bomb = gzip.compress(bytes(100 << 20))
    assert len(bomb) < 1 << 18
    sizes = [len(part) for part in decode_content("gzip", [bomb])]
    assert (max(sizes), sum(sizes)) == (PART_MAX_BYTES, 100 << 20)


@pytest.mark.parametrize("cut", [1, 5, 8, 9, 12, 30])
def test_gzip_that_is_cut_off_is_an_error(cut: int) -> None:
    with pytest.raises(EncodingError, match="is cut off: its gzip does not end"):
        decoded("gzip", gzip.compress(BODY)[:-cut])


@pytest.mark.parametrize("place", [0, 2, 15, -1, -8])
def test_damaged_gzip_is_an_error(place: int) -> None:
    data = bytearray(gzip.compress(BODY))
    data[place] ^= 0xFF
    with pytest.raises(EncodingError, match=r"is not valid gzip|is cut off"):
        decoded("gzip", bytes(data))


@pytest.mark.parametrize("other", [BODY, zlib.compress(BODY)])
def test_body_that_is_not_gzip_is_an_error(other: bytes) -> None:
    with pytest.raises(EncodingError, match="is not valid gzip"):
        decoded("gzip", other)


@pytest.mark.parametrize("after", [b"\0", gzip.compress(b"more", mtime=0)])
def test_anything_after_the_end_is_an_error(after: bytes) -> None:
    for size in (7, 1000):
        with pytest.raises(EncodingError, match="goes on after the end of its gzip"):
            decoded("gzip", gzip.compress(BODY) + after, size)


def test_empty_body_is_empty() -> None:
    assert decoded("gzip", b"") == b""


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
def test_encoding_that_was_not_asked_for_is_an_error(encoding: str) -> None:
    with pytest.raises(EncodingError, match="which was not asked for"):
        decoded(encoding, BODY)
