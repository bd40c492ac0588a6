"""Messages in a send: none is lost, changed or out of order, and each can be told by its number."""

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.kernel.netlink.messages import HEADER_SIZE, REQUEST, batches, flagged, join, message, split

MESSAGES = st.lists(
    st.builds(lambda kind, words: message(kind, 0, b"body" * words), st.integers(16, 99), st.integers(0, 6))
)


@given(MESSAGES, st.integers(1, 5), st.integers(1, 120))
def test_batches_are_all_messages_in_order_within_the_limits(messages: list[bytes], most: int, most_bytes: int) -> None:
    cut = list(batches(messages, most, most_bytes))
    assert [each for batch in cut for each in batch] == messages
    assert all(batch and len(batch) <= most for batch in cut)
    assert all(len(batch) == 1 or sum(map(len, batch)) <= most_bytes for batch in cut)


@given(MESSAGES, st.integers(1, 1000))
def test_messages_of_a_send_are_numbered_and_otherwise_as_given(messages: list[bytes], first: int) -> None:
    sent = list(split(bytes(join(messages, first))))
    assert [sequence for _, sequence, _, _ in sent] == list(range(first, first + len(messages)))
    assert [message(kind, flags, body) for kind, _, flags, body in sent] == messages


def test_flags_are_added_to_those_of_a_message() -> None:
    asked = flagged(message(16, 0x400, b"body"), 0x4)
    assert asked == message(16, 0x404, b"body")
    assert list(split(asked)) == [(16, 0, 0x404 | REQUEST, b"body")]
    assert len(asked) == HEADER_SIZE + 4
