"""The picture of a terminal: every line of the output is in it, and it is well-formed."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from lab.job import REPOSITORY
from tests.demo.terminal_picture import Shown, svg

_TEXT = "{http://www.w3.org/2000/svg}text"
_PICTURE = REPOSITORY / "docs/status.svg"


def lines_of(picture: str) -> list[str]:
    return [str(element.text).replace("\N{NO-BREAK SPACE}", " ") for element in ET.fromstring(picture).iter(_TEXT)]


def test_picture_has_the_commands_and_every_line_of_their_output() -> None:
    shown = [Shown("status", "A  B\n<1 & 2>\n"), Shown("explain x", "\nWrong:\n  ! y\n")]
    assert lines_of(svg("title", shown)) == ["$ status", "A  B", "<1 & 2>", "$ explain x", "Wrong:", "  ! y"]


def test_spaces_keep_their_number_in_a_browser() -> None:
    [line] = [element.text for element in ET.fromstring(svg("title", [Shown("a   b", "")])).iter(_TEXT)]
    assert line is not None
    assert " " not in line
    assert len(line) == len("$ a   b")


def test_lines_are_below_each_other_and_inside_of_the_picture() -> None:
    root = ET.fromstring(svg("title", [Shown("a", "\n".join("x" * 90 for _ in range(30)))]))
    places = [float(element.attrib["y"]) for element in root.iter(_TEXT)]
    assert places == sorted(set(places))
    assert places[-1] < float(root.attrib["height"])
    ends = [float(element.attrib["x"]) + float(element.attrib["textLength"]) for element in root.iter(_TEXT)]
    assert max(ends) < float(root.attrib["width"])


def test_picture_of_the_readme_is_one_of_both_commands() -> None:
    lines = lines_of(_PICTURE.read_text())
    assert "$ kubeproxy-py status" in lines
    assert any(line.startswith("$ kubeproxy-py explain ") for line in lines)
    assert "docs/status.svg" in (REPOSITORY / "README.md").read_text()
