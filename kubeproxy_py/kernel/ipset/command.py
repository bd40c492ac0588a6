"""Our ipsets by the program ``ipset``, for hosts where netlink can't make them (a set type newer than we know, ...).

Law: the same as ipset.py's; tests hold both to it.  A run of steps is one process, and one more for each line that it
refuses: ``ipset restore`` stops there, and of the lines before it those still in its buffer are lost as well (seen
with 7.17), so all are given again without the refused one.  That is harmless, for with ``-exist`` each line only
makes something true.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import EEXIST, EINVAL, ENOENT

from kubeproxy_py.kernel import Scope, ipset_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import Result, run
from kubeproxy_py.kernel.ipset.adapter import TEMPORARY, scope_names, set_name, wanted_spec
from kubeproxy_py.kernel.ipset.wire import ENTRY_TYPES, ERR_TYPE_MISMATCH, as_listed, listed_spec
from kubeproxy_py.kernel.runs import runs, sorts
from kubeproxy_py.model.rows import Ipset, IpsetEntry, IpsetSpec, Key, Rows
from kubeproxy_py.model.services import Family
from kubeproxy_py.model.steps import Step, StepFailure

_TIMEOUT_S = 60.0
_REFUSALS_MAX = 20  # then the rest of the run waits for the next try: a process each is too dear
_SET_FULL = 4352
_ERRNO_OF = {  # what ipset says -> the error number that the kernel gave it
    "does not exist": ENOENT,
    "already exists": EEXIST,
    "is full": _SET_FULL,
    "in use by a kernel component": 4100,
    "their type does not match": ERR_TYPE_MISMATCH,
    "CIDR parameter": 4104,
}
_REFUSED_LINE = re.compile(r"Error in line (\d+): (.*)")
_FAMILY_WORDS: dict[str, Family] = {"inet": "IPv4", "inet6": "IPv6"}
_FAMILY_NAMES = {family: word for word, family in _FAMILY_WORDS.items()}


class IpsetCommandAdapter:
    """Ipset and IpsetEntry rows of *families*, in the network namespace of the calling thread."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._scopes = [ipset_scope(name) for name in scope_names(families)]
        self._ways: dict[tuple[type[Key], str], Callable[[Sequence[Step]], list[StepFailure]]] = {
            (Ipset, "add"): _create,
            (Ipset, "update"): lambda steps: [failure for step in steps for failure in _replace(step)],
        }

    def scopes(self) -> list[Scope]:
        """One for each set of ours, and for those that a process may have left that was killed."""
        return self._scopes

    def read(self, scope: Scope) -> Rows:
        """The set *scope* with its entries; nothing if it isn't there.  Raises KernelError."""
        done = run(["ipset", "save", scope.name], timeout_s=_TIMEOUT_S)
        if done.exit_code:
            if _errno(done.complaint) == ENOENT:
                return {}
            raise KernelError(f"ipset save {scope.name}: {done.complaint}")
        header, *entries = done.stdout.decode().splitlines()
        _, _, type_name, *words = header.split()
        spec = _spec(type_name, words)
        rows: Rows = {Ipset(scope.name): spec}
        if spec.type in ENTRY_TYPES:
            rows.update((IpsetEntry(scope.name, line.split(" ", 3)[2]), None) for line in entries)
        return rows

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Carry out *steps*.  Raises KernelError if there is no ipset program, or it can't work at all."""
        failed: list[StepFailure] = []
        for way, run_of_steps in runs(steps, (self._ways.get(sort, _restore) for sort in sorts(steps))):
            failed += way(run_of_steps)
        return failed

    def close(self) -> None:
        """Nothing to give back."""


def _create(steps: Sequence[Step]) -> list[StepFailure]:
    """Make sets, and replace those that ``-exist`` let pass, or refused, though they aren't as wanted."""
    refused = {failure.step.key: failure for failure in _restore(steps)}
    found = _headers()
    failed: list[StepFailure] = []
    for step in steps:
        name, wanted = set_name(step), as_listed(wanted_spec(step))
        if found.get(name) == wanted:
            continue
        failed += [refused[step.key]] if name not in found and step.key in refused else _replace(step)
    return failed


def _replace(step: Step) -> list[StepFailure]:
    """Put the wanted set, with the entries that it has, in the place of the one there."""
    name, spec = set_name(step), wanted_spec(step)
    rows = IpsetCommandAdapter(()).read(ipset_scope(name))
    if not rows:
        return _restore([Step("add", step.key, spec)])
    old = rows.pop(Ipset(name))
    assert isinstance(old, IpsetSpec)
    entries = [key.entry for key in rows if isinstance(key, IpsetEntry)] if spec.is_like(old) else []
    _ipset(["destroy", TEMPORARY])
    lines = [
        _create_line(TEMPORARY, spec),
        *(f"add {TEMPORARY} {entry}" for entry in entries),
        f"swap {TEMPORARY} {name}",
    ]
    done = _feed(lines)
    _ipset(["destroy", TEMPORARY])
    if not done.exit_code:
        return []
    if _errno(done.complaint) == ERR_TYPE_MISMATCH:  # sets of different kinds can't be swapped
        done = _feed([f"destroy {name}", _create_line(name, spec)])
    return [_failed(step, _complaint(done))] if done.exit_code else []


def _restore(steps: Sequence[Step]) -> list[StepFailure]:
    """Give *steps* to ``ipset restore``, again without those that it refuses, until it takes the rest."""
    failed: list[StepFailure] = []
    left = list(steps)
    for _ in range(_REFUSALS_MAX):
        done = _feed([_line(step) for step in left])
        if not done.exit_code:
            return failed
        refused = _REFUSED_LINE.search(done.complaint)
        if not refused:
            raise KernelError(f"ipset restore: {done.complaint}")
        place, errno = int(refused[1]) - 1, _errno(refused[2])
        doomed = [left[place], *(step for step in left[place + 1 :] if _fails_like(step, left[place], errno))]
        failed += [_failed(step, refused[2]) for step in doomed if not _is_done(step, errno)]
        gone = {id(step) for step in doomed}
        left = [step for step in left if id(step) not in gone]
    return failed + [StepFailure(step, 0, "waits: ipset refused too much of what came with it") for step in left]


def _fails_like(step: Step, culprit: Step, errno: int) -> bool:
    """Whether *step*, after *culprit*, would be refused for the same reason: its set is missing, or full."""
    alike = isinstance(step.key, IpsetEntry) and isinstance(culprit.key, IpsetEntry) and step.key.set == culprit.key.set
    return alike and (errno == ENOENT or (errno == _SET_FULL and step.verb == culprit.verb == "add"))


def _is_done(step: Step, errno: int) -> bool:
    return step.verb == "delete" and errno == ENOENT


def _line(step: Step) -> str:
    """The line of ``ipset restore`` for *step*."""
    match step.key, step.verb:
        case Ipset(name=name), "delete":
            return f"destroy {name}"
        case Ipset(name=name), _:
            return _create_line(name, wanted_spec(step))
        case IpsetEntry(set=name, entry=entry), verb:
            return f"{'del' if verb == 'delete' else 'add'} {name} {entry}"
    raise TypeError(f"no ipset step: {step}")


def _create_line(name: str, spec: IpsetSpec) -> str:
    if spec.family is None:
        return f"create {name} {spec.type} range 0-65535"
    family = _FAMILY_NAMES[spec.family]
    return f"create {name} {spec.type} family {family} hashsize {spec.hashsize} maxelem {spec.maxelem}"


def _spec(type_name: str, words: Sequence[str]) -> IpsetSpec:
    """The spec that the header *words* of ``ipset save`` or ``ipset list`` tell."""
    told = dict(zip(words[::2], words[1::2], strict=False))
    odd = [f"{word} {told[word]}" for word in ("timeout", "netmask") if word in told]
    if told.get("range", "0-65535") != "0-65535":
        odd.append(f"range {told['range']}")
    default = IpsetSpec(type_name, None)
    return listed_spec(
        type_name, _FAMILY_WORDS.get(told.get("family", "")), int(told.get("maxelem", default.maxelem)), odd
    )


def _headers() -> dict[str, IpsetSpec]:
    """The specs of all sets of the network namespace."""
    done = _ipset(["list", "-t"])
    if done.exit_code:
        raise KernelError(f"ipset list: {done.complaint}")
    return {name: _spec(type_name, header.split()) for name, type_name, header in _blocks(done.stdout.decode())}


def _blocks(listing: str) -> Iterator[tuple[str, str, str]]:
    """Name, type and header words of each set that ``ipset list -t`` tells."""
    for block in listing.split("\n\n"):
        told = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "Name" in told:
            yield told["Name"], told["Type"], told["Header"]


def _feed(lines: Iterable[str]) -> Result:
    return run(
        ["ipset", "restore", "-exist"], stdin="".join(f"{line}\n" for line in lines).encode(), timeout_s=_TIMEOUT_S
    )


def _ipset(words: Sequence[str]) -> Result:
    return run(["ipset", *words], timeout_s=_TIMEOUT_S)


def _complaint(done: Result) -> str:
    refused = _REFUSED_LINE.search(done.complaint)
    return refused[2] if refused else done.complaint


def _errno(complaint: str) -> int:
    return next((errno for words, errno in _ERRNO_OF.items() if words in complaint), EINVAL)


def _failed(step: Step, complaint: str) -> StepFailure:
    return StepFailure(step, _errno(complaint), complaint)
