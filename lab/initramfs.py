"""initramfs: the archive that a kernel unpacks into its memory and starts /init of, written without cpio.

Layout: for each file "070701" and thirteen numbers of eight hex digits (inode, mode, uid, gid, links, mtime, size, four
device numbers, length of the name, 0), the name and a NUL, filled up to four bytes, its content, filled up likewise.
Source: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

Content = bytes | None  # None: a folder


def archive(files: Mapping[str, Content]) -> bytes:
    """All *files* by their path, each executable; a folder stands before what lies in it."""
    entries = [_entry(number, path, content) for number, (path, content) in enumerate(files.items(), 1)]
    return b"".join(entries) + _entry(0, "TRAILER!!!", b"")


def _entry(inode: int, path: str, content: Content) -> bytes:
    name = path.encode() + b"\0"
    mode = 0o755 | (stat.S_IFDIR if content is None else stat.S_IFREG)
    data = content or b""
    numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    return _filled(head) + _filled(data)


def _filled(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
