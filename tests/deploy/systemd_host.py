"""A machine booted by systemd, with the unit files of this project installed as docs/install-vm.md describes.

systemd is process 1 of a pid namespace of the lab's kernel, in a given network namespace.  The unit and its files are
those of deploy/systemd/, unchanged.  What the machine writes goes to a tmpfs.  Other units are only those that a
machine needs to boot.

As a program, `python systemd_host.py FOLDER` becomes that process 1.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab import linux
from lab.job import REPOSITORY
from lab.namespace import Namespace
from lab.pristine import LAB

UNIT = "kubeproxy-py.service"
NODE_FOLDER = Path("/opt/node")  # where the machine finds the configuration

_DEPLOY = REPOSITORY / "deploy/systemd"
_UNITS = Path("/usr/lib/systemd/system")
_BOOT_UNITS = (
    *(f"{name}.target" for name in ("basic", "sysinit", "shutdown", "umount", "final", "network", "network-online")),
    *(f"systemd-{name}.service" for name in ("journald", "modules-load", "sysctl", "tmpfiles-setup")),
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
)  # fmt: skip
_WANTED_AT_BOOT = tuple(unit for unit in _BOOT_UNITS if unit.endswith((".service", ".socket")))
_EMPTY = (
    "/run",
    "/tmp",
    "/var/log",
    "/opt",
    "/etc/default",
    "/etc/modules-load.d",
    "/etc/sysctl.d",
    "/etc/tmpfiles.d",
    "/etc/systemd/system",
    "/usr/lib/systemd/system-generators",
    "/usr/lib/modules-load.d",
    "/usr/lib/sysctl.d",
    "/usr/lib/tmpfiles.d",
    "/usr/lib/modules",
)
_INSTALLED = {  # file of deploy/systemd -> its place according to docs/install-vm.md
    UNIT: f"/etc/systemd/system/{UNIT}",
    "modules-load.conf": "/etc/modules-load.d/kubeproxy-py.conf",
    "sysctl.conf": "/etc/sysctl.d/90-kubeproxy-py.conf",
    "tmpfiles.conf": "/etc/tmpfiles.d/kubeproxy-py.conf",
}
# The checkout, or Python, may be in a directory that the unit cannot read (a home); so the machine has them in /opt.
_LIBRARIES = "Environment=LD_LIBRARY_PATH=/opt/python/lib"
_PROGRAM = """\
#!/opt/python/bin/{python}
import sys
sys.path[:0] = ["/opt/source", "/opt/{packages}"]
from kubeproxy_py.__main__ import main
sys.exit(main())
"""
_BOOTED_S = 90.0
_LAYERS = Path("/run/systemd-host")
_CLONE_NEWCGROUP = 0x2000000


class SystemdHost:
    """A machine that runs within the `with`, in *namespace*.

    folder: its NODE_FOLDER.  options: the agent's flags.  drop_in: lines for the unit's [Service].
    """

    program = __file__  # becomes process 1 of the machine

    def __init__(self, namespace: Namespace, folder: Path, options: str, drop_in: str = "") -> None:
        self._namespace = namespace
        (folder / "environment").write_text(f"KUBEPROXY_PY_OPTIONS={options}\n")
        (folder / "drop-in").write_text(f"[Service]\n{_LIBRARIES}\n{drop_in}\n")
        self._argv = [sys.executable, self.program, str(folder)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._pid = 0

    def __enter__(self) -> Self:
        with self._namespace.inside():
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log
            )
        assert self._process.stdout
        self._pid = int(self._process.stdout.readline())
        self._wait_until_booted()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(self._pid, signal.SIGKILL)  # all processes of the namespace end with its process 1
        self._process.wait()
        self._log.close()

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run *argv* on the machine; it may fail."""
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--pid", "--cgroup", "--net", "--"]
        return subprocess.run([*enter, *argv], capture_output=True, text=True, check=False, timeout=60)

    def do(self, *argv: str) -> str:
        """Run *argv* on the machine and return its output; fail if its exit status is not 0."""
        done = self.run(*argv)
        assert done.returncode == 0, f"{argv}: {done.stderr or done.stdout}\n{self.journal()}"
        return done.stdout

    def show(self, *names: str, unit: str = UNIT) -> tuple[str, ...]:
        """Return these properties of *unit*."""
        lines = self.do("systemctl", "show", unit, *(f"--property={name}" for name in names)).splitlines()
        properties = dict(line.split("=", 1) for line in lines)
        return tuple(properties[name] for name in names)

    def add_unit(self, name: str, text: str) -> None:
        """Install the unit *name* with this *text*."""
        self.do("sh", "-ec", 'printf %s "$2" >"$1"', "sh", f"/etc/systemd/system/{name}", text)
        self.do("systemctl", "daemon-reload")

    def journal(self) -> str:
        """Return the end of the unit's log."""
        return self.run("journalctl", f"--unit={UNIT}", "--no-pager", "--output=cat", "--lines=200").stdout

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the agent's main process only."""
        self.do("systemctl", "kill", "--kill-whom=main", f"--signal={number.name}", UNIT)

    def inside_unit(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run *argv* with the unit's view of the files."""
        [pid] = self.show("MainPID")
        return self.run("nsenter", f"--target={pid}", "--mount", "--", *argv)

    def _wait_until_booted(self) -> None:
        from tests.e2e.agent_process import wait_until

        def booted() -> bool:
            return self.run("systemctl", "is-active", "basic.target").stdout.strip() == "active"

        wait_until(booted, lambda: f"systemd did not boot:\n{self._console()}", timeout_s=_BOOTED_S, poll_s=0.1)

    def _console(self) -> str:
        return os.pread(self._log.fileno(), 1 << 16, 0).decode(errors="replace")[-4000:]


def become_machine(folder: Path, make_files: Callable[[Path], None]) -> None:
    """Make the namespaces, print the pid of process 1, and end when it ends; *make_files* changes its root."""
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | _CLONE_NEWCGROUP)
    pid = os.fork()
    if pid == 0:
        linux.die_with_parent(signal.SIGKILL)
        make_files(folder)
        os.dup2(2, 1)
        os.execve(
            "/lib/systemd/systemd",
            ["systemd", "--system", "--unit=basic.target", "--log-target=console", "--show-status=no"],
            {"container": "lab", "PATH": os.environ["PATH"]},
        )
    print(pid, flush=True)
    os.waitpid(pid, 0)


def _make_files(folder: Path) -> None:
    """Give this process its own root: the lab's files, with an overlay on a tmpfs for what is written."""
    root = writable_copy(Path("/"))
    for mounted in ("/dev", "/sys", "/etc/alternatives"):  # an overlay does not contain mounts of its lower directory
        linux.mount(mounted, f"{root}{mounted}", flags=linux.MS_BIND | linux.MS_REC)
    linux.mount("cgroup2", f"{root}/sys/fs/cgroup", "cgroup2")
    for empty in (*_EMPTY, str(_UNITS)):
        (root / empty[1:]).mkdir(parents=True, exist_ok=True)
        linux.mount("tmpfs", f"{root}{empty}", "tmpfs", 0, "mode=755")
    for name, source in {"source": REPOSITORY, "python": sys.base_prefix, "venv": sys.prefix, "node": folder}.items():
        (root / "opt" / name).mkdir()
        linux.mount(str(source), f"{root}/opt/{name}", flags=linux.MS_BIND)
    (root / "run" / LAB.name).mkdir()  # the program by which iptables loads modules is there (kernel.modprobe)
    linux.mount(str(LAB), f"{root}/run/{LAB.name}", flags=linux.MS_BIND)
    _install_boot_units(root)
    _install_ours(root)
    enter(root)


def writable_copy(tree: Path) -> Path:
    """Return a folder with the files of *tree*, and an overlay on a tmpfs for what is written, in a mount namespace."""
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    _LAYERS.mkdir(exist_ok=True)
    linux.mount("tmpfs", str(_LAYERS), "tmpfs", 0, "mode=755")
    root, upper, work = (_LAYERS / name for name in ("root", "upper", "work"))
    for path in (root, upper, work):
        path.mkdir()
    subprocess.run(["modprobe", "overlay"], check=True)
    linux.mount("overlay", str(root), "overlay", 0, f"lowerdir={tree},upperdir={upper},workdir={work}")
    linux.mount("proc", f"{root}/proc", "proc")
    return root


def enter(root: Path) -> None:
    """Make *root* the root of this process."""
    os.chdir(root)
    linux.mount(".", "/", flags=linux.MS_MOVE)
    os.chroot(".")


def _install_boot_units(root: Path) -> None:
    wants = root / _UNITS.relative_to("/") / "sysinit.target.wants"
    wants.mkdir()
    for unit in _BOOT_UNITS:
        shutil.copy(_UNITS / unit, wants.parent / unit)
    for unit in _WANTED_AT_BOOT:
        (wants / unit).symlink_to(f"../{unit}")


def _install_ours(root: Path) -> None:
    for name, target in _INSTALLED.items():
        shutil.copy(_DEPLOY / name, f"{root}{target}")
    drop_ins = root / f"etc/systemd/system/{UNIT}.d"
    drop_ins.mkdir()
    node = root / NODE_FOLDER.relative_to("/")
    shutil.copy(node / "drop-in", drop_ins / "test.conf")
    shutil.copy(node / "environment", root / "etc/default/kubeproxy-py")
    program = root / "opt/kubeproxy-py/bin/kubeproxy-py"
    program.parent.mkdir(parents=True)
    packages = Path("venv", Path(sysconfig.get_path("purelib")).relative_to(sys.prefix))
    program.write_text(_PROGRAM.format(python=f"python3.{sys.version_info.minor}", packages=packages))
    program.chmod(0o755)
    for release in (LAB / "lib/modules").iterdir():
        (root / "usr/lib/modules" / release.name).symlink_to(release)


if __name__ == "__main__":
    become_machine(Path(sys.argv[1]), _make_files)
