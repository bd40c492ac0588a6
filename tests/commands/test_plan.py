"""plan: prints the changes of a sync, and logs what it refuses."""

import json
from pathlib import Path

import pytest

from kubeproxy_py import cli
from tests.sources import manifest_objects


def test_plan_logs_the_refused_addresses_of_services_and_plans_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = manifest_objects.service(externalIPs=["127.0.0.1", "203.0.113.7"])
    (tmp_path / "web.json").write_text(json.dumps(service))
    argv = ["plan", "--assume-empty", "--hostname-override=node-a", f"--manifests={tmp_path}"]
    assert cli.main(argv) == 0
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if "ForbiddenAddress" in line]
    assert line.endswith(
        '"Refused an address of a Service" service="shop/web" address="127.0.0.1" reason="ForbiddenAddress" '
        'why="not served, because it is a loopback address"'
    )
    assert "203.0.113.7:80" in printed.out
    assert "127.0.0.1:80" not in printed.out
