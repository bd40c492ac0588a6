"""Text for a terminal: nothing in it is obeyed, nothing of it is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.terminal_text import printable, printable_json, printable_lines

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web", "web"),
        ("Büro-日本", "Büro-日本"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),  # CSI in one character
        ("a\nb\tc", r"a\nb\tc"),
        ("\u202etxt", r"\u202etxt"),  # written from right to left
        ("\udcff", r"\udcff"),  # a byte that is no UTF-8
        ("\U000e0041", r"\U000e0041"),  # an invisible tag
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANY_TEXT)
def test_any_text_becomes_printable_lines_that_can_be_encoded(text: str) -> None:
    assert printable(text).isprintable()
    lines = printable_lines(text)
    assert lines.count("\n") == text.count("\n")
    assert lines.replace("\n", "").isprintable()
    assert lines.encode().decode() == lines
    assert printable_lines(lines) == lines


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_is_printable_and_has_the_same_value(text: str) -> None:
    document = printable_json(json.dumps({"name": text}, indent=2, ensure_ascii=False))
    assert json.loads(document) == {"name": text}
    assert document.replace("\n", "").isprintable()
