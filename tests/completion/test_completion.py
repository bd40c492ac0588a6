"""Completion: what real shells offer behind a part of a command line, by the scripts of `kubeproxy-py completion`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kubeproxy_py import cli
from kubeproxy_py.commands import table
from kubeproxy_py.commands.completion import script_of
from kubeproxy_py.config.flags import FLAGS
from kubeproxy_py.model.settings import SCHEDULERS
from tests.deploy.completion_scripts import FOLDER, scripts

COMMANDS = set(table.COMMANDS)
RUN_FLAGS = {f"--{flag.name}" for flag in FLAGS if len(flag.name) > 1}
PLAN_FLAGS = {f"--{flag.name}" for flag in FLAGS if "plan" in flag.commands and len(flag.name) > 1}

# The shell calls the function as readline does; COMP_WORDS are the words as bash separates them, at "=" too.
_BASH = """
source "$1"; shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
COMPREPLY=()
complete=$(complete -p kubeproxy-py | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
$complete kubeproxy-py "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_scripts_are_generated_from_the_parsers() -> None:
    for name, script in scripts():
        assert (FOLDER / name).read_text(encoding="utf-8") == script, "hint: make completion, and read the diff"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_the_script_of_a_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    assert capsys.readouterr().out == script_of(shell)


def bash(folder: Path, *words: str) -> set[str]:
    """Return what bash offers for the last of *words*, in *folder*."""
    argv = ["bash", "--norc", "-c", _BASH, "bash", str(FOLDER / "kubeproxy-py.bash"), "kubeproxy-py", *words]
    ended = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stderr == ""
    return set(ended.stdout.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "manifests").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), COMMANDS),
        (("pl",), {"plan"}),
        (("c",), {"check", "cleanup", "completion"}),
        (("--iptables-f",), {"--iptables-flavour"}),  # run is the default command
        (("plan", "--iptables-"), {"--iptables-backend", "--iptables-flavour", "--iptables-masquerade-bit"}),
        (("plan", "--healthz-bind"), set()),  # not among those that matter to it
        (("run", "--iptables-flavour", ""), {"auto", "legacy", "nft"}),
        (("run", "--iptables-flavour", "l"), {"legacy"}),
        (("run", "--iptables-flavour", "=", "n"), {"nft"}),
        (("run", "--iptables-flavour", "="), {"auto", "legacy", "nft"}),
        (("--ipvs-scheduler", ""), set(SCHEDULERS)),
        (("plan", "-o", ""), {"text", "json", "diff"}),
        (("plan", "--assume-empty", "--color", ""), {"auto", "always", "never"}),
        (("plan", "--config", "conf"), {"config.yaml"}),
        (("plan", "--config", "=", "conf"), {"config.yaml"}),
        (("--config", "conf"), {"config.yaml"}),
        (("plan", "--manifests", ""), {"manifests"}),  # directories only
        (("dump", "conf"), {"config.yaml"}),
        (("completion", ""), {"bash", "zsh", "fish"}),
        (("help", "st"), {"status"}),
        (("help", ""), COMMANDS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bash_completes(folder: Path, words: tuple[str, ...], expected: set[str]) -> None:
    found = bash(folder, *words)
    others = COMMANDS if words[:1] == ("--config",) else set()
    assert found - others == expected - others


def test_bash_completes_every_flag_of_a_command(folder: Path) -> None:
    assert bash(folder, "run", "--") >= RUN_FLAGS
    assert bash(folder, "--") >= RUN_FLAGS
    plan = bash(folder, "plan", "--")
    assert plan == PLAN_FLAGS | {"--help", "--assume-empty", "--kernel-state", "--output", "--color", "--hold", "--v"}


def shell_program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is not installed; hint: python3 -m lab install"
    return path


@pytest.mark.lab
@pytest.mark.parametrize(("shell", "check"), [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_shell_accepts_the_script(shell: str, check: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(script_of(shell))
    argv = [shell_program(shell), *check, str(script)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.lab
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kubeproxy-py pl", {"plan"}),
        ("kubeproxy-py ", COMMANDS),
        ("kubeproxy-py run --iptables-flavour ", {"auto", "legacy", "nft"}),
        ("kubeproxy-py plan --assume-empty -o ", {"text", "json", "diff"}),
        ("kubeproxy-py plan --conf", {"--config"}),
        ("kubeproxy-py plan --config conf", {"config.yaml"}),
        ("kubeproxy-py run --iptables-flavour=l", {"--iptables-flavour=legacy"}),
        ("kubeproxy-py dump conf", {"config.yaml"}),
    ],
)
def test_fish_completes(folder: Path, line: str, expected: set[str]) -> None:
    command = 'source $argv[1]; complete --do-complete="$argv[2]"'
    argv = [shell_program("fish"), "--no-config", "-c", command, str(FOLDER / "kubeproxy-py.fish"), line]
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    ended = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True, timeout=60, env=environment)
    assert {found.split("\t")[0] for found in ended.stdout.splitlines()} == expected


@pytest.mark.lab
def test_zsh_finds_the_function_by_the_name_of_its_file(folder: Path) -> None:
    script = 'fpath=($1 $fpath); autoload -Uz compinit && compinit -u -D && print -r -- "$_comps[kubeproxy-py]"'
    argv = [shell_program("zsh"), "-f", "-c", script, "zsh", str(FOLDER)]
    ended = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "_kubeproxy-py\n"
