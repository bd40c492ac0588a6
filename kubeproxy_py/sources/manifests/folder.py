"""A folder of manifests: what is in it now, against what has been told of it, to events.

Law: what can't be read doesn't vanish.  A broken object, a broken document, an unreadable file or folder keeps what
it last said well; only what is no longer there, and is known to be so, is told as gone.

Files change while we look.  A file is read once it is known to be whole: a writer closed it, it was renamed into
place, or it looked the same twice; and it is gone once it was missing twice, since editors move a file away before
they write it anew.

Of an object in two files, the first file by name has it; when that one lets go, the other's is used.
"""

import os
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from stat import S_ISREG

from msgspec import Struct

from kubeproxy_py.model.events import Event, ObjectProblem
from kubeproxy_py.sources.manifests.parse import Manifest, read_manifest
from kubeproxy_py.sources.object_cache import Identity, ObjectCache

SUFFIXES = (".yaml", ".yml", ".json")
FILES_MAX = 10_000
SIZE_MAX_BYTES = {".yaml": 16 << 20, ".yml": 16 << 20, ".json": 256 << 20}  # YAML's nodes take 50 times its size

_TICK_S = 0.05
_SLOW_TICK_S = 2.0  # FAT's
_SWAPPED = ".."  # a ConfigMap's volume changes by renaming its ..data link: all files at once, and whole

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, times of modification and of change in ns: differs if the file, or its mode, did."""


class Look(Struct, frozen=True, gc=False):
    """What came of looking at the folder once."""

    events: list[Event]
    readable: bool  # the folder could be listed
    settled: bool  # False: look again soon, a file may be half written


class Folder:
    """Knows what each file last said well, and what was told."""

    def __init__(self, directory: str, node_name: str) -> None:
        self._directory = Path(directory)
        self._node_name = node_name
        self._manifests: dict[str, Manifest] = {}  # by file name
        self._read: dict[str, Stamp] = {}  # what each file looked like when it was read
        self._fresh: set[str] = set()  # files so new when they were read that a change since may have left no mark
        self._seen: dict[str, Stamp | None] = {}  # changed since (None: missing), but not known to be whole
        self._holders: dict[Identity, tuple[str, ...]] = {}  # the files that have an object, by name in order
        self._problems: dict[str, Sequence[ObjectProblem]] = {}  # what was wrong with each when it was read
        self._told = ObjectCache()
        self._complaints: frozenset[ObjectProblem] = frozenset()  # of the folder as a whole, told once

    def look(self, whole: Collection[str] | None = None) -> Look:
        """The events since the last look.

        *whole* names the files that are known to be whole (None: all of them).
        """
        try:
            stamps = self._list()
        except OSError as error:
            complaint = self._problem(f"can't be read: {error.strerror or error}", "mount it, or name another folder")
            return Look(self._complain({complaint}), readable=False, settled=True)
        problems: list[Event] = []
        touched: dict[Identity, None] = {}  # a set that keeps its order
        for name in self._changed(stamps, whole):
            before = self._manifests.get(name, Manifest())
            problems.extend(self._take(name, stamps.get(name)))
            touched |= dict.fromkeys(self._hold(name, before))
        events = self._tell(touched)
        return Look([*self._complain(self._complaints_now()), *problems, *events], True, settled=not self._seen)

    def _list(self) -> dict[str, Stamp]:
        """The files that count, by name in order.  Raises OSError if the folder can't be listed."""
        names = sorted(entry for entry in os.listdir(self._directory) if _counts(entry))  # noqa: PTH208 -- 10,000 Paths
        stamps: dict[str, Stamp] = {}
        for name in names[:FILES_MAX]:
            try:
                status = os.stat(self._directory / name)  # noqa: PTH116 -- follows links, as a ConfigMap needs
            except FileNotFoundError:
                continue
            except OSError:
                stamps[name] = (0, 0, 0, 0, 0)  # it is there: reading it will say what is wrong
                continue
            if S_ISREG(status.st_mode):
                stamps[name] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return stamps

    def _changed(self, stamps: dict[str, Stamp], whole: Collection[str] | None) -> list[str]:
        """The files to be read, or forgotten, now; those that aren't whole yet are kept in mind."""
        all_whole = whole is None or any(name.startswith(_SWAPPED) for name in whole)
        seen, self._seen = self._seen, {}
        ready: list[str] = []
        for name in [*stamps, *(name for name in self._read if name not in stamps)]:
            stamp = stamps.get(name)
            told_whole = whole is not None and name in whole and stamp is not None
            read = self._read.get(name)
            if stamp == read and not told_whole and name not in self._fresh:
                continue
            if all_whole or told_whole or stamp == seen.get(name, read):
                ready.append(name)
            else:
                self._seen[name] = stamp
        return ready

    def _take(self, name: str, stamp: Stamp | None) -> list[ObjectProblem]:
        """Read the file *name*, or forget it if it has no stamp; what is wrong with it."""
        self._fresh.discard(name)
        if stamp is None:
            del self._read[name]
            self._manifests.pop(name, None)
            self._problems.pop(name, None)
            return []
        read_again = self._read.get(name) == stamp
        self._read[name] = stamp
        if _is_fresh(stamp, time.time()):
            self._fresh.add(name)
        before = self._manifests.get(name, Manifest())
        try:
            body = _bounded(self._directory / name)
        except OSError as error:
            return [
                ObjectProblem(name, "(all)", f"can't be read: {error.strerror or error}", "its last good version stays")
            ]
        manifest = read_manifest(name, body, self._node_name)
        self._manifests[name] = _mended(manifest, before)
        known = self._problems.get(name, ()) if read_again else ()
        self._problems[name] = manifest.problems
        return [problem for problem in manifest.problems if problem not in known]

    def _hold(self, name: str, before: Manifest) -> Iterable[Identity]:
        """Note which objects the file *name* has, and had *before*; which these are."""
        after = self._manifests.get(name, Manifest())
        for identity in before.objects.keys() - after.objects.keys():
            self._holders[identity] = tuple(holder for holder in self._holders[identity] if holder != name)
        alone = (name,)  # one and the same for all that no other file has
        for identity in after.objects.keys() - before.objects.keys():
            others = self._holders.get(identity)
            self._holders[identity] = tuple(sorted((*others, name))) if others else alone
        return {**before.objects, **after.objects}

    def _tell(self, touched: Iterable[Identity]) -> list[Event]:
        """The events of the objects *touched*, and a Problem for each that several files have."""
        events: list[Event] = []
        for identity in touched:
            holder, *others = self._holders[identity] or ("",)
            values = self._manifests[holder].objects[identity] if holder else ()
            events.extend(self._told.tell(identity, values))
            events.extend(_twice(other, holder, identity) for other in others)
            if not holder:
                del self._holders[identity]
        return events

    def _complaints_now(self) -> set[ObjectProblem]:
        found: set[ObjectProblem] = set()
        if not self._read:
            found.add(self._problem("has no manifests", f"files that end in {', '.join(SUFFIXES)}"))
        if len(self._read) >= FILES_MAX:
            found.add(self._problem(f"has {FILES_MAX} files or more", "the first by name are used"))
        return found

    def _complain(self, complaints: set[ObjectProblem]) -> list[Event]:
        """Those of *complaints* that were not told last time."""
        new = [problem for problem in complaints if problem not in self._complaints]
        self._complaints = frozenset(complaints)
        return sorted(new, key=str)

    def _problem(self, message: str, hint: str) -> ObjectProblem:
        return ObjectProblem(f"manifest folder {self._directory}", "(all)", message, hint)


def _counts(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _is_fresh(stamp: Stamp, now_s: float) -> bool:
    """Whether the file could change once more at *now_s* and look the same: its clock ticks that slowly.

    Linux stamps files with the time of the last timer tick (10 ms at 100 Hz); some file systems keep whole seconds.
    """
    changed_ns = stamp[-1]
    tick_s = _SLOW_TICK_S if changed_ns % 10**9 == 0 else _TICK_S
    return abs(now_s - changed_ns / 1e9) < tick_s


def _bounded(path: Path) -> bytes:
    """The file's bytes.  Raises OSError if it can't be read, or has too many."""
    limit = SIZE_MAX_BYTES[path.suffix]
    with path.open("rb") as file:
        # As large as it is, for a read of up to 256 MiB takes new memory of that size, which costs a fault a page.
        size = min(os.fstat(file.fileno()).st_size, limit)
        body = file.read(size + 1)
        if len(body) > size:  # it grew, or its file system does not tell how large it is
            body += file.read(limit + 1 - len(body))
    if len(body) > limit:
        raise OSError(f"it has more than {limit >> 20} MiB")
    return body


def _mended(manifest: Manifest, before: Manifest) -> Manifest:
    """*manifest*, with what *before* said in place of what can't be read."""
    lost = before.objects.keys() - manifest.objects.keys()
    kept = {
        identity: before.objects[identity] for identity in lost if identity in manifest.broken or not manifest.whole
    }
    return Manifest({**manifest.objects, **kept}) if kept else Manifest(manifest.objects)


def _twice(name: str, holder: str, identity: Identity) -> ObjectProblem:
    kind, object_name = identity
    who = f"{name}: {kind} {str(object_name).lstrip('/')}"
    return ObjectProblem(who, "metadata.name", f"is in {holder} too", f"the one in {holder} is used")
