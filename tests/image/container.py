"""container: the image as runc runs it, on this kernel, in the network of a machine of the lab.

Law: what is run is the archive that `make image` wrote, unpacked with owners, modes and file capabilities, and
nothing is added to it; a container is gone when its `with` ends, however it ends.
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
    """The image; a failure, not a skip, where there is none."""
    if not ARCHIVE.exists() or not shutil.which("runc"):
        pytest.fail("there is no image, or no runc; hint: make image", pytrace=False)
    return Archive(ARCHIVE)


@contextmanager
def unpacked(archive: Archive, folder: Path) -> Iterator[Path]:
    """The image's root, in memory: there file capabilities hold, which hostfs does not have."""
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
    """Version 2 of them is mounted where runc looks; each controller is on."""
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
        """Process 1 of the container, as this machine counts."""
        state = subprocess.run([*_RUNC, "state", self.name], capture_output=True, check=True)
        return int(json.loads(state.stdout)["pid"])

    def status(self) -> dict[str, str]:
        """/proc/PID/status of process 1."""
        lines = Path(f"/proc/{self.first_pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def execute(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the container, as `kubectl exec` does."""
        return subprocess.run([*_RUNC, "exec", self.name, *words], capture_output=True, text=True, check=False)

    def wait(self, timeout_s: float) -> int:
        """The exit status, once it has ended by itself."""
        return self._started.wait(timeout_s)
