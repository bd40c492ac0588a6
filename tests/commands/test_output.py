"""What commands print: safe for a terminal, and an error if it cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubeproxy_py.commands.colour import painter

PROGRAM = [sys.executable, "-m", "kubeproxy_py"]
EVIL = "\x1b[31m\u202e"


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    "words",
    [
        [EVIL],
        ["help", EVIL],
        ["version", EVIL],
        ["status", f"--{EVIL}"],
        ["status", "--address", EVIL],
        ["status", "-n", EVIL, "--debug-socket", f"/nowhere/{EVIL}", "--manifests", f"/nowhere/{EVIL}"],
        ["explain", EVIL, "--manifests", f"/nowhere/{EVIL}"],
        ["trace", "--from", EVIL, "--to", EVIL, "--manifests", f"/nowhere/{EVIL}"],
        ["plan", "--assume-empty", "--manifests", f"/nowhere/{EVIL}"],
        ["plan", "--kernel-state", f"/nowhere/{EVIL}"],
        ["check", "--config", f"/nowhere/{EVIL}"],
        ["check", f"--cluster-cidr={EVIL}"],
        ["check", "--kubeconfig", f"/nowhere/{EVIL}"],
        ["completion", EVIL],
    ],
    ids=lambda words: words[0] if len(words) > 1 else "no command",
)
def test_no_argument_is_obeyed_by_the_terminal(words: list[str]) -> None:
    ended = run(words)
    printed = ended.stdout + ended.stderr
    assert ended.returncode in (1, 2), printed
    assert printed
    assert printed.replace("\n", "").isprintable(), repr(printed)
    assert "Traceback" not in printed


@pytest.mark.parametrize("kind", ["text", "json", "diff"])
def test_no_name_of_an_object_is_obeyed_by_the_terminal(kind: str, tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(
        'apiVersion: v1\nkind: Service\nmetadata: {name: "a\\e[2J", namespace: b}\nspec: {clusterIP: 10.96.0.1}\n'
    )
    ended = run(["plan", "--assume-empty", "--manifests", str(tmp_path), "-o", kind, "--color=never"])
    assert ended.returncode == 1
    assert r"\x1b[2J" in ended.stderr
    assert (ended.stdout + ended.stderr).replace("\n", "").isprintable()
    checked = run(["check", "--manifests", str(tmp_path)])
    assert checked.returncode == 1
    assert r"\x1b[2J" in checked.stdout


@pytest.mark.parametrize(("colour", "line"), [("never", r"+ \x1b[2J"), ("always", "\x1b[32m+ \\x1b[2J\x1b[0m")])
def test_painted_line_has_no_sequence_but_its_colour(colour: str, line: str) -> None:
    assert painter(colour, sys.stdout)("+", "+ \x1b[2J") == line


@pytest.mark.parametrize("words", [["help"], ["status", "--help"], ["completion", "bash"], ["--version"]])
def test_reader_that_is_gone_ends_the_command_without_a_message(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [*PROGRAM, *words], stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_full_disk_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*PROGRAM, "help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert ended.returncode == 1
    assert ended.stderr == "error: standard output cannot be written: No space left on device\n"


def test_closed_standard_output_is_an_error() -> None:
    ended = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m kubeproxy_py version >&-', sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (1, "error: standard output cannot be written: it is closed\n")


def test_closed_standard_error_changes_nothing_else() -> None:
    ended = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m kubeproxy_py statsu 2>&-', sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (2, "")


def test_name_that_the_locale_cannot_encode_is_escaped() -> None:
    ended = run(["check", "--config=/nowhere/Büro"], PYTHONIOENCODING="ascii")
    assert ended.returncode == 2
    assert r"/nowhere/B\xfcro" in ended.stderr
