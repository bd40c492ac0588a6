"""Poll a folder of manifests and return the events for what changed in it.

Invariants:
- What cannot be read does not disappear.  The objects of an invalid object, an invalid document, and an unreadable file
  or folder keep their last valid version; only what is known to have been removed is deleted.  An empty folder in
  place of the one that had manifests is a volume that was unmounted.  A file that has become empty, and a name that
  leads to no regular file any more, are mistakes: a file is removed when its name is.
  A new process knows no earlier version: what it cannot read is not served.
- A file is read once it is known to be complete: a writer closed it, it was renamed into the folder, or two polls
  found it unchanged.  It is deleted once two polls did not find it, since editors move a file away before they write
  the new one.
- Of an object in two files, the one in the first file by name is used; when it is removed there, the other one is.
"""

import logging
import os
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from msgspec import Struct

from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import Event
from kubeproxy_py.model.problem import Problem, errors_in
from kubeproxy_py.sources.decode.objects import object_text
from kubeproxy_py.sources.manifests.files import read_bounded
from kubeproxy_py.sources.manifests.parse import Manifest, parse_manifest
from kubeproxy_py.sources.object_cache import Identity, ObjectCache

SUFFIXES = (".yaml", ".yml", ".json")
FILES_MAX = 10_000
SIZE_MAX_BYTES = {".yaml": 16 << 20, ".yml": 16 << 20, ".json": 256 << 20}  # YAML's nodes take 50 times its size

_TICK_S = 0.05
_SLOW_TICK_S = 2.0  # FAT's
_NS_PER_S = 10**9
_DATA_LINK_PREFIX = ".."  # a ConfigMap's volume changes by renaming its ..data link: all files at once, and complete

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, times of modification and of change in ns: differs if the file, or its mode, did."""
_UNREADABLE_STAMP: Stamp = (0, 0, 0, 0, 0)

log = logging.getLogger(__name__)


class PollResult(Struct, frozen=True, gc=False):
    """The result of one poll."""

    events: list[Event]
    readable: bool  # the folder could be listed
    settled: bool  # False: poll again soon, a file may be half written
    empty: bool = False  # it contains no manifests


class Folder:
    """The last valid contents of each file of a folder.

    Args:
        directory: The folder's path.
        node_name: The Node of which problems are reported.
    """

    def __init__(self, directory: str, node_name: str) -> None:
        self._directory = Path(directory)
        self._node_name = node_name
        self._manifests: dict[str, Manifest] = {}  # last valid contents by file name
        self._stamps: dict[str, Stamp] = {}  # of each file when it was read
        self._fresh: set[str] = set()  # files so new when they were read that a later change may not show in the stamp
        self._incomplete: dict[str, Stamp | None] = {}  # changed (None: missing), but not known to be complete
        self._owners: dict[Identity, tuple[str, ...]] = {}  # the files that contain an object, by name
        self._problems: dict[str, Sequence[Problem]] = {}  # of each file when it was read
        self._objects = ObjectCache()
        self._reported: frozenset[Problem] = frozenset()  # problems of the folder itself, reported once
        self._labels: frozenset[str] = frozenset()  # the keys that are read of Nodes
        self._identity = (0, 0)  # device and inode of the folder that was read last

    def poll(self, complete: Collection[str] | None = None, labels: frozenset[str] = frozenset[str]()) -> PollResult:
        """Read the files that changed, and those with Nodes if other *labels* are read than last time.

        Args:
            complete: Names of files that are known to be complete; None: all of them.
            labels: The keys of the labels of Nodes that are read.
        """
        if labels != self._labels:
            self._fresh.update(name for name, manifest in self._manifests.items() if _has_nodes(manifest))
            self._labels = labels
        try:
            stamps = self._list()
            identity = _identity_of(self._directory)
        except OSError as error:
            hint = "mount it, or set --manifests to another directory"
            return self._unreadable(f"cannot be read: {error.strerror or error}", hint)
        if self._stamps and not stamps and identity != self._identity:
            hint = "mount it again; to serve nothing, put a manifest with items: [] there"
            return self._unreadable("was replaced by an empty one; its last objects stay in use", hint)
        self._identity = identity
        problems: list[Event] = []
        touched: dict[Identity, None] = {}  # an ordered set
        for name in self._changed(stamps, complete):
            before = self._manifests.get(name, Manifest())
            problems.extend(self._read(name, stamps.get(name)))
            touched |= dict.fromkeys(self._update_owners(name, before))
        events = self._update_objects(touched)
        settled = not self._incomplete
        reported = [*self._report(self._folder_problems()), *problems, *events]
        return PollResult(reported, readable=True, settled=settled, empty=not stamps)

    def rejected(self) -> tuple[Problem, ...]:
        """Return why files and objects in them are not used as they are now; any thread may call it."""
        return errors_in(self._problems.copy().values())

    def _unreadable(self, message: str, hint: str) -> PollResult:
        return PollResult(self._report({self._folder_problem(message, hint)}), readable=False, settled=True)

    def _list(self) -> dict[str, Stamp]:
        """Return the stamps of the manifests, sorted by name.  Raises OSError if the folder cannot be listed."""
        names = sorted(entry for entry in os.listdir(self._directory) if _is_manifest(entry))  # noqa: PTH208 - 10,000 Paths
        stamps: dict[str, Stamp] = {}
        for name in names[:FILES_MAX]:
            try:
                status = os.stat(self._directory / name)  # noqa: PTH116 - follows links, as a ConfigMap needs
            except FileNotFoundError:
                # Removed since, or a link that leads nowhere: a mistake if it led to a file before.
                if name in self._manifests and os.path.islink(self._directory / name):  # noqa: PTH114
                    stamps[name] = _UNREADABLE_STAMP
                continue
            except OSError:
                stamps[name] = _UNREADABLE_STAMP  # it exists: reading it will report the error
                continue
            if S_ISREG(status.st_mode):
                stamps[name] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            elif name in self._manifests or not S_ISDIR(status.st_mode):
                stamps[name] = _UNREADABLE_STAMP
        return stamps

    def _changed(self, stamps: dict[str, Stamp], complete: Collection[str] | None) -> list[str]:
        """Return the names of changed files that are complete, and of removed files; remember the incomplete ones."""
        link_changed = complete is not None and any(name.startswith(_DATA_LINK_PREFIX) for name in complete)
        incomplete, self._incomplete = self._incomplete, {}
        ready: list[str] = []
        for name in [*stamps, *(name for name in self._stamps if name not in stamps)]:
            stamp = stamps.get(name)
            is_complete = complete is not None and name in complete and stamp is not None
            last_read = self._stamps.get(name)
            if stamp == last_read and not is_complete and name not in self._fresh:
                continue
            # The links of files that a ConfigMap lost lead nowhere until the kubelet has removed them, too.
            all_complete = complete is None or (link_changed and stamp != _UNREADABLE_STAMP)
            if all_complete or is_complete or stamp == incomplete.get(name, last_read):
                ready.append(name)
            else:
                self._incomplete[name] = stamp
        return ready

    def _read(self, name: str, stamp: Stamp | None) -> list[Problem]:
        """Read the file *name*, or forget it if it has no stamp; return its new problems."""
        self._fresh.discard(name)
        if stamp is None:
            del self._stamps[name]
            self._manifests.pop(name, None)
            self._problems.pop(name, None)
            return []
        is_repeated = self._stamps.get(name) == stamp
        self._stamps[name] = stamp
        if _is_fresh(stamp, time.time()):
            self._fresh.add(name)
        before = self._manifests.get(name, Manifest())
        try:
            path = self._directory / name
            body = read_bounded(path, SIZE_MAX_BYTES[path.suffix])
        except OSError as error:
            message = f"cannot be read: {error.strerror or error}"
            hint = (
                "its last valid version stays in use"
                if name in self._manifests
                else "its objects are not served until it can be read"
            )
            problem = Problem(name, "", message, hint)
            known, self._problems[name] = self._problems.get(name, ()), (problem,)
            return [] if problem in known else [problem]
        manifest = self._parse(name, body)
        if manifest.empty and before.objects:
            manifest = _emptied(name)
        self._manifests[name] = _with_last_valid(manifest, before)
        reported = self._problems.get(name, ()) if is_repeated else ()
        self._problems[name] = manifest.problems
        return [problem for problem in manifest.problems if problem not in reported]

    def _parse(self, name: str, body: bytes) -> Manifest:
        """Return the contents of the file *name*; one that triggers a bug is as one that cannot be read."""
        try:
            return parse_manifest(name, body, self._node_name, self._labels)
        except Exception as error:  # other files must not suffer from it
            log.exception("Internal error while reading a manifest (please report)", extra=values(file=name))
            message, hint = f"internal error {type(error).__name__}", "please report it, with the log"
            return Manifest(problems=(Problem(name, "", message, hint),), complete=False)

    def _update_owners(self, name: str, before: Manifest) -> Iterable[Identity]:
        """Record which objects the file *name* contains now; return these and those that it contained *before*."""
        after = self._manifests.get(name, Manifest())
        for identity in before.objects.keys() - after.objects.keys():
            self._owners[identity] = tuple(owner for owner in self._owners[identity] if owner != name)
        only_this = (name,)  # one tuple shared by all objects that no other file contains
        for identity in after.objects.keys() - before.objects.keys():
            others = self._owners.get(identity)
            self._owners[identity] = tuple(sorted((*others, name))) if others else only_this
        return {**before.objects, **after.objects}

    def _update_objects(self, touched: Iterable[Identity]) -> list[Event]:
        """Return the events of the objects *touched*, and a Problem for each that several files contain."""
        events: list[Event] = []
        for identity in touched:
            owner, *others = self._owners[identity] or ("",)
            values = self._manifests[owner].objects[identity] if owner else ()
            events.extend(self._objects.update(identity, values))
            events.extend(_duplicate(other, owner, identity) for other in others)
            if not owner:
                del self._owners[identity]
        return events

    def _folder_problems(self) -> set[Problem]:
        problems: set[Problem] = set()
        if not self._stamps:
            problems.add(self._folder_problem("contains no manifests", f"files named *{', *'.join(SUFFIXES)}"))
        if len(self._stamps) >= FILES_MAX:
            problems.add(self._folder_problem(f"contains {FILES_MAX} files or more", "the first ones by name are used"))
        return problems

    def _report(self, problems: set[Problem]) -> list[Event]:
        """Return those of *problems* that the last poll did not have."""
        new = [problem for problem in problems if problem not in self._reported]
        self._reported = frozenset(problems)
        return sorted(new, key=str)

    def _folder_problem(self, message: str, hint: str) -> Problem:
        return Problem(f"manifest directory {self._directory}", "", message, hint)


def _identity_of(directory: Path) -> tuple[int, int]:
    """Return device and inode of the folder.  Raises OSError."""
    status = directory.stat()
    return status.st_dev, status.st_ino


def _is_manifest(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _is_fresh(stamp: Stamp, now_s: float) -> bool:
    """Return whether the file could change again at *now_s* and keep its stamp, as its clock ticks so slowly.

    Linux stamps files with the time of the last timer tick (10 ms at 100 Hz); some file systems store full seconds.
    """
    changed_ns = stamp[-1]
    tick_s = _SLOW_TICK_S if changed_ns % _NS_PER_S == 0 else _TICK_S
    return abs(now_s - changed_ns / _NS_PER_S) < tick_s


def _has_nodes(manifest: Manifest) -> bool:
    return any(kind == "Node" for kind, _ in (*manifest.objects, *manifest.broken))


def _emptied(name: str) -> Manifest:
    """Return the contents of the file *name*, which had objects and has none: half of an edit, or a failed copy."""
    hint = "to serve none of them, delete the file or write a List with items: []"
    problem = Problem(name, "", "contains nothing any more; its last objects stay in use", hint)
    return Manifest(problems=(problem,), complete=False)


def _with_last_valid(manifest: Manifest, before: Manifest) -> Manifest:
    """Return the objects of *manifest*, and those of *before* in place of what cannot be read."""
    missing = before.objects.keys() - manifest.objects.keys()
    restored = {
        identity: before.objects[identity]
        for identity in missing
        if identity in manifest.broken or not manifest.complete
    }
    return Manifest({**manifest.objects, **restored}) if restored else Manifest(manifest.objects)


def _duplicate(name: str, owner: str, identity: Identity) -> Problem:
    """Return the Problem that the file *name* contains an object that the file *owner* contains, too."""
    kind, object_name = identity
    where = f"{name}: {object_text(kind, object_name)}"
    return Problem(where, "metadata.name", f"is also in {owner}", f"the one in {owner} is used")
