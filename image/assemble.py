"""Copy Debian packages, without documentation, and the agent into an empty folder, the image's root.

Each file of the image is in a package of WANTED or its dependencies, in the agent's own folder, or written here.
dpkg itself is left out; scanners read /var/lib/dpkg/status.d, which has a file for each package.

Usage: python3 -m image.assemble PACKAGES ROOT; PACKAGES is what unpack.py made
"""

import re
import shutil
import sys
from pathlib import Path

from image.unpack import LINKS, WANTED

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
    **LINKS,
    "var/lock": "/run/lock",
    "var/run": "/run",
    "usr/local/bin/kubeproxy-py": "kube-proxy",
}
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nprotocols: files\nservices: files\n",
}


def main(packages: Path, root: Path) -> None:
    """Create *root*, which must not exist."""
    root.mkdir()
    _lay_out(root)
    for package in _with_dependencies(packages / "status"):
        for name in _files(packages, package):
            _copy(packages / "root", name, root)
        _write(root / "var/lib/dpkg/status.d" / package, (packages / "status" / package).read_text())
    for link in (packages / "root/etc/alternatives").glob("*ip*tables*"):
        _copy(packages / "root", f"/etc/alternatives/{link.name}", root)
        _copy(packages / "root", f"/usr/sbin/{link.name}", root)
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


def _with_dependencies(status: Path) -> list[str]:
    """Return WANTED and their dependencies, sorted; of alternatives the unpacked one."""
    dependencies = _dependencies(status)
    packages: set[str] = set()
    waiting = list(WANTED)
    while waiting:
        package = waiting.pop()
        if package not in packages:
            packages.add(package)
            waiting += [name for name in dependencies[package] if name not in UNNEEDED]
    return sorted(packages)


def _dependencies(status: Path) -> dict[str, list[str]]:
    """Return, for each unpacked package, the unpacked packages that it depends on."""
    fields = {path.name: _fields(path.read_text()) for path in status.iterdir()}
    provided = {name: package for package, own in fields.items() for name in _names(own["Provides"].replace(",", "|"))}
    provided |= {package: package for package in fields}
    groups = {
        package: [_names(group) for group in f"{own['Pre-Depends']},{own['Depends']}".split(",")]
        for package, own in fields.items()
    }
    return {
        package: [next(provided[name] for name in group if name in provided) for group in alternatives if group]
        for package, alternatives in groups.items()
    }


def _fields(paragraph: str) -> dict[str, str]:
    """Return the fields of dependencies in *paragraph*, "" for those that it does not have."""
    found = dict(re.findall(r"^(Provides|Pre-Depends|Depends): (.*)", paragraph, re.MULTILINE))
    return {"Provides": "", "Pre-Depends": "", "Depends": ""} | found


def _names(alternatives: str) -> list[str]:
    """Return the package names of alternatives, such as [a, b] for `a (>= 1) | b:any`."""
    return [re.split(r"[ (:]", package.strip())[0] for package in alternatives.split("|") if package.strip()]


def _files(packages: Path, package: str) -> list[str]:
    """Return the files and links of *package* without its documentation."""
    names = (packages / "files" / package).read_text().splitlines()
    return [name for name in names if not _DOCUMENTATION.match(name)]


def _copy(source: Path, name: str, root: Path) -> None:
    """Copy the file or link *name* to the same place below *root*, where /lib and others are links too."""
    target = root / name[1:]
    if target.is_symlink():  # one of _LINKS, which is in base-files too
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / name[1:], target, follow_symlinks=False)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
