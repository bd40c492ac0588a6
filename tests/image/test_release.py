"""The files of a release: named, described, with checksums, and the same bytes for the same commit."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from image import release
from kubeproxy_py import __version__

CHANGELOG = """\
# Changelog

## 1.1.0 (2026-12-01)

### Added

- Something ([page](docs/page.md), [site](https://example.org/)).

## 1.0.0 (2026-11-01)

- Older.
"""


def sdist(order: list[str], mtime: int, owner: str) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as files:
        for name in order:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname, member.uid, member.mode = 4, mtime, owner, mtime % 1000, 0o664
            files.addfile(member, io.BytesIO(b"text"))
    return written.getvalue()


def test_source_archives_of_one_commit_have_the_same_bytes() -> None:
    first = release.reproducible(sdist(["x/a", "x/b"], 1_000_000_001, "alice"), 86_400)
    second = release.reproducible(sdist(["x/b", "x/a"], 1_000_000_777, "bob"), 86_400)
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(first))) as files:
        assert [(member.name, member.mtime, member.uname, member.mode) for member in files] == [
            ("x/a", 86_400, "", 0o644),
            ("x/b", 86_400, "", 0o644),
        ]
        assert files.extractfile("x/a").read() == b"text"  # type: ignore[union-attr]


def test_image_is_named_for_its_version_and_architecture() -> None:
    assert release.image_name("arm64") == f"kubeproxy-py-{__version__}-image-arm64.tar"


def test_notes_have_the_changes_of_the_version_and_links_that_lead_somewhere() -> None:
    changes = release.changes_of(CHANGELOG, "1.1.0")
    assert "Something" in changes
    assert "Older" not in changes
    names = ["kubeproxy_py-1.1.0-py3-none-any.whl", "kubeproxy-py_1.1.0_amd64.deb", "kubeproxy-py_1.1.0_arm64.deb"]
    text = release.notes(changes, names, {"one.tar": "sha256:ab", "other.tar": "sha256:cd"})
    assert f"(https://github.com/example/kubeproxy-py/blob/v{__version__}/docs/page.md)" in text
    assert "(https://example.org/)" in text
    assert "| `kubeproxy-py_1.1.0_amd64.deb` | for Debian 12 on amd64 |" in text
    assert "| `kubeproxy-py_1.1.0_arm64.deb` | for Debian 12 on arm64 |" in text
    assert "| `one.tar` | `sha256:ab` |\n| `other.tar` | `sha256:cd` |" in text


def test_a_file_that_nobody_described_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"surprise\.bin"):
        release.notes("", ["surprise.bin"], {})


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert release.checksums([path]) == f"{hashlib.sha256(b'content').hexdigest()}  file\n"
