"""StateFolder: how the file of saved objects is written, read and set aside."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_IMODE

import pytest

from kubeproxy_py.files import UnreadableError
from kubeproxy_py.sources.saved.content import UnusableError
from kubeproxy_py.sources.saved.folder import NAME, StateFolder


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(str(tmp_path / "lib" / "state"), lambda: "boot-1")


def mode(path: Path) -> int:
    return S_IMODE(path.stat().st_mode)


def names(folder: StateFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def test_nothing_is_there_before_something_is_written(folder: StateFolder) -> None:
    assert not folder.exists()
    assert folder.read() is None
    assert not folder.is_in_use()


def test_file_and_folder_belong_to_the_owner_only(folder: StateFolder) -> None:
    before = os.umask(0)
    try:
        folder.write([b"ab", b"", b"c"])
    finally:
        os.umask(before)
    assert (mode(folder.file), mode(folder.path)) == (0o600, 0o700)
    assert folder.read() == b"abc"
    assert folder.exists()


def test_file_is_replaced_as_a_whole(folder: StateFolder) -> None:
    folder.write([b"first"])
    reader = folder.file.open("rb")
    folder.write([b"second, which is longer"])
    with reader:
        assert reader.read() == b"first"
    assert folder.read() == b"second, which is longer"
    assert names(folder) == [NAME]


def test_file_stays_when_it_cannot_be_replaced(folder: StateFolder) -> None:
    folder.write([b"first"])

    def pieces() -> Iterator[bytes]:
        yield b"sec"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        folder.write(pieces())
    assert folder.read() == b"first"
    assert names(folder) == [NAME]


def test_rest_of_a_killed_process_is_replaced(folder: StateFolder) -> None:
    folder.write([b"first"])
    folder.file.with_name(f"{NAME}.tmp").write_bytes(b"half")
    folder.write([b"second"])
    assert folder.read() == b"second"
    assert names(folder) == [NAME]


def test_file_that_others_may_write_is_not_used(folder: StateFolder) -> None:
    folder.write([b"content"])
    folder.file.chmod(0o620)
    with pytest.raises(UnusableError, match="may be written by others"):
        folder.read()


def test_folder_that_others_may_write_is_neither_read_nor_written(folder: StateFolder) -> None:
    folder.write([b"content"])
    folder.path.chmod(0o770)
    for use in (folder.read, lambda: folder.write([b"other"]), folder.record_in_use):
        with pytest.raises(UnreadableError, match="chmod 700"):
            use()
    folder.path.chmod(0o755)  # as the kubelet creates it
    assert folder.read() == b"content"
    folder.write([b"other"])
    assert mode(folder.path) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_file_of_another_user_is_not_used(folder: StateFolder) -> None:
    folder.write([b"content"])
    os.chown(folder.file, 65534, 65534)
    with pytest.raises(UnusableError, match="belongs to the user 65534"):
        folder.read()


def test_link_and_pipe_and_folder_are_not_used(folder: StateFolder, tmp_path: Path) -> None:
    folder.path.mkdir(parents=True, mode=0o700)
    (tmp_path / "elsewhere").write_bytes(b"content")
    folder.file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnusableError, match="is a symbolic link"):
        folder.read()
    folder.file.unlink()
    os.mkfifo(folder.file, 0o600)
    with pytest.raises(UnusableError, match="is not a regular file"):
        folder.read()
    folder.file.unlink()
    folder.file.mkdir(0o700)
    with pytest.raises(UnusableError, match="is not a regular file"):
        folder.read()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_full_folder(path: Path) -> None:
    path.mkdir()
    (path / "file").touch()


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a folder that is not empty": make_full_folder,
    "a socket": make_socket,
    "a pipe": os.mkfifo,
    "a link to a file": lambda path: path.symlink_to("/etc/hostname"),
    "a link to a folder": lambda path: path.symlink_to("/etc"),
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_in_the_place_of_the_file_is_not_used_and_is_replaced(folder: StateFolder, kind: str) -> None:
    folder.path.mkdir(parents=True, mode=0o700)
    IN_THE_WAY[kind](folder.file)
    assert folder.exists()
    with pytest.raises(UnusableError, match="is a symbolic link" if "link" in kind else "is not a regular file"):
        folder.read()
    folder.write([b"content"])  # also where it was not set aside before
    assert folder.read() == b"content"
    assert (Path("/etc/hostname").is_file(), Path("/etc").is_dir()) == (True, True)


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_in_the_place_of_the_file_is_set_aside(folder: StateFolder, kind: str) -> None:
    folder.path.mkdir(parents=True, mode=0o700)
    for number in range(2):
        IN_THE_WAY[kind](folder.file)
        folder.set_aside(f"2026010{number}")
    assert not folder.exists()
    kept = 2 if kind == "a folder that is not empty" else 1
    assert len(names(folder)) == kept


@pytest.mark.parametrize("name", [f"{NAME}.tmp", "in-use", "in-use.tmp"])
@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_in_the_place_of_another_file_is_replaced(folder: StateFolder, kind: str, name: str) -> None:
    folder.path.mkdir(parents=True, mode=0o700)
    IN_THE_WAY[kind](folder.path / name)
    assert not folder.is_in_use()
    folder.write([b"content"])
    folder.record_in_use()
    assert (folder.read(), folder.is_in_use()) == (b"content", True)


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_record_of_use_that_is_none_is_revoked(folder: StateFolder, kind: str) -> None:
    folder.path.mkdir(parents=True, mode=0o700)
    IN_THE_WAY[kind](folder.path / "in-use")
    folder.revoke_in_use()
    assert not os.path.lexists(folder.path / "in-use")


def test_path_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = StateFolder(str(tmp_path / "file"))
    with pytest.raises(UnreadableError, match="Not a directory"):
        folder.read()
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        folder.write([b"content"])


def test_only_the_last_file_that_was_set_aside_is_kept(folder: StateFolder) -> None:
    for number in range(3):
        folder.write([f"bad {number}".encode()])
        aside = folder.set_aside(f"2026010{number}")
    assert names(folder) == [f"{NAME}.bad-20260102"]
    assert aside.read_bytes() == b"bad 2"
    assert folder.read() is None


def test_record_of_use_is_of_one_boot_and_can_be_revoked(folder: StateFolder) -> None:
    folder.record_in_use()
    assert folder.is_in_use()
    assert not StateFolder(str(folder.path), lambda: "boot-2").is_in_use()
    folder.revoke_in_use()
    assert not folder.is_in_use()
    folder.revoke_in_use()  # twice is no error


def test_this_boot_is_recognized_by_the_kernels_id(tmp_path: Path) -> None:
    StateFolder(str(tmp_path / "state")).record_in_use()
    assert StateFolder(str(tmp_path / "state")).is_in_use()
    assert len((tmp_path / "state" / "in-use").read_text()) == 36
