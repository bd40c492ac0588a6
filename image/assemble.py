"""Copy Debian packages, without documentation, and the agent into an empty folder, the image's root.

Each file of the image is in a package of WANTED or its dependencies, in the agent's own folder, or written here.
dpkg itself is left out; scanners read /var/lib/dpkg/status.d, which has a file for each package.

Usage: assemble.py ROOT
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

WANTED = {
    "base-files": "the distribution's name, which scanners read",
    "ipset": "for kernels where ip_set cannot be used by netlink",
    "iptables": "both backends; the node decides which one is used",
    "kmod": "modprobe, for which /lib/modules is mounted",
    "ncurses-base": "descriptions of terminals, for kubeproxy-py top",
    "netbase": "names of protocols and ports, which iptables prints",
    "python3.11": "the interpreter and its library",
}
UNNEEDED = {
    "dpkg": "readline-common's scripts call it at installation",
    "mawk": "base-files' scripts call it at installation",
}
AGENT = "/opt/kubeproxy-py"
ENTRY = "usr/local/bin/kube-proxy"  # the path in kubeadm's DaemonSet
_DOCUMENTATION = re.compile(
    r"/usr/share/(doc/.*/(?!copyright$)[^/]*$|man/|info/|lintian/|bug/|doc-base/|locale/|bash-completion/)"
)
_FOLDERS = {  # empty mount points, with their modes: they cannot be created on a read-only root
    "dev": 0o755,
    "proc": 0o755,
    "sys": 0o755,
    "run": 0o755,
    "tmp": 0o1777,
    "usr/lib/modules": 0o755,
    "var/lib/kube-proxy": 0o755,
}
_LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "var/run": "/run",
    "usr/local/bin/kubeproxy-py": "kube-proxy",
}
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nprotocols: files\nservices: files\n",
}


def main(root: Path) -> None:
    """Create *root*, which must not exist."""
    root.mkdir()
    _lay_out(root)
    for package in _with_dependencies():
        for path in _files(package):
            _copy(path, root)
        _write(root / "var/lib/dpkg/status.d" / package, _say("dpkg-query", "--status", package))
    for link in Path("/etc/alternatives").glob("*ip*tables*"):
        _copy(link, root)
        _copy(Path("/usr/sbin") / link.name, root)
    shutil.copytree(AGENT, root / AGENT[1:], symlinks=True)
    shutil.copy(Path(__file__).with_name("entry.py"), root / ENTRY)
    (root / ENTRY).chmod(0o755)


def _lay_out(root: Path) -> None:
    for name, mode in _FOLDERS.items():
        (root / name).mkdir(parents=True)
        (root / name).chmod(mode)
    for name, text in _TEXTS.items():
        _write(root / name, text)
    for name, target in _LINKS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)


def _with_dependencies() -> list[str]:
    """Return WANTED and their dependencies, sorted; of alternatives the installed one."""
    dependencies = _dependencies()
    packages: set[str] = set()
    waiting = list(WANTED)
    while waiting:
        package = waiting.pop()
        if package not in packages:
            packages.add(package)
            waiting += [name for name in dependencies[package] if name not in UNNEEDED]
    return sorted(packages)


def _dependencies() -> dict[str, list[str]]:
    """Return, for each installed package, the installed packages that it depends on."""
    fields = "${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    rows = [line.split("\t") for line in _say("dpkg-query", "--show", "--showformat", fields).splitlines()]
    provided = {name: package for package, _, provides in rows for name in _names(provides.replace(",", "|"))}
    provided |= {package: package for package, _, _ in rows}
    groups = {package: [_names(group) for group in depends.split(",")] for package, depends, _ in rows}
    return {
        package: [next(provided[name] for name in group if name in provided) for group in alternatives if group]
        for package, alternatives in groups.items()
    }


def _names(alternatives: str) -> list[str]:
    """Return the package names of alternatives, such as [a, b] for `a (>= 1) | b:any`."""
    return [re.split(r"[ (:]", package.strip())[0] for package in alternatives.split("|") if package.strip()]


def _files(package: str) -> list[Path]:
    """Return the files and links of *package* without its documentation."""
    paths = map(Path, _say("dpkg-query", "--listfiles", package).splitlines())
    return [path for path in paths if not _DOCUMENTATION.match(str(path)) and (path.is_symlink() or path.is_file())]


def _copy(path: Path, root: Path) -> None:
    """Copy the file or link *path* to the same place below *root*, where /lib and others are links too."""
    target = root / str(path.parent.resolve())[1:] / path.name
    if target.is_symlink():  # one of _LINKS, which is in base-files too
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target, follow_symlinks=False)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _say(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
