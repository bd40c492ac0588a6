"""Build the image from the Dockerfile by buildah, without daemon, container engine or registry.

Invariants:
  - The result depends only on the checkout, the time of its last commit and Debian's archive.  The machine's
    certificate authorities and pip settings are used, but are not part of the image.
  - All output is in build/image: kubeproxy-py.tar, an OCI archive for podman, skopeo and `ctr image import`; its bill
    of materials; and the base image.

Usage: python3 -m image.build [BASE], as root.  BASE is an image of a registry; without it a base is made from Debian's
archive, and again when it is a day old.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from image import bill
from image.archive import Archive, describe
from kubeproxy_py import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "build/image"
ARCHIVE = FOLDER / "kubeproxy-py.tar"
BILL = FOLDER / "kubeproxy-py.cdx.json"
_BASE = FOLDER / "base.tar"
_BASE_MAX_AGE_S = 24 * 3600
_STORAGE = FOLDER / "storage"
_BUILDAH = ("buildah", "--root", str(_STORAGE), "--runroot", str(_STORAGE / "run"), "--storage-driver", "vfs")
_BASE_NAME = "localhost/kubeproxy-py-base"
_MANIFEST = REPOSITORY / "deploy/daemonset.yaml"
# Variables by which a machine sets its certificate authorities and pip's settings; the last one that is set wins.
_SECRETS = {"ca": ("SSL_CERT_FILE", "PIP_CERT"), "pip.conf": ("PIP_CONFIG_FILE",)}
_INPUTS = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "image", "kubeproxy_py")


def main(base: str | None) -> None:
    """Build the image and print its description."""
    began_s = time.monotonic()
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        build(base, os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))
    finally:
        shutil.rmtree(_STORAGE, ignore_errors=True)
    archive = Archive(ARCHIVE)
    with archive.layer() as files:
        BILL.write_bytes(_content(files, bill.PLACE))
    _give_to_caller()
    print(f"{ARCHIVE.relative_to(REPOSITORY)}, built in {time.monotonic() - began_s:.0f} s\n{describe(archive)}")


def build(base: str | None, epoch: str) -> None:
    """Write ARCHIVE; *epoch* is the time of its files in seconds since 1970."""
    image = _name()
    arguments = {
        "BASE": base or _make_base(epoch),
        "SOURCE_DATE_EPOCH": epoch,
        "VERSION": __version__,
        "REVISION": _revision(),
    }
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    words += [word for name, path in _secrets().items() for word in ("--secret", f"id={name},src={path}")]
    _run(*_BUILDAH, "bud", "--isolation=chroot", "--timestamp", epoch, "--tag", image, *words, str(REPOSITORY))
    ARCHIVE.unlink(missing_ok=True)
    _run(*_BUILDAH, "push", "--quiet", image, f"oci-archive:{ARCHIVE}:{image}")


def _name() -> str:
    """Return the image name of the manifest, so that a node that has the image does not pull it."""
    match = re.search(r"image: (\S+)", _MANIFEST.read_text())
    assert match, f"{_MANIFEST} names no image"
    return match[1]


def _make_base(epoch: str) -> str:
    """Make the base image from Debian's archive, unless there is a recent one, and return its name."""
    if not _BASE.exists() or time.time() - _BASE.stat().st_mtime > _BASE_MAX_AGE_S:
        _run("mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(_BASE), SOURCE_DATE_EPOCH=epoch)
    container = _say(*_BUILDAH, "from", "scratch")
    _run(*_BUILDAH, "add", "--quiet", container, str(_BASE), "/")
    _run(*_BUILDAH, "commit", "--quiet", "--rm", "--timestamp", epoch, container, _BASE_NAME)
    return _BASE_NAME


def _secrets() -> dict[str, str]:
    """Return the file of each secret that this machine has."""
    named = ((name, os.environ.get(variable, "")) for name, variables in _SECRETS.items() for variable in variables)
    return {name: path for name, path in named if Path(path).is_file()}


def _revision() -> str:
    """Return the commit, with the suffix -dirty if the image's inputs differ from it."""
    changed = _git("status", "--porcelain", "--", *_INPUTS)
    return _git("rev-parse", "HEAD") + ("-dirty" if changed else "")


def _give_to_caller() -> None:
    """Change the owner of what sudo made to its caller, so that `make clean` can remove it."""
    uid, gid = (int(os.environ.get(name, "0")) for name in ("SUDO_UID", "SUDO_GID"))
    for path in (FOLDER.parent, FOLDER, *FOLDER.iterdir()):
        os.chown(path, uid, gid)


def _content(files: tarfile.TarFile, name: str) -> bytes:
    file = files.extractfile(name)
    assert file, f"{name} is not a file"
    return file.read()


def _git(*words: str) -> str:
    return _say("git", "-c", f"safe.directory={REPOSITORY}", "-C", str(REPOSITORY), *words)


def _say(*words: str) -> str:
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _run(*words: str, **env: str) -> None:
    subprocess.run(words, check=True, env={**os.environ, **env})


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
