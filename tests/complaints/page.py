"""Prints the complaints in docs/troubleshooting.md from the table and what was captured; `make complaints-page`.

`python -m tests.complaints.page [DIR]` first takes what the kernel test wrote to DIR.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.complaints.table import COMPLAINTS, Complaint

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
CAPTURED = Path(__file__).with_name("captured")
BEGIN = "<!-- complaints: printed by make complaints-page, from tests/complaints/ -->\n"
END = "<!-- end of complaints -->\n"

_HEAD = """
Each of these states was made on a real kernel, with packets where packets are concerned, and the command was run there
(`tests/e2e/test_complaints.py`); this is what it printed. `...` stands for lines that are left out; of `doctor` only
the finding is shown, of the log (`journalctl -u kubeproxy-py`, `kubectl -n kube-system logs POD`) one line without time
and source. None of the commands needs flags while an agent runs.

"""


def page(text: str) -> str:
    """Return *text*, the page, with the complaints as they were captured."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{section()}{END}{tail}"


def section() -> str:
    """Return the complaints as Markdown: an index, then one heading for each."""
    index = "".join(f"- [{one.symptom}](#{anchor(one.symptom)})\n" for one in COMPLAINTS)
    return _HEAD + index + "".join("".join(_entry(one)) for one in COMPLAINTS) + "\n"


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to *heading*."""
    kept = "".join(char for char in heading.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


def captured(one: Complaint) -> str:
    """Return the output that was captured of *one*; "" if there is none yet."""
    path = CAPTURED / f"{one.slug}.txt"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _entry(one: Complaint) -> Iterator[str]:
    yield f"\n### {one.symptom}\n\n"
    if one.about:
        yield f"{one.about}\n\n"
    yield f"```\n{f'$ kubeproxy-py {one.command}' if one.command else 'the log:'}\n{captured(one)}```\n"
    if one.source:
        yield f"\nReported as <https://github.com/{one.source}>.\n"


def main(arguments: list[str]) -> None:
    """Take what was captured in the folder *arguments* names, if it names one, and write the page."""
    for folder in arguments:
        for path in Path(folder).glob("*.txt"):
            shutil.copyfile(path, CAPTURED / path.name)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
