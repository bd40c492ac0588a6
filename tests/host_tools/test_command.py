"""Processes: words in, Result out; what cannot run is a KernelError that says what to do."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import find, run


def test_stdin_goes_in_and_stdout_comes_back() -> None:
    assert run(["cat"], stdin=b"10.96.0.10\n").stdout == b"10.96.0.10\n"


def test_a_failing_program_is_a_result_not_an_exception() -> None:
    assert run(["false"]).exit_code == 1


def test_what_a_program_complains_about_is_one_line() -> None:
    assert run(["ls", "/no/such/folder"]).complaint == "ls: cannot access '/no/such/folder': No such file or directory"


def test_a_silent_failure_is_named_by_its_exit_code() -> None:
    assert run(["false"]).complaint == "exit code 1"


def test_a_missing_program_tells_what_to_install() -> None:
    with pytest.raises(KernelError, match="xtables-none-restore is not installed") as caught:
        run(["xtables-none-restore"])
    assert caught.value.hint.startswith("apt-get install iptables")


def test_a_program_that_hangs_is_killed_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(KernelError, match="did not end within"):
        run(["sleep", "30"], timeout_s=0.1)
    assert time.monotonic() - began < 5


def test_no_word_is_read_by_a_shell() -> None:
    assert run(["echo", "$(id); `id` | id > /x"]).stdout == b"$(id); `id` | id > /x\n"


def test_the_environment_has_path_and_language_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    names = {line.split("=")[0] for line in run(["env"]).stdout.decode().splitlines()}
    assert names <= {"PATH", "LC_ALL", "_", "PWD", "SHLVL"}


def test_system_folders_are_searched_when_path_leaves_them_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find("sh") is not None


def test_path_comes_before_the_system_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sh").write_text("")
    (tmp_path / "sh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find("sh") == str(tmp_path / "sh")


def test_a_file_that_may_not_be_run_is_not_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "only-text").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find("only-text") is None


def test_importing_the_module_does_not_import_subprocess() -> None:
    code = "import kubeproxy_py.kernel.host.command, sys; sys.exit('subprocess' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
