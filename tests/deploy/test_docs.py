"""Documents agree with the code: the configuration page, and the files and flags that pages for operators name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kubeproxy_py.commands.table import COMMANDS
from kubeproxy_py.config.flags import FLAGS
from kubeproxy_py.kernel.kernel_state import (
    ChainWire,
    DeviceAddressWire,
    HostAddressWire,
    HostWire,
    IpsetWire,
    JumpWire,
    KernelState,
    RealServerWire,
    VirtualServerWire,
)
from kubeproxy_py.model.rows import IpsetSpec
from lab.job import REPOSITORY
from tests.deploy.configuration_page import PAGE, page

DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
ROOT_PAGES = sorted(REPOSITORY.glob("*.md"))
OPERATOR_PAGES = [
    path
    for path in DOCS
    if re.match(r"install-|migrate|troubleshooting|security|configuration|commands|kernel-state", path.name)
]
_COMMAND = re.compile(r"kubeproxy-py (?:run|plan|status|doctor|check|dump|cleanup)\b[^\n`#]*")
_FLAG = re.compile(r"--([a-z][a-z-]+)")
_OTHER_FLAGS = {"assume-empty", "extras", "kernel-state", "color", "config-only", "version", "help", "output"}


def test_configuration_page_is_generated_from_the_code() -> None:
    assert PAGE.read_text() == page(), "hint: make configuration-page, and read the diff"


def test_page_of_kernel_state_has_every_field() -> None:
    text = (REPOSITORY / "docs/kernel-state.md").read_text()
    structures = (KernelState, HostWire, HostAddressWire, DeviceAddressWire, IpsetWire, IpsetSpec, ChainWire, JumpWire)
    for structure in (*structures, VirtualServerWire, RealServerWire):
        missing = [name for name in structure.__struct_encode_fields__ if f"`{name}`" not in text]
        assert missing == [], structure.__name__


def test_page_of_commands_has_every_command() -> None:
    text = (REPOSITORY / "docs/commands.md").read_text()
    assert [name for name in COMMANDS if f"`{name}`" not in text] == []
    needs, statuses = (re.findall(r"^\| (.+?) \|", part, re.MULTILINE) for part in text.split("## Exit status"))
    assert [rows for rows in (needs, statuses) if len(set(rows)) < len(rows)] == []


@pytest.mark.parametrize("name", [name for name in COMMANDS if COMMANDS[name].unusable == 1])
def test_page_of_commands_names_those_that_exit_with_1_if_the_command_line_cannot_be_used(name: str) -> None:
    text = (REPOSITORY / "docs/commands.md").read_text()
    (line,) = re.findall(r"^.* exit with 1, too, if the command line .*$", text, re.MULTILINE)
    assert f"`{name}`" in line


@pytest.mark.parametrize("path", [*DOCS, *ROOT_PAGES], ids=lambda path: path.name)
def test_link_leads_to_a_file_and_heading(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", path.read_text()):
        if "://" not in target:
            linked = (path.parent / target) if target else path
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of *page*, as GitHub derives them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", OPERATOR_PAGES, ids=lambda path: path.name)
def test_files_named_by_operator_pages_exist(path: Path) -> None:
    text = path.read_text()
    files = {name.rstrip(".") for name in re.findall(r"\bdeploy/[\w./-]+", text)}
    assert [name for name in files if not (REPOSITORY / name).exists()] == []


@pytest.mark.parametrize("path", OPERATOR_PAGES, ids=lambda path: path.name)
def test_flags_named_by_operator_pages_exist(path: Path) -> None:
    named = {flag for command in _COMMAND.findall(path.read_text()) for flag in _FLAG.findall(command)}
    assert named <= {flag.name for flag in FLAGS} | _OTHER_FLAGS


# docs/troubleshooting.md quotes messages in the first cells of two tables; each is a part of one string constant.

_TROUBLESHOOTING = (REPOSITORY / "docs/troubleshooting.md").read_text()
_OTHER_PROGRAMS = {"Can't open socket to ipset"}  # iptables


def quoted_messages() -> Iterator[str]:
    for title in ("It does not start", "Log messages"):
        section = _TROUBLESHOOTING.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        for first_cell in re.findall(r"^\| (.*?) \|", section, re.MULTILINE):
            yield from re.findall(r"`([^`]+)`", first_cell)
    yield from re.findall(r"log lines? `([^`]+)`", _TROUBLESHOOTING)


@cache
def string_constants() -> str:
    """All string constants of the package, one after another."""
    trees = (ast.parse(path.read_text()) for path in (REPOSITORY / "kubeproxy_py").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\0".join(node.value for node in nodes if isinstance(node.value, str))


def test_removal_from_a_machine_deletes_each_file_that_was_installed() -> None:
    installation, removal = (REPOSITORY / "docs/install-vm.md").read_text().split("\n## Remove\n")
    installed = re.findall(r"^install -D -m \d+ \S+ +(/\S+)$", installation, re.MULTILINE)
    deleted = {path for line in re.findall(r"^rm (.*)$", removal, re.MULTILINE) for path in line.split()}
    assert len(installed) == 7
    assert [path for path in installed if not {path, str(Path(path).parent)} & deleted] == []


def test_api_server_of_rke2_is_the_same_in_the_page_and_in_the_values_that_are_tested() -> None:
    [page] = re.findall(
        r"^\| several nodes, RKE2 \| `(\S+)`", (REPOSITORY / "docs/install-k3s.md").read_text(), re.MULTILINE
    )
    assert f"\napiServer: {page}\n" in (REPOSITORY / "tests/deploy/helm_values/rke2.yaml").read_text()


def test_messages_are_quoted() -> None:
    assert len(set(quoted_messages())) > 10


@pytest.mark.parametrize("message", sorted(set(quoted_messages()) - _OTHER_PROGRAMS))
def test_message_quoted_by_troubleshooting_is_logged(message: str) -> None:
    is_logged = message in string_constants()
    assert is_logged, "hint: quote the present text of the message in docs/troubleshooting.md"


# docs/glossary.md names for each term the file that defines it.


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`([\w./]+/[\w./]*)`", (REPOSITORY / "docs/glossary.md").read_text())))
)
def test_path_named_by_the_glossary_exists(path: str) -> None:
    assert (REPOSITORY / "kubeproxy_py" / path).exists() or (REPOSITORY / path).exists()
