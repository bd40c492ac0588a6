"""Running programs: arguments in, Result out; a program that cannot be run is a KernelError with a hint."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import find_program, run


def test_run_passes_stdin_and_returns_stdout() -> None:
    assert run(["cat"], stdin=b"10.96.0.10\n").stdout == b"10.96.0.10\n"


def test_run_returns_the_exit_code_of_a_failing_program() -> None:
    assert run(["false"]).exit_code == 1


def test_error_text_is_stderr_as_one_line() -> None:
    assert run(["ls", "/no/such/folder"]).error_text == "ls: cannot access '/no/such/folder': No such file or directory"


def test_error_text_of_a_silent_failure_is_its_exit_code() -> None:
    assert run(["false"]).error_text == "exit code 1"


def test_a_missing_program_is_an_error_with_an_install_hint() -> None:
    with pytest.raises(KernelError, match="xtables-none-restore is not installed") as caught:
        run(["xtables-none-restore"])
    assert caught.value.hint.startswith("apt-get install iptables")


def test_a_hanging_program_is_killed_after_its_timeout() -> None:
    started_s = time.monotonic()
    with pytest.raises(KernelError, match="did not end within"):
        run(["sleep", "600"], timeout_s=0.1)
    assert time.monotonic() - started_s < 60


def test_arguments_are_not_interpreted_by_a_shell() -> None:
    assert run(["echo", "$(id); `id` | id > /x"]).stdout == b"$(id); `id` | id > /x\n"


def test_the_environment_contains_only_path_and_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    names = {line.split("=")[0] for line in run(["env"]).stdout.decode().splitlines()}
    assert names <= {"PATH", "LC_ALL", "_", "PWD", "SHLVL"}


def test_system_folders_are_searched_if_path_omits_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("sh") is not None


def test_path_takes_precedence_over_the_system_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sh").write_text("")
    (tmp_path / "sh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("sh") == str(tmp_path / "sh")


def test_a_file_that_is_not_executable_is_not_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "only-text").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("only-text") is None


def test_importing_the_module_does_not_import_subprocess() -> None:
    code = "import kubeproxy_py.kernel.host.command, sys; sys.exit('subprocess' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
