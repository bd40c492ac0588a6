"""The demonstration is coloured on a terminal only, and not where NO_COLOR asks for plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest

from tests.demo import output

_COLOUR = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(autouse=True)
def _plain_afterwards() -> Iterator[None]:
    yield
    output.use_colours({}, is_terminal=False)


def print_all() -> None:
    output.Sections().begin("Title", "what it is about")
    output.command("kubeproxy-py", "status", *(f"--flag-{number}=value" for number in range(12)))
    output.show_log_line("agent", "message " * 20)
    output.check("statement", True)


@pytest.mark.parametrize(
    ("environment", "is_terminal", "is_coloured"),
    [
        ({}, True, True),
        ({"NO_COLOR": ""}, True, True),  # no-color.org: when present and not an empty string
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({}, False, False),
    ],
)
def test_colours_are_for_terminals_without_no_color(
    capsys: pytest.CaptureFixture[str], environment: Mapping[str, str], is_terminal: bool, is_coloured: bool
) -> None:
    output.use_colours(environment, is_terminal=is_terminal)
    print_all()
    assert bool(_COLOUR.search(capsys.readouterr().out)) == is_coloured


def test_text_is_the_same_in_colours(capsys: pytest.CaptureFixture[str]) -> None:
    print_all()
    plain = capsys.readouterr().out
    output.use_colours({}, is_terminal=True)
    print_all()
    assert _COLOUR.sub("", capsys.readouterr().out) == plain


def test_long_command_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["kubeproxy-py", *(f"--flag-{number}=value" for number in range(12))]
    output.command(*words)
    printed = capsys.readouterr().out
    assert printed.replace("\\\n", "").replace("$ ", "").split() == words
