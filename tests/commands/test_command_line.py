"""The command line: a kube-proxy command line works unchanged, help shows what matters, errors suggest a fix."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kubeproxy_py import __version__, cli
from kubeproxy_py.commands.execute import EXECUTORS
from kubeproxy_py.commands.table import COMMANDS, EXAMPLES
from kubeproxy_py.config.flags import FLAGS
from tests.unreadable import UNREADABLE, as_nobody, make_unreadable


@pytest.mark.parametrize(
    "argv",
    [
        ["--version"],
        ["--version=true"],
        ["--version=raw"],
        ["run", "--version"],
        ["--config=/nonexistent", "--hostname-override=node-a", "--version"],
    ],
)
def test_the_version_flag_is_accepted_anywhere(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == f"kubeproxy-py {__version__}\n"


def test_the_entry_point_imports_msgspec_alone_and_hides_no_package() -> None:
    program = "import sys, kubeproxy_py.__main__; print('inspect' in sys.modules); import typing_extensions"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_a_command_the_arguments_of_kubeadm_run_the_proxy(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config=/var/lib/nonexistent/config.conf", "--hostname-override=node-a"]) == 2
    assert "--config: cannot read /var/lib/nonexistent/config.conf" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--cluster_cidr=10.0.0.0/33", "--cluster-cidr=10.0.0.0/33"])
def test_flag_names_may_have_underscores(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", flag]) == 2
    assert capsys.readouterr().out.startswith("--cluster-cidr: '10.0.0.0/33': not a network")


def test_underscores_in_flag_values_are_not_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--config=/no_such_file"]) == 2
    assert "/no_such_file" in capsys.readouterr().err


# Help


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_and_the_default_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([flag]) == 0
    text = capsys.readouterr().out
    assert "The default command is run, which accepts every flag of kube-proxy" in text
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert text.count("\n  kubeproxy-py ") == len(EXAMPLES)


def test_help_and_version_are_commands_too(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*argv: str) -> str:
        try:
            status: object = cli.main(argv)
        except SystemExit as exited:
            status = exited.code
        assert status == 0
        return capsys.readouterr().out

    assert printed("help") == printed("--help")
    assert printed("help", "plan") == printed("plan", "--help")
    assert printed("version") == printed("--version")


def command_help(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exited:
        cli.main([name, "--help"])
    assert exited.value.code == 0
    return capsys.readouterr().out


def test_every_command_of_the_table_can_be_executed() -> None:
    assert EXECUTORS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_its_flags_and_no_others(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = command_help(name, capsys).partition("Examples:")[0]
    # Python 3.13 prints "-v, --v LEVEL", earlier versions "-v LEVEL, --v LEVEL".
    shown = {flag.name for flag in FLAGS if re.search(rf"\n  {re.escape(str(flag))}[ ,]", options)}
    assert shown == {flag.name for flag in FLAGS if name in flag.commands}
    assert bool(shown) == COMMANDS[name].has_flags


def test_help_of_run_shows_every_flag() -> None:
    assert all("run" in flag.commands for flag in FLAGS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_one_to_four_examples_of_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, text = command_help(name, capsys).partition("Examples:")
    commands = [line.strip() for line in text.splitlines() if line.startswith("  kubeproxy-py")]
    assert 1 <= len(commands) <= 4
    assert commands[0].startswith(f"kubeproxy-py {name}")


@pytest.mark.parametrize("name", ["plan", "status", "doctor", "check", "dump", "cleanup"])
def test_every_command_accepts_the_flags_that_its_help_does_not_show(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name, "--ipvs-sync-period=x", "--conntrack-min=x"]) == COMMANDS[name].unusable
    captured = capsys.readouterr()
    assert "--ipvs-sync-period: 'x' is not a duration" in captured.out + captured.err


# Errors


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cluster-cdr=10.0.0.0/8"], "unknown flag --cluster-cdr; did you mean --cluster-cidr?"),
        (["plan", "--asume-empty"], "unknown flag --asume-empty; did you mean --assume-empty?"),
        (["status", "--cluster_cdr", "10.0.0.0/8"], "unknown flag --cluster-cdr; did you mean --cluster-cidr?"),
        (["check", "--zzz"], "unknown flag --zzz\n"),
        (["statsu"], 'unknown command "statsu"; did you mean status?'),
        (["zzz"], 'unknown command "zzz"\n'),
        (["run", "now"], 'unexpected argument "now"'),
        (["--config"], "--config: expected one argument"),
        (["plan", "-o", "xml"], "-o/--output: invalid choice: 'xml'"),
        (["plan", "--kernel-state"], "--kernel-state: expected one argument"),
        (["plan", "--kernel-state="], "--kernel-state: no file is named"),
        (["dump", ""], "FILE: no file is named"),
        (["plan", "--kernel-state=x", "--assume-empty"], "--assume-empty: not allowed with argument --kernel-state"),
        (["completion"], "the following arguments are required: bash|zsh|fish"),
        (["completion", "csh"], "bash|zsh|fish: invalid choice: 'csh'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_suggests_the_nearest_name_and_exits_with_2_of_plan_1(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = cli.main(argv)
    except SystemExit as exited:  # argparse exits by itself
        status = exited.code
    assert status == (1 if argv[0] == "plan" else 2)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert '--help".\n' in error


def test_an_unknown_flag_of_kube_proxy_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--proxy-port-range=1-2"]) == 2
    assert "unknown flag --proxy-port-range" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "message"), UNREADABLE.items())
def test_a_certificate_that_cannot_be_read_is_named_without_a_traceback(
    kind: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = {"server": "https://192.0.2.1", "certificate-authority": str(make_unreadable(tmp_path, kind))}
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    with as_nobody(tmp_path):
        assert cli.main(["plan", "--assume-empty", "--hostname-override=node-a", f"--kubeconfig={path}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert re.search(rf"kubeconfig {path}: certificate-authority: .*: {message}", line)
