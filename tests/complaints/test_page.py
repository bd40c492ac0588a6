"""docs/troubleshooting.md has every complaint of the table, with the output that was captured on a kernel."""

from __future__ import annotations

import re

import pytest

from tests.complaints import page
from tests.complaints.excerpt import excerpt, normalized
from tests.complaints.table import CLASSIC, COMPLAINTS, Complaint


def test_page_is_printed_from_the_table_and_what_was_captured() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.page(text) == text, "hint: make complaints-page"


def test_complaints_are_the_classic_twenty_and_ten_more_of_public_trackers() -> None:
    assert len(CLASSIC) == 20
    others = [one for one in COMPLAINTS if one.slug not in CLASSIC]
    assert len([one for one in others if one.source]) >= 10
    assert set(CLASSIC) <= {one.slug for one in COMPLAINTS}
    assert len({one.slug for one in COMPLAINTS}) == len(COMPLAINTS)


@pytest.mark.parametrize("one", COMPLAINTS, ids=lambda one: one.slug)
def test_captured_output_names_cause_and_remedy(one: Complaint) -> None:
    text = page.captured(one)
    assert [word for word in (*one.cause, *one.remedy) if word not in text] == []
    assert normalized(text) == text


def test_nothing_was_captured_that_is_not_in_the_table() -> None:
    assert {path.stem for path in page.CAPTURED.glob("*.txt")} == {one.slug for one in COMPLAINTS}


def test_links_of_the_index_lead_to_headings() -> None:
    text = page.section()
    anchors = {page.anchor(heading) for heading in re.findall(r"^### (.*)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) == anchors


@pytest.mark.parametrize(
    ("command", "output", "pick", "shown"),
    [
        ("", 'I1129 1 2 a.py:1] "a"\nW1129 03:04:05.6 71 b.py:9] "found" x="y"\n', "found", 'W "found" x="y"\n'),
        ("doctor", "ok  a  b\nerror  arp  Arp\n  cause  c\nok  d  e\n", "Arp", "error  arp  Arp\n  cause  c\n"),
        (
            "explain x",
            "Service x\nWrong:\n\nService x\nEndpoints\n  - a\n",
            "",
            "Service x\nWrong:\n\nService x\n  ...\n",
        ),
        ("trace x", "tcp\nnote: n\n  step 1\n  step 2\ndropped\n", "", "tcp\nnote: n\n  ...\ndropped\n"),
        ("status x", "since 2026-11-29T10:11:12Z (pid 815)\n", "", "since 2026-01-02T03:04:05Z (pid 4711)\n"),
    ],
)
def test_excerpt_has_what_the_complaint_is_about(command: str, output: str, pick: str, shown: str) -> None:
    assert excerpt(command, output, pick) == shown
