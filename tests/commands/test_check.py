"""Commands and flags that need no kernel: check, --write-config-to, and the errors of an unusable configuration."""

import json
import os
from pathlib import Path
from socket import gethostname

import pytest

from kubeproxy_py import cli
from kubeproxy_py.commands.interactive import load_with_kubeconfig
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import ConfigInput, load
from tests.config.build import document
from tests.sources import manifest_objects


@pytest.fixture(autouse=True)
def _no_kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)


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
        f"ok: configuration {path}",
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


# Manifests and the kubeconfig


def test_check_names_a_manifest_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.touch()
    for path in (tmp_path / "none", file):
        assert cli.main(["check", f"--manifests={path}"]) == 1
        (line,) = capsys.readouterr().out.splitlines()
        assert line == (
            f"--manifests: {path} is not a directory on this host (create it, or set --manifests to another one)"
        )


def test_check_names_object_field_and_remedy_of_each_problem_of_manifests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, odd = (
        manifest_objects.service(name, port=port, clusterIP=f"10.96.0.{number}")
        for number, (name, port) in enumerate((("a", 80), ("b", 99999), ("c", 80)), 10)
    )
    odd["spec"]["sesionAffinity"] = "ClientIP"
    for content in (good, bad, odd):
        (tmp_path / f"{content['metadata']['name']}.json").write_text(json.dumps(content))
    for name in "abc":  # whose endpoints are there
        content = manifest_objects.endpoint_slice(name)
        content["metadata"]["labels"] = {"kubernetes.io/service-name": name}
        (tmp_path / f"slice-{name}.json").write_text(json.dumps(content))
    assert cli.main(["check", f"--manifests={tmp_path}"]) == 1
    error, warning = capsys.readouterr().out.splitlines()
    assert error.startswith("b.json: Service shop/b: spec.ports[0].port: 99999 is not a port (")
    assert warning.startswith("warning: c.json: Service shop/c: spec.sesionAffinity: unknown field")
    assert warning.endswith("(did you mean sessionAffinity?)")
    (tmp_path / "b.json").unlink()
    assert cli.main(["check", f"--manifests={tmp_path}"]) == 0
    ok = f"ok: manifests {tmp_path} (2 Services, 3 EndpointSlices, no Node {gethostname().lower()}; "
    assert capsys.readouterr().out.splitlines() == [warning, f"{ok}--hostname-override names another)"]
    assert cli.main(["check", f"--manifests={tmp_path}", "--config-only"]) == 0
    assert capsys.readouterr().out == "ok: flags --manifests\n"


def test_check_warns_of_what_of_valid_objects_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = {
        **manifest_objects.node("node-a"),
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}]},
    }
    for number, content in enumerate((node, manifest_objects.service(externalIPs=["127.0.0.1"]))):
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    assert cli.main(["check", f"--manifests={tmp_path}", "--hostname-override=node-a"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "warning: Service shop/web: 127.0.0.1: not served, because it is a loopback address "
        "(give the Service an address that no machine has)",
        "warning: Service shop/web: spec.ports: no endpoint serves 80/TCP IPv4: no EndpointSlice",
        f"ok: flags --hostname-override, manifests {tmp_path} (1 Service, 0 EndpointSlices, Node node-a)",
    ]
    assert printed.err == ""


def test_check_fails_for_a_kubeconfig_of_a_flag_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", f"--kubeconfig={tmp_path}/none"]) == 1
    assert capsys.readouterr().out.startswith(f"--kubeconfig: cannot read {tmp_path}/none on this host: No such file")


@pytest.mark.parametrize("fields", [None, {"ipvs.scheduler": "lc"}])
def test_check_fails_for_a_kubeconfig_of_the_variable_that_is_not_there(
    fields: dict[str, object] | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/none")
    argv = ["--config", write_config_file(tmp_path, fields)] if fields else []
    assert cli.main(["check", *argv]) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"$KUBECONFIG: cannot read {tmp_path}/none on this host: No such file")


def test_check_warns_of_a_kubeconfig_of_the_file_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config_file(tmp_path, {"clientConnection.kubeconfig": "/nonexistent/kubeconfig"})
    assert cli.main(["check", "--config", path]) == 0
    warning, ok = capsys.readouterr().out.splitlines()
    assert warning.startswith(
        "warning: clientConnection.kubeconfig: cannot read /nonexistent/kubeconfig on this host: No such file"
    )
    assert ok == f"ok: configuration {path}"


def write_kubeconfig(path: Path, server: str = "https://192.0.2.1", **user: str) -> str:
    content = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("by", ["flag", "file", "variable"])
def test_check_names_the_field_of_a_broken_kubeconfig_wherever_it_was_named(
    by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_kubeconfig(tmp_path / "kubeconfig", **{"client-certificate": "none.pem"})
    argv = ["check"]
    if by == "flag":
        argv.append(f"--kubeconfig={path}")
    elif by == "file":
        argv.append(f"--config={write_config_file(tmp_path, {'clientConnection.kubeconfig': path})}")
    else:
        monkeypatch.setenv("KUBECONFIG", path)
    assert cli.main(argv) == 1
    line = capsys.readouterr().out
    assert line.startswith(
        f"kubeconfig {path}: client-certificate: none.pem: No such file or directory (check the path"
    )
    write_kubeconfig(tmp_path / "kubeconfig")
    assert cli.main(argv) == 0
    configuration = "" if by != "file" else f"configuration {tmp_path}/config.conf, "
    assert capsys.readouterr().out == f"ok: {configuration}kubeconfig {path}\n"


def test_check_of_nothing_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: nothing to check: name a file by --config, --manifests or --kubeconfig")


def test_check_of_the_default_configuration_alone_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--config-only"]) == 0  # a reload of a unit without options
    assert capsys.readouterr().out == "ok: the default configuration\n"


def test_check_warns_of_a_directory_of_which_no_object_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node.json").write_text(json.dumps(manifest_objects.node("other")))
    assert cli.main(["check", f"--manifests={tmp_path}", "--hostname-override=node-a"]) == 0
    warning, ok = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"warning: --manifests: no object of {tmp_path} is used (add Services, EndpointSlices")
    assert ok.endswith(", 0 EndpointSlices, no Node node-a; --hostname-override names another)")


def test_the_kubeconfig_of_the_flag_wins_over_the_file_and_the_file_over_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/of/variable")
    content = document({"clientConnection.kubeconfig": "/of/file"})

    def kubeconfig(content: bytes | None, **flags: str) -> str:
        loaded = load_with_kubeconfig(ConfigInput(flags, content), os.environ)
        return loaded.config.client_connection.kubeconfig

    assert kubeconfig(content, kubeconfig="/of/flag") == "/of/flag"
    assert kubeconfig(content) == "/of/file"
    assert kubeconfig(None) == "/of/variable"
    assert kubeconfig(None, manifests=str(tmp_path)) == ""  # nothing but the directory is read
    monkeypatch.setenv("KUBECONFIG", ":/of/variable:")
    assert kubeconfig(None) == "/of/variable"
    monkeypatch.setenv("KUBECONFIG", "/one:/two")
    with pytest.raises(ConfigError, match=r"\$KUBECONFIG: names several files \(set --kubeconfig to one of them\)"):
        kubeconfig(None)
    monkeypatch.delenv("KUBECONFIG")
    assert kubeconfig(None) == ""


def test_run_ignores_the_variable_and_a_kubeconfig_beside_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/of/variable")
    loaded = load({"config": "x", "kubeconfig": "/of/flag"}, document({"clientConnection.kubeconfig": "/of/file"}))
    assert loaded.config.client_connection.kubeconfig == "/of/file"
    assert load({}).config.client_connection.kubeconfig == ""


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--v=2", "check"], 'error: the command must come first: "kubeproxy-py check [FLAGS]"'),
        (["help", "statsu"], 'error: unknown command "statsu"; did you mean status?'),
        (["version", "now"], 'error: unexpected argument "now"'),
    ],
)
def test_command_in_a_wrong_place_is_answered_with_the_right_one(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert capsys.readouterr().err.splitlines()[0] == text
