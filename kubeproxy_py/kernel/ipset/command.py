"""Our ipsets by the program ``ipset``, for hosts where netlink cannot create them (a newer set type, ...).

The invariants are those of adapter.py; tests run one suite on both.  A group of steps is one process, and one more for
each line that ipset refuses: ``ipset restore`` stops there, and of the lines before it those still in its buffer are
lost as well (seen with 7.17), so all lines but the refused one are passed again.  That is harmless, since with
``-exist`` every line can be repeated.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import ENOENT

from kubeproxy_py.kernel import Scope, ipset_scope
from kubeproxy_py.kernel.dispatch import group_steps, row_kind_and_verb
from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.host.command import Result, run
from kubeproxy_py.kernel.ipset.adapter import desired_spec, owned_set_names, set_name
from kubeproxy_py.kernel.ipset.constants import (
    ENTRY_TYPES,
    IPSET_ERR_HASH_FULL,
    IPSET_ERR_TYPE_MISMATCH,
    SKBINFO,
)
from kubeproxy_py.kernel.ipset.decode import as_read_back, spec_as_read
from kubeproxy_py.kernel.ipset.errors import tool_errno, tool_text
from kubeproxy_py.model.kube_names import TEMPORARY_SET, entry_key
from kubeproxy_py.model.rows import Ipset, IpsetEntry, IpsetSpec, Key, MarkSpec, Rows, Spec, parse_mark
from kubeproxy_py.model.steps import Step, StepFailure, Verb
from kubeproxy_py.net import Family

_TIMEOUT_S = 60.0
_REFUSALS_MAX = 20  # then the remaining steps wait for the next sync: a process for each would take too long
_REFUSED_LINE = re.compile(r"Error in line ([0-9]{1,9}): (.*)")
_FAMILY_OF: dict[str, Family] = {"inet": "IPv4", "inet6": "IPv6"}
_FAMILY_NAMES = {family: name for name, family in _FAMILY_OF.items()}
_ALL_PORTS = "0-65535"
_OPTIONS_WITHOUT_VALUE = frozenset((SKBINFO, "counters", "comment", "forceadd"))


class IpsetCommandAdapter:
    """Ipset and IpsetEntry rows of *families*, in the network namespace of the calling thread."""

    def __init__(self, families: Iterable[Family], *, policies: bool = False) -> None:
        self._scopes = [ipset_scope(name) for name in owned_set_names(families, policies=policies)]
        self._handlers: dict[tuple[type[Key], Verb], Callable[[Sequence[Step]], list[StepFailure]]] = {
            (Ipset, "add"): _create,
            (Ipset, "update"): lambda steps: [failure for step in steps for failure in _replace(step)],
        }

    def scopes(self) -> list[Scope]:
        """Return one scope for each set of ours, and for those that a killed process may have left."""
        return self._scopes

    def read(self, scope: Scope) -> Rows:
        """Return the set *scope* with its entries; nothing if it does not exist.  Raises KernelError."""
        result = run(["ipset", "save", scope.name], timeout_s=_TIMEOUT_S)
        if result.exit_code:
            if tool_errno(result.error_text) == ENOENT:
                return {}
            raise KernelError(f"ipset save {scope.name}: {tool_text(result.error_text)}")
        return parse_save(scope.name, result.stdout)

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Carry out *steps* and return the failures.

        Raises:
            KernelError: The ipset program is missing, or does not work at all.
        """
        failures: list[StepFailure] = []
        for handler, group in group_steps(steps, lambda step: self._handlers.get(row_kind_and_verb(step), _restore)):
            failures += handler(group)
        return failures

    def close(self) -> None:
        """Do nothing; there are no sockets."""


def _create(steps: Sequence[Step]) -> list[StepFailure]:
    """Create sets; replace those whose header differs although ``-exist`` accepted them, or that were refused."""
    refused = {failure.step.key: failure for failure in _restore(steps)}
    specs = _read_specs()
    failures: list[StepFailure] = []
    for step in steps:
        name, desired = set_name(step), as_read_back(desired_spec(step))
        if specs.get(name) == desired:
            continue
        failures += [refused[step.key]] if name not in specs and step.key in refused else _replace(step)
    return failures


def _replace(step: Step) -> list[StepFailure]:
    """Replace the existing set by the desired one with the same entries; create it if it is missing."""
    name, spec = set_name(step), desired_spec(step)
    rows = IpsetCommandAdapter(()).read(ipset_scope(name))
    if not rows:
        return _restore([Step("add", step.key, spec)])
    old = rows.pop(Ipset(name))
    assert isinstance(old, IpsetSpec)
    entries = [_entry_words(key.entry, mark) for key, mark in rows.items() if isinstance(key, IpsetEntry)]
    entries = entries if spec.can_swap_with(old) else []
    _run_ipset(["destroy", TEMPORARY_SET])
    lines = [
        _create_line(TEMPORARY_SET, spec),
        *(f"add {TEMPORARY_SET} {entry}" for entry in entries),
        f"swap {TEMPORARY_SET} {name}",
    ]
    result = _run_restore(lines)
    _run_ipset(["destroy", TEMPORARY_SET])
    if not result.exit_code:
        return []
    if tool_errno(result.error_text) == IPSET_ERR_TYPE_MISMATCH:  # sets of different types cannot be swapped
        result = _run_restore([f"destroy {name}", _create_line(name, spec)])
    return [_failure(step, _error_text(result))] if result.exit_code else []


def _restore(steps: Sequence[Step]) -> list[StepFailure]:
    """Pass *steps* to ``ipset restore``, repeatedly without those that it refuses; return the failures."""
    failures: list[StepFailure] = []
    remaining = list(steps)
    for _ in range(_REFUSALS_MAX):
        result = _run_restore([_line(step) for step in remaining])
        if not result.exit_code:
            return failures
        match = _REFUSED_LINE.search(result.error_text)
        if not match or not 1 <= int(match[1]) <= len(remaining):
            raise KernelError(f"ipset restore: {tool_text(result.error_text)}")
        index, errno = int(match[1]) - 1, tool_errno(match[2])
        later = remaining[index + 1 :]
        refused = [remaining[index], *(step for step in later if _fails_alike(step, remaining[index], errno))]
        failures += [_failure(step, match[2]) for step in refused if not _is_done(step, errno)]
        refused_ids = {id(step) for step in refused}
        remaining = [step for step in remaining if id(step) not in refused_ids]
    return failures + [StepFailure(step, 0, "waits: ipset refused too much of what came with it") for step in remaining]


def _fails_alike(step: Step, refused: Step, errno: int) -> bool:
    """Return whether *step*, after *refused*, would fail for the same reason: its set is missing, or full."""
    same_set = (
        isinstance(step.key, IpsetEntry) and isinstance(refused.key, IpsetEntry) and step.key.set == refused.key.set
    )
    return same_set and (errno == ENOENT or (errno == IPSET_ERR_HASH_FULL and step.verb == refused.verb == "add"))


def _is_done(step: Step, errno: int) -> bool:
    return step.verb == "delete" and errno == ENOENT


def _line(step: Step) -> str:
    """Return the line of ``ipset restore`` for *step*."""
    match step.key, step.verb:
        case Ipset(name=name), "delete":
            return f"destroy {name}"
        case Ipset(name=name), _:
            return _create_line(name, desired_spec(step))
        case IpsetEntry(set=name, entry=entry), verb:
            return f"del {name} {entry}" if verb == "delete" else f"add {name} {_entry_words(entry, step.spec)}"
    raise TypeError(f"no ipset step: {step}")


def _entry_words(entry: str, mark: Spec) -> str:
    return f"{entry} {mark}" if isinstance(mark, MarkSpec) else entry


def _create_line(name: str, spec: IpsetSpec) -> str:
    if spec.family is None:
        return f"create {name} {spec.type} range {_ALL_PORTS}"
    family = _FAMILY_NAMES[spec.family]
    set_type, *options = spec.type.split()
    words = (name, set_type, "family", family, "hashsize", spec.hashsize, "maxelem", spec.maxelem, *options)
    return f"create {' '.join(map(str, words))}"


def parse_save(name: str, saved: bytes) -> Rows:
    """Return the set *name* from what ``ipset save`` printed, as IpsetCommandAdapter.read.  Raises KernelError."""
    with decoding(f"the output of ipset save {name}"):
        header, *entries = saved.decode().splitlines()
        _, _, type_name, *options = header.split()
        spec = _parse_spec(type_name, options)
        rows: Rows = {Ipset(name): spec}
        if spec.type in ENTRY_TYPES:
            rows.update(_parse_entry(name, line) for line in entries)
    return rows


def _parse_entry(name: str, line: str) -> tuple[IpsetEntry, MarkSpec | None]:
    """Return an entry of the set *name* from its line.  Raises ValueError or IndexError."""
    _, _, entry, *options = line.split()
    if "skbmark" not in options:
        return entry_key(name, entry), None
    return entry_key(name, entry), parse_mark(options[options.index("skbmark") + 1])


def parse_list(listed: bytes) -> dict[str, IpsetSpec]:
    """Return the specs of the sets in the output of ``ipset list -t``.  Raises KernelError."""
    with decoding("the output of ipset list"):
        headers = _parse_headers(listed.decode())
        return {name: _parse_spec(type_name, header.split()) for name, type_name, header in headers}


def _parse_spec(type_name: str, options: Sequence[str]) -> IpsetSpec:
    """Return the spec of a set from the *options* of its ``ipset save`` or ``ipset list`` header."""
    flags = [option for option in options if option in _OPTIONS_WITHOUT_VALUE]
    options = [option for option in options if option not in _OPTIONS_WITHOUT_VALUE]
    values = dict(zip(options[::2], options[1::2], strict=False))
    deviations = [f"{option} {values[option]}" for option in ("timeout", "netmask") if option in values]
    if values.get("range", _ALL_PORTS) != _ALL_PORTS:
        deviations.append(f"range {values['range']}")
    deviations += [SKBINFO] if SKBINFO in flags else []
    maxelem = int(values.get("maxelem", IpsetSpec(type_name, None).maxelem))
    return spec_as_read(type_name, _FAMILY_OF.get(values.get("family", "")), maxelem, deviations)


def _read_specs() -> dict[str, IpsetSpec]:
    """Return the specs of all sets of the network namespace.  Raises KernelError."""
    result = _run_ipset(["list", "-t"])
    if result.exit_code:
        raise KernelError(f"ipset list: {tool_text(result.error_text)}")
    return parse_list(result.stdout)


def _parse_headers(listing: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and header options of each set in the output of ``ipset list -t``."""
    for block in listing.split("\n\n"):
        values = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "Name" in values:
            yield values["Name"], values["Type"], values["Header"]


def _run_restore(lines: Iterable[str]) -> Result:
    stdin = "".join(f"{line}\n" for line in lines).encode()
    return run(["ipset", "restore", "-exist"], stdin=stdin, timeout_s=_TIMEOUT_S)


def _run_ipset(arguments: Sequence[str]) -> Result:
    return run(["ipset", *arguments], timeout_s=_TIMEOUT_S)


def _error_text(result: Result) -> str:
    match = _REFUSED_LINE.search(result.error_text)
    return match[2] if match else result.error_text


def _failure(step: Step, text: str) -> StepFailure:
    set_type = step.spec.type if isinstance(step.spec, IpsetSpec) else ""
    return StepFailure(step, tool_errno(text), tool_text(text, set_type))
