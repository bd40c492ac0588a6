"""A pod is Ready only after a sync in which no device, set, chain or jump failed, so that a rolling update waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lab.namespace import Namespace
from tests.e2e.agent_process import wait_until
from tests.e2e.manifests import Folder, service_with_slice
from tests.e2e.probing import HEALTHZ, get
from tests.e2e.safe.guarded import without_modules
from tests.e2e.safe.patched_agent import PatchedAgent
from tests.e2e.serving import serving_cluster
from tests.e2e.wrapped_programs import WrappedPrograms

pytestmark = pytest.mark.kernel

NODE, WEB = "192.168.3.10", "10.96.0.10"


class RefusingPrograms(WrappedPrograms):
    """The programs that write rules; while `refusing` runs, they fail for input with a line that matches *pattern*."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self._gate = folder / "gate"
        super().__init__(
            folder / "programs",
            f"""\
input=$(cat)
if [ -e {self._gate} ] && printf '%s\\n' "$input" | grep -qE -e '{pattern}'; then
    echo "{{program}}: refused by the test" >&2
    exit 1
fi
printf '%s\\n' "$input" | /usr/sbin/{{program}} "$@"
""",
            "restore",
        )

    @contextmanager
    def refusing(self) -> Iterator[Callable[[], None]]:
        """Yield what ends the refusal."""
        self._gate.touch()
        try:
            yield self._gate.unlink
        finally:
            self._gate.unlink(missing_ok=True)


@contextmanager
def lacking(module: str) -> Iterator[Callable[[], None]]:
    """Have a kernel that cannot load *module* until what is yielded is called."""
    with without_modules(module) as loading:
        yield loading.allow


# What cannot be made at first: the module that a kernel lacks, or the rules that iptables refuses.
FAILURES = {
    "device": ("dummy", ""),
    "set": ("ip_set_bitmap_port", ""),
    "chain": ("", "^:KUBE-NODE-PORT "),
    "chain that protects no address": ("", "^:KUBE-FORWARD "),
    "jump": ("", "^-[AI] PREROUTING .*-j KUBE-SERVICES"),
}


def statuses(node: Namespace) -> dict[str, int]:
    return {path: get(node, NODE, HEALTHZ, f"/{path}").status for path in ("readyz", "livez")}


@pytest.mark.parametrize(("module", "pattern"), FAILURES.values(), ids=FAILURES)
def test_pod_is_ready_after_what_failed_in_the_first_sync_was_made(module: str, pattern: str, tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    folder, programs = Folder(manifests), RefusingPrograms(tmp_path, pattern or "^$")
    folder.write("all", service_with_slice("web", WEB, ["pod-a1", "pod-b1"]))
    failing: AbstractContextManager[Callable[[], None]] = lacking(module) if module else programs.refusing()
    with (
        serving_cluster() as cluster,
        failing as repair,
        PatchedAgent(cluster.node_a, folder.path, programs.statements()) as agent,
    ):
        assert " 0 pending" not in agent.wait_synced()
        # A restart repairs nothing, so the process counts as alive.
        assert statuses(cluster.node_a) == {"readyz": 503, "livez": 200}
        repair()
        wait_until(lambda: statuses(cluster.node_a) == {"readyz": 200, "livez": 200})


def test_pod_is_ready_after_a_first_sync_without_failures(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("all", service_with_slice("web", WEB, ["pod-a1", "pod-b1"]))
    with serving_cluster() as cluster, PatchedAgent(cluster.node_a, folder.path, "pass") as agent:
        assert " 0 pending" in agent.wait_synced()
        wait_until(lambda: statuses(cluster.node_a) == {"readyz": 200, "livez": 200})
