"""`status` and `explain`: what they ask the agent, their formats and exit statuses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kubeproxy_py import cli
from kubeproxy_py.commands import own_view
from kubeproxy_py.commands import status as status_module
from kubeproxy_py.commands.agent_client import DEFAULT_SOCKET, socket_path
from kubeproxy_py.diagnose.snapshot import About
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.server.debug_socket import DebugServer
from kubeproxy_py.server.documents import PAGES, SOCKET_PAGES, Documents
from kubeproxy_py.server.snapshots import Snapshots
from tests.builders import endpoint_slice, service
from tests.debug_servers import serving
from tests.diagnose.view import WALL_S, agent_with
from tests.server.test_debug_socket import Reader  # the counts of the harness's real server

Capture = pytest.CaptureFixture[str]


@pytest.fixture(params=[SOCKET_PAGES, PAGES], ids=["of this version", "older"])
def asked(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the flag that names the socket of an agent with one Service that is well and one that is not."""
    harness = agent_with(service(), endpoint_slice(), service("lone", ("10.96.0.11",)))

    def answer(reply: object) -> None:
        reply(harness.agent.snapshot(harness.now_s, WALL_S - harness.now_s))  # type: ignore[operator]

    documents = Documents(Snapshots(answer, About), Reader, request.param)
    server = DebugServer(str(tmp_path / "d" / "debug.sock"), documents.answer)
    with serving(server):
        yield f"--debug-socket={tmp_path / 'd' / 'debug.sock'}"


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ({}, DEFAULT_SOCKET),
        ({"config": "/x"}, DEFAULT_SOCKET),
        ({"debug-socket": "/x.sock"}, "/x.sock"),
        ({"debug-socket": ""}, ""),
        ({"manifests": "/services"}, ""),
        ({"manifests": "/services", "debug-socket": "/x.sock"}, "/x.sock"),
    ],
)
def test_agent_is_asked_unless_another_source_is_named(flags: dict[str, str], path: str) -> None:
    assert socket_path(flags) == path


def test_status_prints_the_table_of_the_agent(asked: str, capsys: Capture) -> None:
    assert cli.main(["status", asked]) == 0
    text = capsys.readouterr().out
    assert text.index("shop/lone") < text.index("shop/web")
    assert "unserved: no EndpointSlice" in text
    assert "-> 10.244.1.5:8080  -    node-a  -     1       3       1" in text


@pytest.mark.parametrize("arguments", [["shop/web"], ["-n", "shop", "web"], ["--address=10.96.0.10"]])
def test_status_filters(asked: str, arguments: list[str], capsys: Capture) -> None:
    assert cli.main(["status", asked, *arguments]) == 0
    text = capsys.readouterr().out
    assert "shop/web" in text
    assert "shop/lone" not in text


def test_status_as_json_and_yaml_are_the_document(asked: str, capsys: Capture) -> None:
    cli.main(["status", asked, "-o", "json"])
    from_json = json.loads(capsys.readouterr().out)
    cli.main(["status", asked, "-o", "yaml"])
    assert yaml.safe_load(capsys.readouterr().out)["services"] == from_json["services"]
    assert [one["name"] for one in from_json["services"]] == ["lone", "web"]


def test_watch_prints_again_until_interrupted(asked: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = iter((None,))

    def sleep(_seconds: float) -> None:
        if next(pauses, "end") == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr(status_module, "sleep", sleep)
    assert cli.main(["status", asked, "--watch", "shop/web"]) == 130
    assert capsys.readouterr().out.count("SERVICE") == 2


@pytest.mark.parametrize(
    ("target", "exit_status", "text"),
    [
        ("shop/web", 0, "Well: every address is served"),
        ("shop/lone", 2, "! shop/lone: ClusterIP 10.96.0.11:80/TCP: no EndpointSlice"),
        ("shop/wbe", 1, "error: no Service shop/wbe is known (2 are); did you mean shop/web?"),
        ("nothing at all", 1, "error: no Service default/nothing at all"),
    ],
)
def test_explain_has_an_exit_status_for_scripts(
    asked: str, target: str, exit_status: int, text: str, capsys: Capture
) -> None:
    assert cli.main(["explain", asked, target]) == exit_status
    captured = capsys.readouterr()
    assert text in captured.out + captured.err


def test_explain_as_json_is_the_document(asked: str, capsys: Capture) -> None:
    assert cli.main(["explain", asked, "10.96.0.10:80", "-o", "json"]) == 0
    explanation = json.loads(capsys.readouterr().out)
    assert explanation["services"][0]["service"]["name"] == "web"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--port=70000", "--port: '70000' is not a port"),
        ("--port=0", "--port: '0' is not a port"),
        ("--port=http", "--port: 'http' is not a port"),
        ("--node-port=", "--node-port: '' is not a port"),
        ("--address=", "--address: '' is not an IP address"),
        ("--namespace=", "--namespace: no name is given"),
        ("", "no name is given"),
        ("--address=10.96.0.10/32", "--address: '10.96.0.10/32' is not an IP address"),
    ],
)
def test_filter_that_cannot_be_meant_lists_nothing(flag: str, message: str, asked: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["status", asked, flag])
    assert raised.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["web"], "Note: without a namespace it is default; give NAMESPACE/SERVICE\n"),
        (["10.96.0.10"], "Note: give an address by --address, and a port by --port\n"),
        (["shop/web:80"], "Note: give an address by --address, and a port by --port\n"),
        (["web", "-n", "other"], ""),
        (["shop/none"], ""),
    ],
)
def test_what_nothing_matches_is_named_in_the_right_way(
    words: list[str], hint: str, asked: str, capsys: Capture
) -> None:
    assert cli.main(["status", asked, *words]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("Nothing matches\n")
    assert captured.err == hint


@pytest.mark.parametrize("with_agent", [True, False])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shop/web", "-n", "other"], "'shop/web' is not in the namespace 'other'; give one of the two"),
        (["a/b/c"], "'a/b/c' is not [NAMESPACE/]SERVICE"),
        (["/web"], "'/web' is not [NAMESPACE/]SERVICE"),
    ],
)
def test_service_that_cannot_be_meant_is_an_error_with_and_without_an_agent(
    words: list[str], message: str, with_agent: bool, asked: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=f"error: service: {re.escape(message)}"):
        cli.main(["status", asked if with_agent else f"--manifests={tmp_path}", *words])


@pytest.mark.parametrize("command", ["status", "explain"])
def test_argument_that_is_not_utf_8_is_asked_for(command: str, asked: str, capsys: Capture) -> None:
    assert cli.main([command, asked, os.fsdecode(b"shop/\xff")]) == (1 if command == "explain" else 0)
    captured = capsys.readouterr()
    assert ("Nothing matches" if command == "status" else "no Service shop/") in captured.out + captured.err


def test_argument_that_is_too_long_is_named_as_such(asked: str) -> None:
    with pytest.raises(SystemExit, match="error: the arguments are too long"):
        cli.main(["status", asked, "x" * 20_000])


def test_without_an_agent_and_without_rights_the_reason_is_named(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_loaded: object) -> MemoryKernel:
        raise KernelError("not root")

    monkeypatch.setattr(own_view, "real_platform", refuse)
    assert cli.main(["status", f"--debug-socket={tmp_path}/none.sock", f"--manifests={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert f"Note: no agent listens at {tmp_path}/none.sock; this is what this command sees itself" in error
    assert "not root" in error
