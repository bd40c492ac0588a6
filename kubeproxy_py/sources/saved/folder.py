"""StateFolder: the file of saved objects on disk, and the record that they are in use.

Invariants:
- The file is replaced as a whole (written to another one, synced, renamed, the folder synced), so after a crash at any
  moment it is the old one or the new one.
- Only the owner and root can have written what is read: a file that others may write, that is not a regular one, or
  that is reached by a link, is not used.  Whatever else is in its place (a folder, a socket) does not keep the next
  one from being written.
- Of the files that cannot be used one is kept, for whoever wants to know why.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import ELOOP
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG, S_IWGRP, S_IWOTH

from kubeproxy_py.files import UnreadableError, read_file
from kubeproxy_py.sources.saved.content import PACKED_MAX_BYTES, UnusableError

NAME = "objects.json.gz"
_IN_USE = "in-use"
_IN_USE_MAX_BYTES = 100
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700
_OTHERS_MAY_WRITE = S_IWGRP | S_IWOTH


class StateFolder:
    """The folder *path*, which is created when something is written.

    Attributes:
        file: The path of the file of saved objects.
    """

    def __init__(self, path: str, boot_id: Callable[[], str] = lambda: _BOOT_ID.read_text().strip()) -> None:
        self.path = Path(path)
        self.file = self.path / NAME
        self._boot_id = boot_id

    # The file

    def exists(self) -> bool:
        """Return whether there is a file; false if that cannot be determined."""
        with suppress(OSError, ValueError):
            return os.path.lexists(self.file)  # a link that leads nowhere is one that nobody should have made
        return False

    def read(self) -> bytes | None:
        """Return the file; None if there is none.

        Raises:
            UnusableError: It is not one that this agent wrote.
            UnreadableError: It cannot be read now.
        """
        try:
            self._require_private(self.path.stat().st_mode, self.path)
            if not S_ISLNK(mode := self.file.lstat().st_mode):
                self._require_regular(mode)  # before it is opened, which a socket refuses and a device may notice
            descriptor = os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._require_ours(os.fstat(descriptor))
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    return file.read(PACKED_MAX_BYTES + 1)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == ELOOP:
                raise UnusableError("is a symbolic link", "find out who made it") from None
            raise UnreadableError(error.strerror or type(error).__name__, f"check {self.file}") from None

    def _require_regular(self, mode: int) -> None:
        if not S_ISREG(mode):
            raise UnusableError("is not a regular file", f"remove {self.file}")

    def _require_ours(self, status: os.stat_result) -> None:
        self._require_regular(status.st_mode)
        if status.st_uid not in (0, os.geteuid()):
            raise UnusableError(f"belongs to the user {status.st_uid}", "find out who wrote it")
        if status.st_mode & _OTHERS_MAY_WRITE:
            raise UnusableError("may be written by others than its owner", "find out who changed its mode")

    @staticmethod
    def _require_private(mode: int, folder: Path) -> None:
        if mode & _OTHERS_MAY_WRITE:
            raise UnreadableError(f"the directory {folder} may be written by others", f"chmod 700 {folder}")

    def write(self, pieces: Iterable[bytes]) -> None:
        """Replace the file by *pieces*.

        Raises:
            UnreadableError: The folder may be written by others.
            OSError: It cannot be written.
        """
        self._make_folder()
        self._replace(self.file, pieces)

    def set_aside(self, now: str) -> Path:
        """Rename the file, for an administrator to look at, and return its new path; *now* becomes part of its name.

        Raises:
            OSError: It cannot be renamed.
        """
        aside = self.path / f"{NAME}.bad-{now}"
        for old in self.path.glob(f"{NAME}.bad-*"):
            _remove(old)
        self.file.rename(aside)
        self._sync_folder()
        return aside

    # The record that saved objects are in use

    def record_in_use(self) -> None:
        """Record that the kernel has, since this boot, what the saved objects say and nothing newer.

        Raises:
            UnreadableError: As write.
            OSError: It cannot be recorded.
        """
        self._make_folder()
        self._replace(self.path / _IN_USE, [self._boot_id().encode()])

    def is_in_use(self) -> bool:
        """Return whether that was recorded, and not revoked, since this boot."""
        try:
            return read_file(self.path / _IN_USE, _IN_USE_MAX_BYTES).decode() == self._boot_id()
        except (UnreadableError, OSError, ValueError):
            return False

    def revoke_in_use(self) -> None:
        """Record that the kernel is about to get something newer.  Raises OSError."""
        _move_folder_away(self.path / _IN_USE)
        (self.path / _IN_USE).unlink(missing_ok=True)

    # Parts

    def _make_folder(self) -> None:
        self.path.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
        self._require_private(self.path.stat().st_mode, self.path)

    def _replace(self, target: Path, pieces: Iterable[bytes]) -> None:
        temporary = target.with_name(f"{target.name}.tmp")
        try:
            for place in (temporary, target):
                _move_folder_away(place)
            temporary.unlink(missing_ok=True)  # of a process that was killed
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, _FILE_MODE), "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(target)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move_folder_away(place: Path) -> None:
    """Rename the folder that is at *place*, if it is one: no file can replace it.  Raises OSError."""
    with suppress(FileNotFoundError):
        status = place.lstat()
        if S_ISDIR(status.st_mode):
            place.rename(place.with_name(f"{place.name}.bad-{status.st_ino}"))


def _remove(old: Path) -> None:
    """Remove what was set aside; a folder that is not empty is left to whoever filled it.  Raises OSError."""
    try:
        old.unlink(missing_ok=True)
    except IsADirectoryError:
        with suppress(OSError):
            old.rmdir()
