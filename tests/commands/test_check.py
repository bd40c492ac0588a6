"""Commands and flags that need no kernel: check, --write-config-to, and the errors of an unusable configuration."""

from pathlib import Path

import pytest

from kubeproxy_py import cli
from kubeproxy_py.config.load import load
from tests.config.build import document


def write_config_file(folder: Path, fields: dict[str, object]) -> str:
    path = folder / "config.conf"
    path.write_bytes(document(fields))
    return str(path)


def test_check_of_a_valid_file_prints_warnings_and_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config_file(tmp_path, {"iptables.syncPeriod": "5s", "ipvs.schedular": "rr"})
    assert cli.main(["check", "--config", path]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "warning: ipvs.schedular: unknown field, ignored (did you mean scheduler?)",
        "warning: iptables.syncPeriod: set, but has no effect in this agent",
        "ok",
    ]


def test_check_prints_every_problem_and_then_the_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config_file(tmp_path, {"ipvs.scheduler": "rrr", "clusterCIDR": "x", "ipvs.schedular": "rr"})
    assert cli.main(["check", "--config", path]) == 2
    lines = capsys.readouterr().out.splitlines()
    starts = (
        "ipvs.scheduler: unknown scheduler 'rrr' (one of rr,",
        "clusterCIDR: 'x': not",
        "warning: ipvs.schedular:",
    )
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines


def test_check_validates_flags_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--ipvs-scheduler=rrr"]) == 2
    assert capsys.readouterr().out.startswith("--ipvs-scheduler: unknown scheduler")


def test_check_names_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--config", str(tmp_path / "none")]) == 2
    assert "none: No such file or directory" in capsys.readouterr().err


def test_run_prints_warnings_beside_the_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config_file(tmp_path, {"ipvs.scheduler": "rrr", "ipvs.schedular": "rr"})
    assert cli.main(["run", "--config", path]) == 2
    assert "warning: ipvs.schedular: unknown field" in capsys.readouterr().err


def test_the_effective_configuration_is_written_and_reads_back_the_same(tmp_path: Path) -> None:
    path = write_config_file(tmp_path, {"ipvs.scheduler": "lc", "nodePortAddresses": ["primary"]})
    target = tmp_path / "effective"
    argv = ["--config", path, "--hostname-override=node-b", f"--write-config-to={target}"]
    assert cli.main(argv) == 0
    config = load({"config": "x"}, target.read_bytes()).config
    assert (config.ipvs.scheduler, config.node_port_addresses) == ("lc", ("primary",))
    assert config.hostname_override == "node-b"


def test_write_config_to_a_missing_directory_fails(tmp_path: Path) -> None:
    assert cli.main([f"--write-config-to={tmp_path}/none/x"]) == 1


def test_check_warns_of_a_manifest_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.touch()
    for path, lines in ((tmp_path, 1), (tmp_path / "none", 2), (file, 2)):
        assert cli.main(["check", f"--manifests={path}"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert (len(printed), printed[-1]) == (lines, "ok")
        assert lines == 1 or printed[0].startswith(f"warning: --manifests: {path} is not a folder on this host")


def test_check_warns_of_a_kubeconfig_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", f"--kubeconfig={tmp_path}/none"]) == 0
    warning, ok = capsys.readouterr().out.splitlines()
    assert warning.startswith(
        f"warning: clientConnection.kubeconfig: cannot read {tmp_path}/none on this host: No such"
    )
    assert ok == "ok"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--v=2", "check"], 'error: the command must come first: "kubeproxy-py check [FLAGS]"'),
        (["help"], 'error: unknown command "help"; did you mean --help?'),
        (["version"], 'error: unknown command "version"; did you mean --version?'),
    ],
)
def test_command_in_a_wrong_place_is_answered_with_the_right_one(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert capsys.readouterr().err.splitlines()[0] == text
