"""What the error output of iptables means: its errno, a text that is equal for equal causes, and the remedy.

Invariants:
- A hint names the module, file or capability that the message is about, never a list of what it might be.
"""

import re
from collections.abc import Callable, Sequence
from errno import EACCES, EAGAIN, EBUSY, EINVAL, EISDIR, ENOENT, EOPNOTSUPP, EPERM
from os import strerror
from pathlib import Path

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import Result
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import Backend
from kubeproxy_py.kernel.iptables.kernel_extensions import missing_extensions
from kubeproxy_py.model.extensions import EXTENSIONS, Extension, used_extensions
from kubeproxy_py.model.kube_names import referenced_chains
from kubeproxy_py.model.rows import Chain, ChainSpec, Jump, JumpSpec, Key
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.net import Family

LOCK = Path("/run/xtables.lock")
"""The lock of legacy iptables."""

# The program's name and its advice to read the manual.
_NOISE = re.compile(r"^ip6?tables\S* v\S+ \([^)]*\): |\s*Error occurred at line.*|\s*Try `.*")
_LOCK_HELD = re.compile(r"holding the xtables lock")
_LOCK_NOT_OPENED = re.compile(r"can't open lock file (\S+): ([^.]*)")
_LOCK_HINTS = {
    EISDIR: "rmdir {path}; if a hostPath volume made it, give the volume type: FileOrCreate",
    EACCES: "this must run as root, with {path} of the host mounted writable",
    EPERM: "this must run as root, with {path} of the host mounted writable",
}
_ERRNO_OF_TEXT = {strerror(number): number for number in _LOCK_HINTS}


class _Cause(Struct, frozen=True, gc=False):
    """A kind of error: the pattern of its text, the errno that the kernel gave to iptables, and the remedy."""

    pattern: re.Pattern[str]
    errno: int
    hint: Callable[[re.Match[str], Family], str] = lambda _match, _family: ""


def _module_hint(match: re.Match[str], family: Family) -> str:
    extension = EXTENSIONS.get(match[1] or match[2])
    return f"modprobe {extension.module_for(family)}" if extension else ""


_CAUSES = (  # the first whose pattern matches
    _Cause(re.compile(r"Set \S+ doesn't exist"), EINVAL),
    _Cause(
        re.compile(r"can't initialize (ip6?)tables table [`']?(\w+)"),
        ENOENT,
        lambda match, _: f"modprobe {match[1]}table_{match[2]}",
    ),
    _Cause(re.compile(r"Kernel module (\S+) is not loaded"), EOPNOTSUPP, lambda match, _: f"modprobe {match[1]}"),
    _Cause(re.compile(r"open socket to ipset"), EPERM, lambda *_: "this needs the capability NET_RAW"),
    _Cause(re.compile(r"Extension (\S+) revision|unsupported (?:match|target) [`']?(\w+)"), EOPNOTSUPP, _module_hint),
    _Cause(
        re.compile(rf"Couldn't load (?:match|target) [`']({'|'.join(EXTENSIONS)})'"),
        EOPNOTSUPP,
        lambda match, _: f"this installation of iptables has no extension {match[1]}; install the complete package",
    ),
    _Cause(re.compile(r"not supported|missing kernel module"), EOPNOTSUPP),
    _Cause(re.compile(r"does not exist|No chain/target/match|Couldn't load target"), ENOENT),
    _Cause(re.compile(r"busy|Too many links|not empty"), EBUSY),
    _Cause(re.compile(r"Permission denied|be root"), EPERM, lambda *_: "this needs the capability NET_ADMIN"),
)


def reason(result: Result) -> str:
    """Return only the reason: without the program's name and its advice to read the manual."""
    return _NOISE.sub("", result.error_text) or result.error_text


def errno_and_hint(error_text: str, family: Family, default_errno: int) -> tuple[int, str]:
    """Return the errno and the remedy for *error_text*; iptables prints no errno."""
    for cause in _CAUSES:
        if match := cause.pattern.search(error_text):
            return cause.errno, cause.hint(match, family)
    return default_errno, ""


def lock_error(error_text: str) -> KernelError | None:
    """Return the error if iptables' lock is the cause; no restore can succeed then.

    Its text is the same however long iptables waited, so that all rows that wait for one cause have one message.
    """
    if match := _LOCK_NOT_OPENED.search(error_text):
        return lock_open_error(Path(match[1]), _ERRNO_OF_TEXT.get(match[2].strip(), 0), match[2].strip())
    return lock_held_error() if _LOCK_HELD.search(error_text) else None


def lock_open_error(path: Path, errno: int, text: str) -> KernelError:
    """Return the error for a lock file *path* that cannot be opened, for the reason *errno* and *text*."""
    hint = _LOCK_HINTS.get(errno, "{path} must be a file that this process can create and open").format(path=path)
    message = f"{path} is a directory" if errno == EISDIR else f"{path} cannot be opened: {text}"
    return KernelError(message, errno=EAGAIN, hint=hint)


def lock_held_error() -> KernelError:
    """Return the error for a lock that another program holds."""
    hint = f"fuser -v {LOCK} shows which; rules are written when it ends"
    return KernelError("another program holds the lock of iptables", errno=EAGAIN, hint=hint)


def step_failure(step: Step, error_text: str) -> StepFailure:
    """Return the failure of *step*, which iptables refused by itself with *error_text*."""
    assert isinstance(step.key, Chain | Jump)
    errno, hint = errno_and_hint(error_text, step.key.family, EBUSY if step.verb == "delete" else EINVAL)
    return StepFailure(step, errno, f"{error_text} ({hint})" if hint else error_text)


def unsupported_steps(backend: Backend, steps: Sequence[Step]) -> list[StepFailure]:
    """Return a failure for each of *steps* that needs what the kernel lacks, and for those that wait for one of them.

    Asked only after a restore has failed, because iptables names neither the rule nor the module, and to find them by
    halving takes some eighty processes that each try to load the module.
    """
    failures: list[StepFailure] = []
    not_added: set[Key] = set()
    has_compat = backend != "nft" or nf_tables.has_compat()
    for step in steps:
        if step.verb == "delete" or not isinstance(step.key, Chain | Jump):
            continue
        missing = missing_extensions(backend, step.key.family, used_extensions(_rules(step)), has_compat=has_compat)
        blocker = next((key for key in _needed_chains(step) if key in not_added), None)
        if missing:
            text = _missing_text(missing[0], step.key.family) if has_compat else _NO_COMPAT
            failures.append(StepFailure(step, EOPNOTSUPP, text))
        elif blocker:
            failures.append(StepFailure(step, 0, f"waits for {type(blocker).__name__} {blocker}", blocker))
        if (missing or blocker) and step.verb == "add":
            not_added.add(step.key)
    return failures


def _needed_chains(step: Step) -> list[Chain]:
    """Return the chains that must exist before *step*, of a chain or jump."""
    key = step.key
    if isinstance(key, Jump):
        return [Chain(key.family, key.table, key.target)]
    assert isinstance(key, Chain)
    return [Chain(key.family, key.table, name) for name in sorted(referenced_chains(_rules(step)))]


_NO_COMPAT = "the kernel has no matches and targets for nf_tables (modprobe nft_compat)"


def _missing_text(extension: Extension, family: Family) -> str:
    missing = "the kernel has no target" if extension.is_target else "the kernel has no match"
    return f"{missing} {extension.name} (modprobe {extension.module_for(family)})"


def _rules(step: Step) -> tuple[str, ...]:
    if isinstance(step.spec, ChainSpec):
        return step.spec.rules
    return (step.spec.rule,) if isinstance(step.spec, JumpSpec) else ()
