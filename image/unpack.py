"""Unpack the image's Debian packages, of any processor, into an empty folder, and run nothing of them.

apt resolves WANTED and its dependencies for the processor against an empty machine, from the sources and keys of this
one.  Below the folder are: root, the files; control, with a folder for each package, of its scripts and tables; and two
folders with a file for each package: status, its paragraph of dpkg's status; files, the names of those in root.

Invariants:
  - Only iptables' own script is run, by this machine's shell: it makes the links of /etc/alternatives, in root.
  - The folders that are links in Debian (/bin, /lib, ...) are links in root, before a package has files there.

Usage: unpack.py PROCESSOR FOLDER, as root; PROCESSOR as dpkg names it, such as arm64
"""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
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
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_APT = """\
APT::Architecture "{processor}";
APT::Architectures {{ "{processor}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Dir::State "{folder}/state";
Dir::State::status "{folder}/no-packages";
Dir::Cache "{folder}/cache";
"""


def main(processor: str, folder: Path, wanted: Iterable[str] = WANTED) -> None:
    """Fill *folder*, which must not exist, with the packages *wanted* and their dependencies."""
    root = folder / "root"
    for name in ("root", "control", "status", "files", "state", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "no-packages").touch()
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
        (root / target).mkdir(parents=True, exist_ok=True)
    _download(processor, folder, wanted)
    for archive in sorted((folder / "cache/archives").glob("*.deb")):
        _unpack(archive, folder)
    if (folder / "control/iptables").exists():
        _link_alternatives(folder)


def _download(processor: str, folder: Path, wanted: Iterable[str]) -> None:
    settings = folder / "apt.conf"
    settings.write_text(_APT.format(processor=processor, folder=folder))
    environment = {**os.environ, "APT_CONFIG": str(settings)}
    for words in (["update"], ["install", "--yes", "--download-only", *wanted]):
        subprocess.run(["apt-get", "--quiet=2", *words], check=True, env=environment)


def _unpack(archive: Path, folder: Path) -> None:
    package = _say("dpkg-deb", "--field", str(archive), "Package")
    subprocess.run(["dpkg-deb", "--control", str(archive), str(folder / "control" / package)], check=True)
    head, _, fields = (folder / "control" / package / "control").read_text().partition("\n")
    (folder / "status" / package).write_text(f"{head}\nStatus: install ok installed\n{fields}")
    content = folder / "content.tar"
    with content.open("wb") as written:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], check=True, stdout=written)
    tar = ["tar", "--extract", "--preserve-permissions", "--keep-directory-symlink", f"--directory={folder / 'root'}"]
    subprocess.run([*tar, "--file", str(content)], check=True)
    with tarfile.open(content) as members:
        names = [_place(member.name.removeprefix("./")) for member in members if not member.isdir()]
    (folder / "files" / package).write_text("".join(f"{name}\n" for name in names))
    content.unlink()


def _place(name: str) -> str:
    """Return the path of *name* where /bin, /lib and others are links."""
    first, slash, rest = name.partition("/")
    return f"/{LINKS.get(first, first) if slash else first}{slash}{rest}"


def _link_alternatives(folder: Path) -> None:
    (folder / "root/var/lib/dpkg/alternatives").mkdir(parents=True, exist_ok=True)
    (folder / "root/var/log").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "DPKG_ROOT": str(folder / "root")}
    subprocess.run(["sh", str(folder / "control/iptables/postinst"), "configure"], check=True, env=environment)


def write_database(folder: Path, database: Path) -> None:
    """Write dpkg's database, for its tools with --admindir, in which *folder*/root has the installed files."""
    tables = database / "info"
    tables.mkdir(parents=True)
    (database / "updates").mkdir()
    (tables / "format").write_text("1\n")
    paragraphs = []
    for status in sorted((folder / "status").iterdir()):
        text = status.read_text()
        paragraphs.append(text)
        name = status.name
        if "\nMulti-Arch: same\n" in text:
            name += ":" + text.partition("\nArchitecture: ")[2].partition("\n")[0]
        files = (folder / "files" / status.name).read_text().splitlines()
        (tables / f"{name}.list").write_text("".join(f"{folder}/root{file}\n" for file in files))
        for table in (folder / "control" / status.name).iterdir():
            if table.name != "control":
                shutil.copy(table, tables / f"{name}.{table.name}")
    (database / "status").write_text("\n".join(paragraphs))


def _say(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
