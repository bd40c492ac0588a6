"""Our ipsets and their entries, by netlink, many entries in one message.

Invariants:
- An add makes its row true whether or not the row exists; a delete of a missing row succeeds; an entry that the kernel
  refuses does not affect other entries.
- A set with another header is never emptied while it is replaced: its entries are copied to a new set, which is then
  swapped in, so rules that refer to the set never match an empty one.
"""

from collections.abc import Callable, Iterable, Sequence
from errno import EEXIST, ENOENT
from functools import partial

from kubeproxy_py.kernel import MarkReader, Scope, Snapshot, ipset_scope
from kubeproxy_py.kernel.dispatch import group_steps, row_kind_and_verb
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipset import batches
from kubeproxy_py.kernel.ipset.constants import (
    IPSET_CMD_ADD,
    IPSET_CMD_CREATE,
    IPSET_CMD_DEL,
    IPSET_CMD_DESTROY,
    IPSET_CMD_LIST,
    IPSET_CMD_SWAP,
    IPSET_CMD_TYPE,
    IPSET_ERR_TYPE_MISMATCH,
    NEEDED_REVISIONS,
)
from kubeproxy_py.kernel.ipset.decode import as_read_back, decode_header, decode_revisions, decode_set
from kubeproxy_py.kernel.ipset.encode import (
    encode_create,
    encode_entries,
    encode_list,
    encode_set_name,
    encode_swap,
    encode_type,
    message_type,
)
from kubeproxy_py.kernel.ipset.errors import error_text, request_error
from kubeproxy_py.kernel.ipset.marks import IpsetMarkReader
from kubeproxy_py.kernel.netlink.socket import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_EXCL,
    NetlinkError,
    Socket,
    message,
)
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import TEMPORARY_SET
from kubeproxy_py.model.rows import Ipset, IpsetEntry, IpsetSpec, Key, PolicyEntry, Rows
from kubeproxy_py.model.steps import Step, StepFailure, Verb
from kubeproxy_py.net import FAMILIES, Family


class IpsetAdapter:
    """Ipset and IpsetEntry rows of *families*, in the network namespace in which it is first used.

    With *policies* also those of exact policies.
    """

    def __init__(self, families: Iterable[Family], *, policies: bool = False) -> None:
        self._scopes = [ipset_scope(name) for name in owned_set_names(families, policies=policies)]
        self._marks = IpsetMarkReader(scope.name for scope in self._scopes)
        self._socket: Socket | None = None
        self._revisions: dict[tuple[str, Family | None], int] = {}
        self._handlers: dict[tuple[type[Key], Verb], Callable[[Sequence[Step]], list[StepFailure]]] = {
            (Ipset, "add"): self._create,
            (Ipset, "update"): self._replace_each,
            (Ipset, "delete"): self._destroy,
            (IpsetEntry, "add"): self._apply_entries,
            (IpsetEntry, "update"): self._apply_entries,
            (IpsetEntry, "delete"): self._apply_entries,
            (PolicyEntry, "add"): self._apply_entries,
            (PolicyEntry, "update"): self._apply_entries,
            (PolicyEntry, "delete"): self._apply_entries,
        }

    def scopes(self) -> list[Scope]:
        """Return one scope for each set of ours, and for those that a killed process may have left."""
        return self._scopes

    def read(self, scope: Scope) -> Rows:
        """Return the set *scope* with its entries; nothing if it does not exist.  Raises KernelError.

        A set of a type that we never create is returned without entries: none of them can be desired.
        """
        return self.snapshot(scope).rows()

    def snapshot(self, scope: Scope) -> Snapshot:
        """Return the listing of the set *scope*.  Raises KernelError."""
        bodies = self._list(scope.name)
        return Snapshot(lambda: hash(tuple(bodies)), partial(decode_set, scope.name, bodies))

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Carry out *steps* and return the failures.  Raises KernelError if the kernel has no ipset."""
        failures: list[StepFailure] = []
        for kind_and_verb, group in group_steps(steps, row_kind_and_verb):
            failures += self._handlers[kind_and_verb](group)
        return failures

    def mark_readers(self) -> list[MarkReader]:
        """Return one reader, of the headers of all sets."""
        return [MarkReader("ipsets", self._marks.read)]

    def close(self) -> None:
        """Close the sockets; a later use opens others."""
        self._marks.close()
        if self._socket:
            self._socket.close()
            self._socket = None

    @property
    def _netlink(self) -> Socket:
        if self._socket is None:
            self._socket = Socket(NETLINK_NETFILTER)
        return self._socket

    def _list(self, name: str, *, header_only: bool = False) -> list[bytes]:
        body = encode_list(name, header_only=header_only)
        try:
            # Before Linux 5.6 an error at the start of a listing is answered only if an ACK was requested.
            return self._netlink.dump(message(message_type(IPSET_CMD_LIST), NLM_F_ACK, body))
        except KernelError as error:
            if error.errno == ENOENT:
                return []
            raise request_error(error, IPSET_CMD_LIST) from error

    def _read_spec(self, name: str) -> IpsetSpec | None:
        return decode_header(self._list(name, header_only=True))

    def _execute(self, command: int, bodies: Iterable[bytes], flags: int = 0) -> dict[int, NetlinkError]:
        nlmsg_type = message_type(command)
        return self._netlink.execute(message(nlmsg_type, flags, body) for body in bodies)

    def _execute_one(self, command: int, body: bytes, flags: int = 0) -> NetlinkError | None:
        return self._execute(command, [body], flags).get(0)

    def _create_body(self, name: str, spec: IpsetSpec) -> bytes:
        """Return the body of CREATE.  Raises KernelError if the kernel does not know the type."""
        type_and_family = spec.type, spec.family
        if type_and_family not in self._revisions:
            try:
                reply = self._netlink.request(message(message_type(IPSET_CMD_TYPE), 0, encode_type(spec)))
            except KernelError as error:
                raise request_error(error, IPSET_CMD_TYPE, spec.type) from error
            supported, needed = decode_revisions(reply), NEEDED_REVISIONS.get(spec.type, 0)
            self._revisions[type_and_family] = next((n for n in supported if n >= needed), supported[-1])
        return encode_create(name, spec, self._revisions[type_and_family])

    def _create(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Create sets; replace an existing set whose header differs from the desired one.

        The comparison is not left to the kernel, which regards a set of another family as the same set.
        """
        failures: list[StepFailure] = []
        bodies: list[bytes] = []
        sendable: list[Step] = []
        for step in steps:
            spec = desired_spec(step)
            try:
                bodies.append(self._create_body(set_name(step), spec))
                sendable.append(step)
            except KernelError as error:
                failures.append(StepFailure(step, error.errno, str(error)))
        for index, create_error in self._execute(IPSET_CMD_CREATE, bodies, NLM_F_EXCL).items():
            step = sendable[index]
            if create_error.errno != EEXIST:
                failures.append(_failure(step, create_error, IPSET_CMD_CREATE))
            elif self._read_spec(set_name(step)) != as_read_back(desired_spec(step)):
                failures += self._replace_each([step])
        return failures

    def _destroy(self, steps: Sequence[Step]) -> list[StepFailure]:
        errors = self._execute(IPSET_CMD_DESTROY, (encode_set_name(set_name(step)) for step in steps))
        return [
            _failure(steps[index], error, IPSET_CMD_DESTROY) for index, error in errors.items() if error.errno != ENOENT
        ]

    def _replace_each(self, steps: Sequence[Step]) -> list[StepFailure]:
        failures: list[StepFailure] = []
        for step in steps:
            try:
                failures += self._replace(step)
            except KernelError as error:
                failures.append(StepFailure(step, error.errno, str(error)))
            self._destroy_temporary()
        return failures

    def _replace(self, step: Step) -> list[StepFailure]:
        """Replace the existing set by the desired one with the same entries; create it if it is missing."""
        name, spec = set_name(step), desired_spec(step)
        rows = self.read(ipset_scope(name))
        if not rows:
            return self._create([step])
        self._destroy_temporary()
        create = self._create_body(TEMPORARY_SET, spec)
        if error := self._execute_one(IPSET_CMD_CREATE, create, NLM_F_EXCL):
            return [_failure(step, error, IPSET_CMD_CREATE)]
        old = rows.pop(Ipset(name))
        assert isinstance(old, IpsetSpec)
        if spec.can_swap_with(old):
            entries = [
                Step("add", IpsetEntry(TEMPORARY_SET, key.entry), mark)
                for key, mark in rows.items()
                if isinstance(key, IpsetEntry)
            ]
            if unfit := self._apply_entries(entries):
                text = f"{len(unfit)} entries of the set don't fit: {unfit[0].message}"
                return [StepFailure(step, unfit[0].errno, text)]
        swap_error = self._execute_one(IPSET_CMD_SWAP, encode_swap(TEMPORARY_SET, name))
        if swap_error and swap_error.errno == IPSET_ERR_TYPE_MISMATCH:
            return self._recreate(step)
        return [_failure(step, swap_error, IPSET_CMD_SWAP)] if swap_error else []

    def _destroy_temporary(self) -> None:
        self._execute_one(IPSET_CMD_DESTROY, encode_set_name(TEMPORARY_SET))

    def _recreate(self, step: Step) -> list[StepFailure]:
        """Destroy the set and create it; sets of different types cannot be swapped.  No rule may refer to it."""
        if error := self._execute_one(IPSET_CMD_DESTROY, encode_set_name(set_name(step))):
            text = error_text(error.errno, error.text, IPSET_CMD_DESTROY)
            return [StepFailure(step, error.errno, f"{text}, with another type (remove the rules that name it)")]
        return self._create([step])

    def _apply_entries(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Add or delete entries, all with one verb.

        The kernel stops at the first entry of a message that it refuses and returns its line.  Those after it are
        sent again one by one, so that no entry is sent more than twice.
        """
        command = IPSET_CMD_DEL if steps and steps[0].verb == "delete" else IPSET_CMD_ADD
        sendable, encoded, failures = batches.encode(steps)
        messages = list(batches.pack(sendable, encoded))
        unknown: list[int] = []
        for number, error in self._execute(command, (body for _, body in messages)).items():
            refused, unknown_in_batch = batches.locate_failures(messages[number][0], error)
            failures += _entry_failures(sendable, refused, error, command)
            unknown += unknown_in_batch
        singles = (encode_entries(batches.set_of(sendable[index]), [encoded[index]]) for index in unknown)
        for number, error in self._execute(command, singles).items():
            failures += _entry_failures(sendable, unknown[number : number + 1], error, command)
        return failures


def owned_set_names(families: Iterable[Family], *, policies: bool = False) -> list[str]:
    """Return the names of the sets that may be ours; with *policies* those of exact policies, too."""
    definitions = (*kube_names.IPSET_DEFINITIONS, *(kube_names.POLICY_IPSET_DEFINITIONS if policies else ()))
    ours = (key.name for family in families for key in kube_names.ipsets(family, definitions=definitions))
    return [*ours, kube_names.PLACEHOLDER_SET, TEMPORARY_SET]


def set_name(step: Step) -> str:
    """Return the name of the set of a step on an Ipset row."""
    assert isinstance(step.key, Ipset)
    return step.key.name


def desired_spec(step: Step) -> IpsetSpec:
    """Return the desired header of a step that adds or updates an Ipset row."""
    assert isinstance(step.spec, IpsetSpec)
    return step.spec


def _entry_failures(
    steps: Sequence[Step], indexes: Iterable[int], error: NetlinkError, command: int
) -> list[StepFailure]:
    """Return failures of the steps at *indexes*, except deletes from a set that no longer exists."""
    failures = (_failure(steps[index], error, command) for index in indexes)
    return [failure for failure in failures if not (failure.step.verb == "delete" and failure.errno == ENOENT)]


_DEFINITIONS = (*kube_names.IPSET_DEFINITIONS, *kube_names.POLICY_IPSET_DEFINITIONS)
_TYPES = {
    key.name: spec.type
    for family in FAMILIES
    for key, spec in kube_names.ipsets(family, definitions=_DEFINITIONS).items()
}


def _failure(step: Step, error: NetlinkError, command: int) -> StepFailure:
    if isinstance(step.spec, IpsetSpec):
        set_type = step.spec.type
    else:
        set_type = _TYPES.get(step.key.set if isinstance(step.key, IpsetEntry) else str(step.key), "")
    return StepFailure(step, error.errno, error_text(error.errno, error.text, command, set_type))
