"""Build the image from the Dockerfile by buildah, without daemon, container engine or registry.

Invariants:
  - The result depends only on the checkout, the time of its last commit and Debian's archive.  The machine's
    certificate authorities and pip settings are used, but are not part of the image.
  - All output is in build/image: kubeproxy-py.tar, an OCI archive for podman, skopeo and `ctr image import`; its bill
    of materials; and the base image.  Those for another processor than this machine's have its name:
    kubeproxy-py-arm64.tar.
  - An image of this commit that is younger than a day is not built again.

Usage: python3 -m image.build [--processor=arm64] [BASE], as root.  BASE is an image of a registry; without it a base is
made from Debian's archive, and again when it is a day old.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

from image import bill
from image.archive import Archive, describe
from image.wheels import MACHINES
from kubeproxy_py import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "build/image"
_BASE = FOLDER / "base.tar"
_MAX_AGE_S = 24 * 3600
_STORAGE = FOLDER / "storage"
_BUILDAH = ("buildah", "--root", str(_STORAGE), "--runroot", str(_STORAGE / "run"), "--storage-driver", "vfs")
_BASE_NAME = "localhost/kubeproxy-py-base"
_MANIFEST = REPOSITORY / "deploy/daemonset.yaml"
# Variables by which a machine sets its certificate authorities and pip's settings; the last one that is set wins.
_SECRETS = {"ca": ("SSL_CERT_FILE", "PIP_CERT"), "pip.conf": ("PIP_CONFIG_FILE",)}
_INPUTS = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "image", "kubeproxy_py")


def main() -> None:
    """Build the image and print its description."""
    parser = argparse.ArgumentParser(prog="python3 -m image.build")
    parser.add_argument("--processor", default=own_processor(), choices=MACHINES)
    parser.add_argument("base", nargs="?")
    options = parser.parse_args()
    path = archive_path(options.processor)
    began_s = time.monotonic()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not options.base and is_of(path, _revision()):
        print(f"{path.relative_to(REPOSITORY)} is of this commit already\n{describe(Archive(path))}")
        return
    try:
        build(options.base, options.processor, os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))
    finally:
        shutil.rmtree(_STORAGE, ignore_errors=True)
    archive = Archive(path)
    with archive.layer() as files:
        path.with_suffix(".cdx.json").write_bytes(_content(files, bill.PLACE))
    _give_to_caller()
    print(f"{path.relative_to(REPOSITORY)}, built in {time.monotonic() - began_s:.0f} s\n{describe(archive)}")


def own_processor() -> str:
    """Return this machine's processor, as dpkg names it."""
    return next(name for name, machine in MACHINES.items() if machine == platform.machine())


def archive_path(processor: str) -> Path:
    """Return the file of the image for *processor*."""
    return FOLDER / ("kubeproxy-py.tar" if processor == own_processor() else f"kubeproxy-py-{processor}.tar")


def is_of(path: Path, revision: str) -> bool:
    """Return whether *path* is an image of the clean commit *revision*, and so young that Debian has nothing newer."""
    if revision.endswith("-dirty") or not path.exists() or time.time() - path.stat().st_mtime > _MAX_AGE_S:
        return False
    return bool(Archive(path).config["config"]["Labels"]["org.opencontainers.image.revision"] == revision)


def build(base: str | None, processor: str, epoch: str) -> None:
    """Write the archive of *processor*; *epoch* is the time of its files in seconds since 1970."""
    image, path = _name(), archive_path(processor)
    arguments = {
        "BASE": base or _make_base(processor, epoch),
        "BUILDPLATFORM": f"linux/{processor}",  # see _make_base
        "TARGETARCH": processor,
        "SOURCE_DATE_EPOCH": epoch,
        "VERSION": __version__,
        "REVISION": _revision(),
    }
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    words += [word for name, file in _secrets().items() for word in ("--secret", f"id={name},src={file}")]
    words += ["--platform", f"linux/{processor}", "--isolation=chroot", "--timestamp", epoch]
    _run(*_BUILDAH, "bud", "--tag", image, *words, str(REPOSITORY))
    path.unlink(missing_ok=True)
    _run(*_BUILDAH, "push", "--quiet", image, f"oci-archive:{path}:{image}")


def _name() -> str:
    """Return the image name of the manifest, so that a node that has the image does not pull it."""
    match = re.search(r"image: (\S+)", _MANIFEST.read_text())
    assert match, f"{_MANIFEST} names no image"
    return match[1]


def _make_base(processor: str, epoch: str) -> str:
    """Make the base image from Debian's archive, unless there is a recent one, and return its name.

    Its programs are this machine's.  Its label is *processor*, because Debian 12's buildah runs a stage only on a base
    that has the label of the image.
    """
    if not _BASE.exists() or time.time() - _BASE.stat().st_mtime > _MAX_AGE_S:
        _run("mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(_BASE), SOURCE_DATE_EPOCH=epoch)
    container = _say(*_BUILDAH, "from", "scratch")
    _run(*_BUILDAH, "add", "--quiet", container, str(_BASE), "/")
    _run(*_BUILDAH, "config", "--arch", processor, container)
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
    main()
