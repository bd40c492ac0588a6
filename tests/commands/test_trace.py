"""trace as a command: sources, output and exit status, on a host that cannot be probed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kubeproxy_py import cli
from kubeproxy_py.commands import trace as command
from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.kernel.errors import KernelError
from tests.sources import manifest_objects
from tests.sources.manifest_objects import Json

Trace = Callable[..., tuple[int, str, str]]
"""Returns exit status, output and log of trace for the given arguments."""

RANGED: Json = {
    **manifest_objects.service(
        "ranged", type="LoadBalancer", clusterIP="10.96.0.20", loadBalancerSourceRanges=["198.18.0.0/15"]
    ),
    "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.20"}]}},
}


def no_kernel(_loaded: LoadedConfig) -> None:
    raise KernelError("no IPVS")


@pytest.fixture
def trace(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Trace:
    monkeypatch.setattr(command, "real_platform", no_kernel)
    node = {
        **manifest_objects.node("node-a"),
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.3.10"}]},
    }
    objects = [node, manifest_objects.service("idle", clusterIP="10.96.0.10"), RANGED]
    for number, content in enumerate(objects):
        (tmp_path / f"{number}.json").write_text(json.dumps(content))

    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main(["trace", "--hostname-override=node-a", f"--manifests={tmp_path}", *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_client_that_source_ranges_exclude_is_named(trace: Trace) -> None:
    status, text, log = trace("--from", "outside", "--to", "203.0.113.20:80")
    assert status == 2
    assert "is not in loadBalancerSourceRanges of shop/ranged (198.18.0.0/15)" in text
    assert "Failed to probe this host; tracing as on a host with all features" in log


def test_service_without_endpoints_has_its_reason(trace: Trace) -> None:
    status, text, _ = trace("--from", "node", "--to", "shop/idle")
    assert status == 2
    assert "refused: IPVS has no endpoint for 10.96.0.10:80/TCP: no EndpointSlice" in text


def test_port_of_the_node_is_answered_by_its_programs(trace: Trace) -> None:
    status, printed, _ = trace("--from", "203.0.113.9", "--to", "192.168.3.10:22", "-o", "json")
    document = json.loads(printed)
    assert (status, document["exitStatus"]) == (0, 0)
    assert [outcome["fate"] for outcome in document["outcomes"]] == ["host"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", "outsid", "--to", "shop/idle"), 'error: --from "outsid": give an address, or one of outside'),
        (("--from", "node", "--to", "shop/idel"), "there is no Service shop/idel; did you mean shop/idle?"),
        (("--from", "node", "--to", "10.96.0.10:0"), "the port is not in 1-65535"),
        (("--from", "fd00::1", "--to", "10.96.0.10:80"), "of different IP families; give two of one"),
    ],
)  # fmt: skip
def test_argument_that_cannot_be_used_is_an_error(trace: Trace, words: tuple[str, ...], message: str) -> None:
    status, printed, error = trace(*words)
    assert (status, printed) == (1, "")
    assert message in error
    assert 'See "kubeproxy-py trace --help".' in error


def test_kernel_that_cannot_be_read_is_an_error(trace: Trace) -> None:
    status, _, error = trace("--from", "node", "--to", "shop/idle", "--kernel")
    assert status == 1
    assert "no IPVS" in error


def test_without_objects_and_kernel_there_is_nothing_to_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "real_platform", no_kernel)
    monkeypatch.setattr("kubeproxy_py.commands.plan.LIST_TIMEOUT_S", 0.1)
    words = ["--hostname-override=node-a", "--master=http://127.0.0.1:9", "--from=node", "--to=10.96.0.10:80"]
    assert cli.main(["trace", *words]) == 1
    error = capsys.readouterr().err
    assert "tracing what the kernel has now, without names of Services" in error
    assert "the rules of IPv4 cannot be read" in error


@pytest.mark.parametrize("target", ["shop/idle", "10.96.0.10"])
def test_service_is_not_said_to_be_missing_where_services_could_not_be_listed(
    target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "real_platform", no_kernel)
    monkeypatch.setattr("kubeproxy_py.commands.plan.LIST_TIMEOUT_S", 0.1)
    words = ["--hostname-override=node-a", "--master=http://127.0.0.1:9", "--from=node", f"--to={target}"]
    assert cli.main(["trace", *words]) == 1
    error = capsys.readouterr().err
    assert "the Services could not be listed, so it is not known which there are; give ADDRESS:PORT" in error
    assert "no Service" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trace"], "the following arguments are required: --from, --to"),
        (
            ["trace", "--from", "node", "--to", "a/b", "--in-ifcae=x"],
            "unknown flag --in-ifcae; did you mean --in-iface?",
        ),
        (["trace", "--from", "node", "--to", "a/b", "-o", "xml"], "-o/--output: invalid choice: 'xml'"),
    ],
)
def test_usage_error(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = cli.main(words)
    except SystemExit as exited:
        status = exited.code
    assert status == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
