"""Build a release into dist/: wheel, sdist, Debian package, images, bill of materials, notes and checksums.

Invariants:
  - Everything depends only on the commit, its time and Debian's archive; the same commit gives the same bytes
    as long as Debian publishes no update.
  - What the checksums name is all that is in dist/.

Usage: python3 -m image.release.  `make release` builds image and package first.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from image.archive import Archive
from kubeproxy_py import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
DIST = REPOSITORY / "dist"
CHECKSUMS = "SHA256SUMS"
NOTES = "RELEASE-NOTES.md"
_IMAGES = REPOSITORY / "build/image"
_PACKAGES = REPOSITORY / "build/deb"
_NOTES = """\
# kubeproxy-py {version}

{changes}

## Files

| file | |
|---|---|
{files}

`sha256sum --check SHA256SUMS` checks them. docs/install-kubeadm.md describes how to load, push and set an image by its
digest:

| image | digest |
|---|---|
{digests}
"""
_ABOUT = (
    (r"\.whl$", "for pip, on any Linux with Python 3.11 or newer"),
    (r"\.tar\.gz$", "the source"),
    (r"_(\w+)\.deb$", "for Debian 12 on {0}"),
    (r"-image-(\w+)\.tar$", "the container image for {0}, an OCI archive"),
    (r"-image-(\w+)\.cdx\.json$", "the bill of materials of the image for {0}, CycloneDX 1.6"),
)


def main() -> None:
    """Write the release."""
    epoch = commit_time()
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    words = [sys.executable, "-m", "build", "--quiet", "--no-isolation", "--outdir", str(DIST), str(REPOSITORY)]
    subprocess.run(words, check=True, env=environment)
    for path in DIST.glob("*.tar.gz"):
        path.write_bytes(reproducible(path.read_bytes(), int(epoch)))
    for path in _PACKAGES.glob(f"kubeproxy-py_{__version__}_*.deb"):
        shutil.copy(path, DIST)
    digests = {}
    for path in sorted(_IMAGES.glob("kubeproxy-py*.tar")):
        archive = Archive(path)
        named = DIST / image_name(str(archive.config["architecture"]))
        digests[named.name] = archive.digest
        shutil.copy(path, named)
        shutil.copy(path.with_suffix(".cdx.json"), named.with_suffix(".cdx.json"))
    changes = changes_of(REPOSITORY.joinpath("CHANGELOG.md").read_text(), __version__)
    (DIST / NOTES).write_text(notes(changes, sorted(path.name for path in DIST.iterdir()), digests))
    (DIST / CHECKSUMS).write_text(checksums(sorted(DIST.iterdir())))
    print((DIST / CHECKSUMS).read_text(), end="")


def image_name(architecture: str) -> str:
    """Return the name of the image for *architecture* in a release."""
    return f"kubeproxy-py-{__version__}-image-{architecture}.tar"


def commit_time() -> str:
    """Return SOURCE_DATE_EPOCH, else the time of the last commit, in seconds since 1970."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    words = ["git", "-c", f"safe.directory={REPOSITORY}", "-C", str(REPOSITORY), "log", "-1", "--format=%ct"]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def reproducible(content: bytes, epoch_s: int) -> bytes:
    """Return the sdist *content* with one time, owner and order: setuptools takes them from the checkout."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as before, tarfile.open(fileobj=plain, mode="w") as after:
        for member in sorted(before, key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch_s, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            after.addfile(member, before.extractfile(member) if member.isfile() else None)
    return gzip.compress(plain.getvalue(), mtime=epoch_s)


def changes_of(changelog: str, version: str) -> str:
    """Return the section of *version*, or that of what is not released yet, without its heading."""
    sections = dict(re.findall(r"^## (\S+)[^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL))
    return str(sections.get("Unreleased") or sections[version]).strip()


def notes(changes: str, names: Iterable[str], digests: Mapping[str, str]) -> str:
    """Return the notes of the release that has the files *names*, and the images of *digests*."""
    rows = "\n".join(f"| `{name}` | {_about(name)} |" for name in names)
    listed = "\n".join(f"| `{name}` | `{digest}` |" for name, digest in digests.items())
    # Links are relative to the repository in the changelog, and lead nowhere from a release.
    home = f"https://github.com/example/kubeproxy-py/blob/v{__version__}/"
    absolute = re.sub(r"\]\((?!https?:|#)", f"]({home}", changes)
    return _NOTES.format(version=__version__, changes=absolute, files=rows, digests=listed)


def _about(name: str) -> str:
    for pattern, text in _ABOUT:
        if match := re.search(pattern, name):
            return text.format(*match.groups())
    raise ValueError(f"{name} is not described")


def checksums(paths: Iterable[Path]) -> str:
    """Return *paths* as sha256sum prints them."""
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)


if __name__ == "__main__":
    main()
