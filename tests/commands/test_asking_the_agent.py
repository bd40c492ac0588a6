"""plan, doctor and trace ask the running agent: its configuration, its objects, and what they say of both."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kubeproxy_py import cli
from kubeproxy_py.commands import agent_config, ask_trace, doctor, plan, trace
from kubeproxy_py.commands.agent_client import NoAgentError, RefusedError, ask
from kubeproxy_py.commands.parts import HostPlatform, empty_platform
from kubeproxy_py.config.load import LoadedConfig, from_fields, load
from kubeproxy_py.config.write import as_document, section_fields
from kubeproxy_py.diagnose.objects import UnusableObjectsError, decode_objects, encode_objects
from kubeproxy_py.diagnose.snapshot import About
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import PeersRefused, PeerUpserted, TakenAddresses
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.net import SocketAddress
from tests.builders import HERE, endpoint_slice, service
from tests.commands.running_agent import answering
from tests.diagnose.view import agent_with, snapshot_of
from tests.reconcile.harness import AgentHarness

Capture = pytest.CaptureFixture[str]

FLAGS = {
    "hostname-override": HERE,
    "masquerade-all": "true",
    "ipvs-strict-arp": "true",
    "ipvs-scheduler": "wrr",
    "detect-local-mode": "InterfaceNamePrefix",
    "pod-interface-name-prefix": "cali",
    "reserve-node-ports": "false",
    "drain-deadline": "90s",
    "conntrack-max-per-core": "0",
    "healthz-port": "0",
    "manifests": "/of/the/agent",
    "v": "3",
}
LOADED = load(FLAGS)


@pytest.fixture
def harness() -> AgentHarness:
    return agent_with(service(), endpoint_slice(), service("lone", ("10.96.0.11",)))


@pytest.fixture
def asked(harness: AgentHarness, tmp_path: Path) -> Iterator[str]:
    with answering(harness, tmp_path, LOADED) as flag:
        yield flag


# The configuration


@pytest.mark.parametrize(
    "flags", [{}, FLAGS, {"config-sync-period": "1m", "conntrack-min": "0", "traffic-series": "0"}]
)
def test_configuration_that_was_told_is_the_same(flags: dict[str, str]) -> None:
    loaded = load(flags)
    told = json.loads(json.dumps([as_document(loaded.config), section_fields(loaded.agent)]))
    again = from_fields(*told)
    assert (again.config, again.agent) == (loaded.config, loaded.agent)


def seen_by(command: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> LoadedConfig:
    """Return the configuration with which *command* looks, given *flags*."""
    seen: list[LoadedConfig] = []

    def stop(loaded: LoadedConfig, *_arguments: object, **_options: object) -> int:
        seen.append(loaded)
        return 0

    monkeypatch.setattr({"plan": plan, "doctor": doctor, "trace": trace}[command], command, stop)
    words = ["--kernel", "--from=node", "--to=10.96.0.10:80"] if command == "trace" else []
    assert cli.main([command, *flags, *words]) == 0
    return seen[0]


COMMANDS = ["plan", "doctor", "trace"]


@pytest.mark.parametrize("command", COMMANDS)
def test_without_flags_a_command_has_the_complete_configuration_of_the_agent(
    command: str, asked: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    seen = seen_by(command, [asked, "-v0"], monkeypatch)
    assert (seen.config, seen.agent) == (LOADED.config, LOADED.agent)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Note: configuration and objects of the running agent (")


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_that_say_the_same_change_nothing(
    command: str, asked: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    seen = seen_by(command, [asked, "--ipvs-scheduler=wrr", "--masquerade-all"], monkeypatch)
    assert seen.agent.manifests == "/of/the/agent"
    assert "differ" not in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_that_differ_are_used_and_named(
    command: str, asked: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    seen = seen_by(command, [asked, "--ipvs-scheduler=rr", "--drain-deadline=90s"], monkeypatch)
    assert (seen.config.ipvs.scheduler, seen.agent.manifests) == ("rr", "")
    error = capsys.readouterr().err
    assert "The flags differ from the running agent, and are used" in error
    assert "ipvs.scheduler is rr, the agent's wrr" in error
    assert "drainDeadline" not in error


@pytest.mark.parametrize("command", COMMANDS)
def test_without_an_agent_the_flags_are_used(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    socket = f"--debug-socket={tmp_path / 'none.sock'}"
    assert seen_by(command, [socket], monkeypatch).config == load({}).config
    assert "Note: no agent listens at" in capsys.readouterr().err
    assert seen_by(command, [socket, "--ipvs-scheduler=rr"], monkeypatch).config.ipvs.scheduler == "rr"
    assert capsys.readouterr().err == ""


def test_agent_whose_configuration_cannot_be_used_is_as_none(
    harness: AgentHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(agent_config, "from_fields", lambda _config, _settings: load({"ipvs-scheduler": "no/such"}))
    with answering(harness, tmp_path, LOADED) as flag:
        assert seen_by("plan", [flag], monkeypatch).config == load({}).config
    assert "the configuration of the agent at " in capsys.readouterr().err


@pytest.mark.parametrize("timeout_s", [0.1, 1.5])
def test_silent_agent_is_waited_for_as_long_as_asked(tmp_path: Path, timeout_s: float) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        began_s = time.monotonic()
        with pytest.raises(NoAgentError, match=f"has not answered within {timeout_s:g} s"):
            ask(str(tmp_path / "s"), "/v1/status", {}, timeout_s)
        assert time.monotonic() - began_s >= timeout_s


def test_trace_does_not_wait_again_for_an_agent_that_has_not_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    asked: list[str] = []

    def silent(_path: str, page: str, _parameters: object) -> bytes:
        asked.append(page)
        raise NoAgentError("the agent at /s has not answered within 15 s")

    for module in (ask_trace, agent_config):
        monkeypatch.setattr(module, "ask", silent)
    monkeypatch.setattr(trace, "trace", lambda *_arguments, **_options: 0)
    assert cli.main(["trace", "--debug-socket=/s", "--from=node", "--to=10.96.0.10:80"]) == 0
    assert asked == ["/v1/trace"]
    expected = "Note: the agent at /s has not answered within 15 s; the configuration is that of the flags\n"
    assert capsys.readouterr().err == expected


# Objects and rows


def test_plan_is_of_the_objects_of_the_agent(
    asked: str, harness: AgentHarness, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def platform(_loaded: LoadedConfig) -> HostPlatform:
        return HostPlatform(MemoryKernel(), HostInfo(HERE))

    monkeypatch.setattr(plan, "real_platform", platform)
    assert cli.main(["plan", asked]) == 2
    text = capsys.readouterr().out
    for row in (
        "VirtualServer 10.96.0.10:80/TCP",
        "VirtualServer 10.96.0.11:80/TCP",
        "10.244.1.5:8080",
        "(wrr",
    ):
        assert row in text
    assert cli.main(["plan", asked, "--assume-empty", "-o", "json"]) == 2
    assert "10.96.0.11" in capsys.readouterr().out


def test_plan_warns_of_what_the_agent_has_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(plan, "real_platform", lambda _loaded: HostPlatform(MemoryKernel(), HostInfo(HERE)))
    left_out = msgspec.structs.replace(endpoint_slice(), problems=("endpoints[1].addresses: is empty",))
    with answering(agent_with(service(), left_out), tmp_path, LOADED) as flag:
        assert cli.main(["plan", flag]) == 2
    assert f"warning: EndpointSlice {left_out.name}: endpoints[1].addresses: is empty" in capsys.readouterr().err


REJECTED = Problem("web.yaml, document 1: Service shop/odd", "spec.ports[0].port", "99999 is not a port")


def test_plan_names_the_objects_that_the_agent_rejects_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(plan, "real_platform", lambda _loaded: HostPlatform(MemoryKernel(), HostInfo(HERE)))
    kept = msgspec.structs.replace(service("odd", ("10.96.0.12",)), problems=("spec.ports[0].port: 99999 is no port",))
    left_out = msgspec.structs.replace(endpoint_slice(), problems=("endpoints[1].addresses: is empty",))
    with answering(agent_with(service(), left_out, kept), tmp_path, LOADED, rejected=(REJECTED,)) as flag:
        assert cli.main(["plan", flag]) == 1
        assert cli.main(["explain", flag, "shop/odd"]) == 2  # its last valid version is served
    printed = capsys.readouterr()
    messages = [line for line in printed.err.splitlines() if "odd" in line or "is empty" in line]
    assert f"! shop/odd: its last version is rejected, an earlier one is served: {REJECTED}" in printed.out
    assert messages[:2] == [
        f"error: {REJECTED}",
        f"warning: EndpointSlice {left_out.name}: endpoints[1].addresses: is empty",
    ]


def test_explain_of_a_rejected_service_says_why_it_is_unknown(
    harness: AgentHarness, tmp_path: Path, capsys: Capture
) -> None:
    with answering(harness, tmp_path, LOADED, rejected=(REJECTED,)) as flag:
        assert cli.main(["explain", flag, "shop/odd"]) == 1
    assert capsys.readouterr().err == f"error: Service shop/odd is rejected: {REJECTED}\n"


def test_objects_survive_with_what_is_taken_and_peers_and_other_versions_are_refused(harness: AgentHarness) -> None:
    taken = TakenAddresses("API", {"192.0.2.1": "a gateway"}, (SocketAddress("192.0.2.9", 6443),))
    peers = (PeerUpserted("node-b", ("192.168.3.11",)), PeerUpserted("node-c", (), ("pool=large",)))
    harness.handle(taken, *peers, PeersRefused("nodes is forbidden"))
    snapshot = snapshot_of(harness)
    content = b"".join(encode_objects(snapshot))
    events = decode_objects(content, About().version)
    again = AgentHarness()
    again.handle(*events)
    found = snapshot_of(again)
    assert (found.services, found.node, found.taken) == (snapshot.services, snapshot.node, (taken,))
    assert (found.peers, found.labels) == ({"node-b": ("192.168.3.11",)}, {"node-c": ("pool=large",)})
    assert found.peers_refused == "nodes is forbidden"
    assert {name: set(parts) for name, parts in found.slices.items()} == {
        name: set(parts) for name, parts in snapshot.slices.items()
    }
    with pytest.raises(UnusableObjectsError, match="of version"):
        decode_objects(content, "another")
    for cut in (0, 3, 20, len(content) - 1):
        with pytest.raises(UnusableObjectsError):
            decode_objects(content[:cut], About().version)


def test_agent_of_another_version_is_refused_as_a_source(
    harness: AgentHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(plan, "real_platform", empty_platform)
    with answering(harness, tmp_path, LOADED, version="0.0.1") as flag:
        assert cli.main(["plan", flag]) == 1
    assert "the agent is of version 0.0.1, this command of" in capsys.readouterr().err


# trace


def test_trace_is_asked_of_the_agent(asked: str, capsys: Capture) -> None:
    assert cli.main(["trace", asked, "--from", "203.0.113.9", "--to", "shop/web"]) == 0
    printed = capsys.readouterr()
    assert "answered: by 1 real server of shop/web (ClusterIP)" in printed.out
    assert printed.err == ""
    assert cli.main(["trace", asked, "--from", "node", "--to", "10.96.0.11:80", "-o", "json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["outcomes"][0]["reason"].endswith("no EndpointSlice")


def test_trace_names_rows_that_the_kernel_does_not_have_yet(asked: str, harness: AgentHarness, capsys: Capture) -> None:
    harness.agent.state.pending.enqueue([next(iter(harness.kernel.rows))])
    cli.main(["trace", asked, "--from", "203.0.113.9", "--to", "shop/web"])
    assert "note: 1 row is not in the kernel as the agent wants (see status)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--from", "outsid", "--to", "shop/web"], 'error: --from "outsid": give an address'),
        (["--from", "node", "--to", "shop/wbe"], "there is no Service shop/wbe; did you mean shop/web?"),
    ],
)
def test_argument_that_the_agent_cannot_trace_is_an_error(
    asked: str, words: list[str], text: str, capsys: Capture
) -> None:
    assert cli.main(["trace", asked, *words]) == 1
    error = capsys.readouterr().err
    assert text in error
    assert 'See "kubeproxy-py trace --help".' in error


def test_service_is_not_said_to_be_missing_by_an_agent_that_waits_for_its_lists(
    tmp_path: Path, capsys: Capture
) -> None:
    with answering(AgentHarness(synced=False), tmp_path, LOADED) as flag:
        assert cli.main(["trace", flag, "--from", "node", "--to", "shop/web"]) == 1
    assert '--to "shop/web": the Services could not be listed, so it is not known which' in capsys.readouterr().err


def test_page_without_parameters_says_so(asked: str) -> None:
    with pytest.raises(RefusedError, match="unknown parameter 'x'; there are none"):
        ask(asked.partition("=")[2], "/v1/config", {"x": "1"})


def test_objects_are_served_at_the_socket_only(asked: str) -> None:
    from kubeproxy_py.server.documents import PAGES, SOCKET_PAGES

    assert SOCKET_PAGES.keys() - PAGES.keys() == {"/v1/objects", "/v1/table"}
    assert ask(asked.partition("=")[2], "/v1/objects", {})
