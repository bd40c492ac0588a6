"""The manual pages: one for the program and for each command, with what `--help` says, and well-formed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from image.man_pages import commit_date, pages
from kubeproxy_py.commands.exit_status import UNUSABLE
from kubeproxy_py.commands.table import COMMANDS
from kubeproxy_py.config.flags import FLAGS

PAGES = dict(pages("2026-01-01"))


def escaped(text: object) -> str:
    return str(text).replace("-", "\\-")


def page_of(name: str) -> str:
    return PAGES[f"kubeproxy-py-{name}.8"]


def test_there_is_a_page_of_the_program_and_of_each_command() -> None:
    assert set(PAGES) == {"kubeproxy-py.8", *(f"kubeproxy-py-{name}.8" for name in COMMANDS)}
    overview = PAGES["kubeproxy-py.8"]
    assert all(rf"\fBkubeproxy\-py\-{name}\fR(8)" in overview for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_page_has_the_flags_examples_and_exit_statuses_of_its_command(name: str) -> None:
    page, command = page_of(name), COMMANDS[name]
    shown = {flag.name for flag in FLAGS if f"\\fB{escaped(flag)}\\fR" in page}
    assert shown == {flag.name for flag in FLAGS if name in flag.commands}
    for _, arguments in command.examples:
        assert escaped(f"kubeproxy-py {arguments}") in page
    section = page.partition(".SH EXIT STATUS\n")[2].partition(".SH ")[0]
    assert section.startswith(".TP\n\\fB0\\fR\n")
    unusable = ("2\\fR\nthe command line", "2\\fR\nthe configuration")
    assert (command.unusable == UNUSABLE) == any(text in section for text in unusable)


def test_pages_have_no_time_but_that_of_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert commit_date() == "1970-01-02"
    assert dict(pages("2026-01-01")) == PAGES
    assert all('"2026-01-01"' in page for page in PAGES.values())


def test_a_line_that_begins_as_a_request_of_roff_is_text() -> None:
    known = {".TH", ".SH", ".SS", ".TP", ".PP", ".RS", ".RE", ".nf", ".fi", ".nh", ".ad", ".B", ".BR"}
    for name, page in PAGES.items():
        requests = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
        assert requests <= known, name


@pytest.mark.lab
def test_mandoc_has_no_complaint_about_the_written_pages(tmp_path: Path) -> None:
    mandoc = shutil.which("mandoc")
    assert mandoc, "mandoc is not installed; hint: python3 -m lab install"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0"}
    subprocess.run([sys.executable, "-m", "image.man_pages", str(tmp_path)], check=True, env=environment)
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(PAGES)
    argv = [mandoc, "-T", "lint", "-W", "warning", *map(str, files)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "")
