"""The stand-in API server as a program, as benchmarks and the lab run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kubeproxy_py.model.events import ServiceUpserted
from kubeproxy_py.sources.initial_snapshot import read_initial_snapshot
from kubeproxy_py.sources.kubernetes.source import KubeSource
from tests.apiserver.client import Client
from tests.apiserver.objects import service


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_program_serves_objects_of_a_file_and_accepts_changes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"objects.{suffix}"
    other = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service("a"), other]}))
    command = [sys.executable, "-m", "tests.apiserver", "--objects", str(path), "--token", "t"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().removeprefix("serving on ").strip()
            client = Client(f"http://{address}", "t")
            client.apply(service("b"))
            status, _ = client.request_json("POST", "/standin/compact")
            assert status == 200
            assert names_at(client, tmp_path) == ["a", "b"]
        finally:
            process.terminate()
    assert process.returncode == 0


def names_at(client: Client, directory: Path) -> list[str]:
    (directory / "kubeconfig").write_text(
        json.dumps(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": client.url}}],
                "users": [{"name": "u", "user": {"token": client.token}}],
            }
        )
    )
    events = read_initial_snapshot(KubeSource(str(directory / "kubeconfig"), None, "node-a"), timeout_s=60)
    return [event.service.name.name for event in events if isinstance(event, ServiceUpserted)]
