"""The verbs and flags that need no kernel: check, --write-config-to, and what is said of what can't be used."""

from pathlib import Path

import pytest

from kubeproxy_py import cli
from kubeproxy_py.config.load import load
from tests.config.build import document


def written(folder: Path, fields: dict[str, object]) -> str:
    path = folder / "config.conf"
    path.write_bytes(document(fields))
    return str(path)


def test_a_good_file_is_ok_and_its_oddities_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, {"iptables.syncPeriod": "5s", "ipvs.schedular": "rr"})
    assert cli.main(["check", "--config", path]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "warning: ipvs.schedular: unknown field, ignored (did you mean scheduler?)",
        "warning: iptables.syncPeriod: set, but means nothing to this agent",
        "ok",
    ]


def test_all_that_is_wrong_is_told_at_once_beside_the_oddities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, {"ipvs.scheduler": "rrr", "clusterCIDR": "x", "ipvs.schedular": "rr"})
    assert cli.main(["check", "--config", path]) == 2
    lines = capsys.readouterr().out.splitlines()
    begin = ("ipvs.scheduler: unknown scheduler 'rrr' (one of rr,", "clusterCIDR: 'x': not", "warning: ipvs.schedular:")
    assert len(lines) == len(begin)
    assert all(line.startswith(each) for line, each in zip(lines, begin, strict=True)), lines


def test_flags_are_checked_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--ipvs-scheduler=rrr"]) == 2
    assert capsys.readouterr().out.startswith("--ipvs-scheduler: unknown scheduler")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--config", str(tmp_path / "none")]) == 2
    assert "none: No such file or directory" in capsys.readouterr().err


def test_a_run_that_cannot_begin_says_what_is_odd_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, {"ipvs.scheduler": "rrr", "ipvs.schedular": "rr"})
    assert cli.main(["run", "--config", path]) == 2
    assert "warning: ipvs.schedular: unknown field" in capsys.readouterr().err


def test_an_unknown_flag_can_not_be_used() -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--proxy-port-range=1-2"])
    assert ended.value.code == 2


def test_the_effective_configuration_is_written_and_reads_back_the_same(tmp_path: Path) -> None:
    path, target = written(tmp_path, {"ipvs.scheduler": "lc", "nodePortAddresses": ["primary"]}), tmp_path / "effective"
    argv = ["--config", path, "--hostname-override=node-b", f"--write-config-to={target}"]
    assert cli.main(argv) == 0
    config = load({"config": "x"}, target.read_bytes()).config
    assert (config.ipvs.scheduler, config.node_port_addresses) == ("lc", ("primary",))
    assert config.hostname_override == "node-b"


def test_a_file_that_cannot_be_written_fails(tmp_path: Path) -> None:
    assert cli.main([f"--write-config-to={tmp_path}/none/x"]) == 1
