"""What operators read is true of what they run: the configuration's page, and every file and flag that is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kubeproxy_py.config.flags import FLAGS
from lab.job import REPOSITORY
from tests.deploy.configuration_page import PAGE, page

DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
OURS = [path for path in DOCS if re.match(r"install-|migrate|troubleshooting|security|configuration", path.name)]
_COMMAND = re.compile(r"kubeproxy-py (?:run|plan|status|check|cleanup)\b[^\n`#]*")
_FLAG = re.compile(r"--([a-z][a-z-]+)")
_VERB_FLAGS = {"assume-empty", "version", "help", "output"}


def test_the_page_of_the_configuration_is_printed_from_the_code() -> None:
    assert PAGE.read_text() == page(), "hint: make configuration-page, and read the diff"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_files_that_are_named_are_there(path: Path) -> None:
    text = path.read_text()
    links = {target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target}
    assert [target for target in links if not (path.parent / target).exists()] == []
    files = {name.rstrip(".") for name in re.findall(r"\bdeploy/[\w./-]+", text)}
    assert [name for name in files if not (REPOSITORY / name).exists()] == []


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_flags_that_are_named_exist(path: Path) -> None:
    named = {flag for command in _COMMAND.findall(path.read_text()) for flag in _FLAG.findall(command)}
    assert named <= {flag.name for flag in FLAGS} | _VERB_FLAGS
