"""Messages in a send: none is lost, changed or out of order, and each has its sequence number."""

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.kernel.netlink.messages import (
    HEADER_SIZE,
    NLM_F_ACK,
    NLM_F_REQUEST,
    encode_batch,
    join_messages,
    message,
    split_messages,
    with_flags,
)
from kubeproxy_py.kernel.netlink.socket import batches

MESSAGES = st.lists(
    st.builds(lambda kind, words: message(kind, 0, b"body" * words), st.integers(16, 99), st.integers(0, 6))
)


@given(MESSAGES, st.integers(1, 5), st.integers(1, 120))
def test_batches_contain_all_messages_in_order_within_the_limits(
    messages: list[bytes], max_count: int, max_bytes: int
) -> None:
    split = list(batches(messages, max_count, max_bytes))
    assert [message for batch in split for message in batch] == messages
    assert all(batch and len(batch) <= max_count for batch in split)
    assert all(len(batch) == 1 or sum(map(len, batch)) <= max_bytes for batch in split)


@given(MESSAGES, st.integers(1, 1000))
def test_joined_messages_are_numbered_and_otherwise_unchanged(messages: list[bytes], first: int) -> None:
    sent = list(split_messages(bytes(join_messages(messages, first))))
    assert [sequence for _, sequence, _, _ in sent] == list(range(first, first + len(messages)))
    assert [message(kind, flags, body) for kind, _, flags, body in sent] == messages


@given(MESSAGES.filter(bool), st.integers(1, 1000))
def test_only_the_last_message_of_a_batch_requests_an_acknowledgement(messages: list[bytes], first: int) -> None:
    sent = list(split_messages(bytes(encode_batch(messages, first))))
    assert [flags & NLM_F_ACK for _, _, flags, _ in sent] == [0] * (len(messages) - 1) + [NLM_F_ACK]
    assert [sequence for _, sequence, _, _ in sent] == list(range(first, first + len(messages)))


def test_with_flags_adds_to_the_flags_of_a_message() -> None:
    flagged = with_flags(message(16, 0x400, b"body"), 0x4)
    assert flagged == message(16, 0x404, b"body")
    assert list(split_messages(flagged)) == [(16, 0, 0x404 | NLM_F_REQUEST, b"body")]
    assert len(flagged) == HEADER_SIZE + 4
