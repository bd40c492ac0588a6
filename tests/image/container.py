"""The image as runc runs it, on this kernel, in the network namespace of a machine of the lab.

Invariants:
  - The archive that `make image` wrote is run unchanged, unpacked with owners, modes and file capabilities.
  - A container is deleted when its `with` ends, also by an error.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pytest

from image.archive import Archive
from lab import linux
from lab.namespace import Namespace
from tests.e2e.agent_process import AgentProcess

ARCHIVE = Path(__file__).resolve().parents[2] / "build/image/kubeproxy-py.tar"
SECCOMP = Path("/usr/share/containers/seccomp.json")
_CGROUPS = Path("/sys/fs/cgroup")
_RUNC = ("runc", "--root", "/run/runc-of-lab")


def built_image() -> Archive:
    """Return the image; fail, not skip, if there is none."""
    if not ARCHIVE.exists() or not shutil.which("runc"):
        pytest.fail("image or runc not found; hint: make image", pytrace=False)
    return Archive(ARCHIVE)


@contextmanager
def unpacked(archive: Archive, folder: Path) -> Iterator[Path]:
    """Unpack the image's root to a tmpfs, which has file capabilities; hostfs has not."""
    folder.mkdir()
    linux.mount("tmpfs", str(folder), "tmpfs", options="mode=755")
    try:
        tar = ["tar", "--extract", "--gzip", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--directory"]
        subprocess.run([*tar, str(folder)], input=archive.layer_bytes(), check=True)
        yield folder
    finally:
        linux.unmount(str(folder))


@contextmanager
def control_groups() -> Iterator[None]:
    """Mount cgroup v2 where runc expects it, for the `with`."""
    mounted = not (_CGROUPS / "cgroup.controllers").exists()
    if mounted:
        linux.mount("cgroup2", str(_CGROUPS), "cgroup2")
    try:
        yield
    finally:
        if mounted:
            linux.unmount(str(_CGROUPS))


class Container(AgentProcess):
    """A container that runs within the `with`; its log is that of an agent."""

    def __init__(self, namespace: Namespace, name: str, config: dict[str, object], folder: Path) -> None:
        super().__init__(namespace, Path("/nowhere"))
        bundle = folder / name
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(config, indent=1))
        self.name = name
        self._argv = [*_RUNC, "run", "--bundle", str(bundle), name]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run([*_RUNC, "delete", "--force", self.name], capture_output=True, check=False)
        super().__exit__(kind, error, trace)

    @property
    def first_pid(self) -> int:
        """The pid of the container's process 1 on this machine."""
        state = subprocess.run([*_RUNC, "state", self.name], capture_output=True, check=True)
        return int(json.loads(state.stdout)["pid"])

    def status(self) -> dict[str, str]:
        """Return /proc/PID/status of process 1."""
        lines = Path(f"/proc/{self.first_pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def execute(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the container, as `kubectl exec` does."""
        return subprocess.run([*_RUNC, "exec", self.name, *words], capture_output=True, text=True, check=False)

    def wait(self, timeout_s: float) -> int:
        """Wait for the end of the container and return its exit status."""
        return self._started.wait(timeout_s)
