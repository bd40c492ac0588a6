"""Changes of an input at random, the same in each run."""

from collections.abc import Iterator, Sequence
from random import Random

_WORDS = (
    *(b"\x00", b"\xff", b"\x7f", b"\n", b" ", b"\t", b":", b"-", b",", b'"', b"{", b"}", b"[", b"]", b"---\n"),
    *(b"*nat\n", b"COMMIT\n", b"\r\n", b"-A KUBE-SERVICES "),
    *(b"0", b"-1", b"65536", b"99999999999999999999", b"1e999", b"null", b"true", b"~", b"&a", b"*a", b"<<: *a"),
    *(b"\xc2\xb2", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\x04\x00", b"\x03\x00\x01\x00"),
)


def mutated(inputs: Sequence[bytes], count: int, seed: str) -> Iterator[bytes]:
    """Yield *count* changes of *inputs*, taking one after the other; *seed* decides which."""
    random = Random(seed)
    for number in range(count):
        data = bytearray(inputs[number % len(inputs)])
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            data = random.choice(_CHANGES)(data, random, inputs)
        yield bytes(data)


def _place(data: bytearray, random: Random) -> int:
    return random.randrange(len(data) + 1)


def _flip(data: bytearray, random: Random, _inputs: Sequence[bytes]) -> bytearray:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def _set(data: bytearray, random: Random, _inputs: Sequence[bytes]) -> bytearray:
    if data:
        data[random.randrange(len(data))] = random.choice((0, 1, 4, 255, random.randrange(256)))
    return data


def _truncate(data: bytearray, random: Random, _inputs: Sequence[bytes]) -> bytearray:
    return data[: _place(data, random)]


def _remove(data: bytearray, random: Random, _inputs: Sequence[bytes]) -> bytearray:
    start = _place(data, random)
    del data[start : start + random.choice((1, 2, 4, 16, 64))]
    return data


def _repeat(data: bytearray, random: Random, _inputs: Sequence[bytes]) -> bytearray:
    start = _place(data, random)
    return data[:start] + data[start : start + random.choice((1, 4, 8, 64))] * 2 + data[start:]


def _insert(data: bytearray, random: Random, _inputs: Sequence[bytes]) -> bytearray:
    start = _place(data, random)
    return data[:start] + random.choice(_WORDS) + data[start:]


def _replace(data: bytearray, random: Random, _inputs: Sequence[bytes]) -> bytearray:
    start, word = _place(data, random), random.choice(_WORDS)
    return data[:start] + word + data[start + len(word) :]


def _splice(data: bytearray, random: Random, inputs: Sequence[bytes]) -> bytearray:
    other = bytearray(random.choice(inputs))
    return data[: _place(data, random)] + other[_place(other, random) :]


_CHANGES = (_flip, _flip, _set, _truncate, _remove, _repeat, _insert, _replace, _splice)
