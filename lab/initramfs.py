"""Write an initramfs, the archive from which a kernel starts /init, without cpio(1).

Layout of each file: "070701"; thirteen numbers of eight hex digits (inode, mode, uid, gid, links, mtime, size, four
device numbers, length of the name, 0); the name and a NUL, padded to four bytes; the content, padded to four bytes.
Source: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

Content = bytes | None  # None: a directory


def archive(files: Mapping[str, Content]) -> bytes:
    """Return the archive of *files*, content by path, each executable; a directory must precede its files."""
    entries = [_entry(number, path, content) for number, (path, content) in enumerate(files.items(), 1)]
    return b"".join(entries) + _entry(0, "TRAILER!!!", b"")


def _entry(inode: int, path: str, content: Content) -> bytes:
    name = path.encode() + b"\0"
    mode = 0o755 | (stat.S_IFDIR if content is None else stat.S_IFREG)
    data = content or b""
    numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    return _padded(head) + _padded(data)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
