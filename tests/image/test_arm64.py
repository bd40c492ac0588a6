"""Image and Debian package for arm64, by qemu-user: they plan what this machine plans (`make test-qemu`)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from image import arm64
from image.archive import Archive
from image.build import archive_path
from image.deb import package_path
from kubeproxy_py import __version__
from lab.job import REPOSITORY
from tests.image.container import built_image

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

_Run = Callable[..., subprocess.CompletedProcess[str]]
_PLAN = ("plan", "--assume-empty", "--output=json", "--hostname-override=node-a")
# Names of the two processors in paths, in one form.
_NAMES = re.compile(r"x86_64|x86-64|amd64|aarch64|arm64")
_ELF_AARCH64 = b"\xb7\x00"  # e_machine, at byte 18
# The loader has a name of its own on each processor, and Debian 12's C library has vector functions on amd64 only.
_OF_ONE = re.compile(r"^usr/lib64$|/ld-linux-|/libmvec\.so\.1$")


def built() -> Archive:
    path = archive_path(arm64.PROCESSOR)
    if not path.exists():
        pytest.fail(f"{path} not found; hint: make image-arm64", pytrace=False)
    return Archive(path)


def test_image_is_for_arm64() -> None:
    assert (built().config["architecture"], built().config["os"]) == ("arm64", "linux")


def test_every_program_and_library_of_the_image_is_of_arm64() -> None:
    wrong, count = [], 0
    with built().layer() as files:
        for member in files:
            file = files.extractfile(member) if member.isfile() else None
            head = file.read(20) if file else b""
            if head[:4] == b"\x7fELF":
                count += 1
                wrong += [member.name] * (head[18:20] != _ELF_AARCH64)
    assert count > 100
    assert not wrong


def names(files: tarfile.TarFile) -> set[str]:
    return {_NAMES.sub("CPU", name) for name in files.getnames() if not _OF_ONE.search(name)}


def test_image_has_the_same_files_as_that_of_this_machine() -> None:
    with built().layer() as there, built_image().layer() as here:
        assert names(there) ^ names(here) == set()


def test_programs_of_both_images_have_the_same_capabilities() -> None:
    marked = []
    for image in (built(), built_image()):
        with image.layer() as files:
            key = "SCHILY.xattr.security.capability"
            marked.append({member.name: member.pax_headers[key] for member in files if key in member.pax_headers})
    assert marked[0] == marked[1] != {}


def test_the_interpreter_and_the_libraries_run_on_arm64() -> None:
    done = arm64.run_python("-c", "import platform, msgspec._core; print(platform.machine())")
    assert (done.returncode, done.stdout) == (0, "aarch64\n"), done.stderr


AGENTS = {"image": arm64.run_agent, "package": arm64.run_packaged}


@pytest.mark.parametrize("run_agent", AGENTS.values(), ids=AGENTS)
def test_version_is_that_of_the_checkout(run_agent: _Run) -> None:
    done = run_agent("--version")
    assert (done.returncode, done.stdout) == (0, f"kubeproxy-py {__version__}\n"), done.stderr


@pytest.mark.parametrize("run_agent", AGENTS.values(), ids=AGENTS)
def test_plan_of_an_empty_node_is_the_same_on_both_processors(run_agent: _Run) -> None:
    there = run_agent(*_PLAN, f"--manifests={arm64.MANIFESTS}")
    argv = [sys.executable, "-m", "kubeproxy_py", *_PLAN, "--manifests=deploy/examples"]
    here = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (there.returncode, here.returncode) == (2, 2), there.stderr
    assert len(json.loads(here.stdout)) > 100
    assert json.loads(there.stdout) == json.loads(here.stdout)


def test_package_has_no_program_of_another_processor(tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", str(package_path(arm64.PROCESSOR)), str(tmp_path)], check=True)
    heads = {path.name: path.read_bytes()[:20] for path in tmp_path.rglob("*.so") if path.is_file()}
    assert heads
    assert {head[18:20] for head in heads.values()} == {_ELF_AARCH64}


def test_package_depends_on_what_its_libraries_need() -> None:
    words = ["dpkg-deb", "--field", str(package_path(arm64.PROCESSOR)), "Architecture", "Depends"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.startswith("Architecture: arm64\nDepends: libc6 (>= 2.")


def test_lintian_finds_nothing_but_what_is_overridden_with_a_reason() -> None:
    changes = package_path(arm64.PROCESSOR).with_suffix(".changes")
    words = ["lintian", "--fail-on=error,warning", "--allow-root", str(changes)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
