"""Files that an operator named: each fault of a path is reported with its remedy."""

from pathlib import Path

import pytest

from kubeproxy_py.files import UnreadableError, read_file
from tests.unreadable import UNREADABLE, as_nobody, make_unreadable


@pytest.mark.parametrize(("kind", "message"), UNREADABLE.items())
def test_a_path_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path, kind: str, message: str) -> None:
    path = make_unreadable(tmp_path, kind)
    with as_nobody(tmp_path), pytest.raises(UnreadableError, match=message):
        read_file(path, 10)


def test_at_most_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 20)
    assert read_file(tmp_path / "file", 10) == b"x" * 10


def test_the_home_folder_of_nobody_is_named() -> None:
    with pytest.raises(UnreadableError, match="the home directory of nobody here"):
        read_file("~no-such-user/config", 10)


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config").write_bytes(b"x")
    assert read_file("~/config", 10) == b"x"
