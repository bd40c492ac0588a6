"""Our ipsets and their entries, by netlink, many entries in one message.

Law: an add makes its row true whatever stood there; a delete of what is gone is done; one entry that the kernel
refuses costs only itself.  A set whose header isn't the wanted one is never emptied on the way: its entries go
into a set of the wanted kind, which then takes its name, and rules that refer to it never see a gap.
"""

from collections.abc import Callable, Iterable, Sequence
from errno import EEXIST, ENOENT
from functools import cached_property, partial

from kubeproxy_py.kernel import Scope, Snapshot, ipset_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipset import batches as ipset_entries
from kubeproxy_py.kernel.ipset.wire import (
    ADD,
    CREATE,
    DELETE,
    DESTROY,
    ENTRY_TYPES,
    ERR_TYPE_MISMATCH,
    ERROR_TEXTS,
    LIST,
    SWAP,
    TYPE,
    as_listed,
    decode_entries,
    decode_revision,
    decode_spec,
    encode_create,
    encode_entries,
    encode_list,
    encode_named,
    encode_swap,
    encode_type,
    message_type,
)
from kubeproxy_py.kernel.netlink.socket import ACK, EXCLUSIVE, NETLINK_NETFILTER, NetlinkError, Socket, message
from kubeproxy_py.kernel.runs import runs, sorts
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import Ipset, IpsetEntry, IpsetSpec, Key, Rows
from kubeproxy_py.model.services import Family
from kubeproxy_py.model.steps import Step, StepFailure

TEMPORARY = "KUBE-PY-TEMPORARY"  # takes the place of a set that must change; lives for one step


class IpsetAdapter:
    """Ipset and IpsetEntry rows of *families*, in the network namespace in which it was first used."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._scopes = [ipset_scope(name) for name in scope_names(families)]
        self._revisions: dict[tuple[str, Family | None], int] = {}
        self._ways: dict[tuple[type[Key], str], Callable[[Sequence[Step]], list[StepFailure]]] = {
            (Ipset, "add"): self._create,
            (Ipset, "update"): self._replace_each,
            (Ipset, "delete"): self._destroy,
            (IpsetEntry, "add"): self._entries,
            (IpsetEntry, "update"): self._entries,
            (IpsetEntry, "delete"): self._entries,
        }

    def scopes(self) -> list[Scope]:
        """One for each set of ours, and for those that a process may have left that was killed."""
        return self._scopes

    def read(self, scope: Scope) -> Rows:
        """The set *scope* with its entries; nothing if it isn't there.  Raises KernelError.

        A set of another type than ours has any is told without entries: none of them can be wanted.
        """
        return self.listing(scope).rows()

    def listing(self, scope: Scope) -> Snapshot:
        """The same, not yet made into rows."""
        bodies = self._list(scope.name)
        return Snapshot(lambda: hash(tuple(bodies)), partial(_rows_in, scope.name, bodies))

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Carry out *steps*.  Raises KernelError if the kernel has no ipset."""
        failed: list[StepFailure] = []
        for way, run in runs(steps, sorts(steps)):
            failed += self._ways[way](run)
        return failed

    def close(self) -> None:
        """Close the socket; a later use opens another."""
        if "_netlink" in self.__dict__:
            self.__dict__.pop("_netlink").close()

    @cached_property
    def _netlink(self) -> Socket:
        return Socket(NETLINK_NETFILTER)

    def _list(self, name: str, *, header_only: bool = False) -> list[bytes]:
        try:
            # Before Linux 5.6 a listing that can't start is answered only if an ACK was asked for.
            return self._netlink.dump(message(message_type(LIST), ACK, encode_list(name, header_only=header_only)))
        except KernelError as error:
            if error.errno == ENOENT:
                return []
            raise

    def _header(self, name: str) -> IpsetSpec | None:
        bodies = self._list(name, header_only=True)
        return decode_spec(bodies[0]) if bodies else None

    def _execute(self, command: int, bodies: Iterable[bytes], flags: int = 0) -> dict[int, NetlinkError]:
        kind = message_type(command)
        return self._netlink.execute(message(kind, flags, body) for body in bodies)

    def _do(self, command: int, body: bytes, flags: int = 0) -> NetlinkError | None:
        return self._execute(command, [body], flags).get(0)

    def _create_body(self, name: str, spec: IpsetSpec) -> bytes:
        """Raises KernelError if the kernel doesn't know the type."""
        which = spec.type, spec.family
        if which not in self._revisions:
            self._revisions[which] = decode_revision(
                self._netlink.ask(message(message_type(TYPE), 0, encode_type(spec)))
            )
        return encode_create(name, spec, self._revisions[which])

    def _create(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Make sets; one that is there must be as wanted.

        The kernel itself would take another family for the same set, so it is not left to it to compare.
        """
        failed: list[StepFailure] = []
        bodies: list[bytes] = []
        makeable: list[Step] = []
        for step in steps:
            try:
                bodies.append(self._create_body(set_name(step), wanted_spec(step)))
                makeable.append(step)
            except KernelError as error:
                failed.append(
                    StepFailure(step, error.errno, f"set type {wanted_spec(step).type} is not to be had: {error}")
                )
        for index, refusal in self._execute(CREATE, bodies, EXCLUSIVE).items():
            step = makeable[index]
            if refusal.errno != EEXIST:
                failed.append(_failed(step, refusal))
            elif self._header(set_name(step)) != as_listed(wanted_spec(step)):
                failed += self._replace_each([step])
        return failed

    def _destroy(self, steps: Sequence[Step]) -> list[StepFailure]:
        refused = self._execute(DESTROY, (encode_named(set_name(step)) for step in steps))
        return [_failed(steps[i], refusal) for i, refusal in refused.items() if refusal.errno != ENOENT]

    def _replace_each(self, steps: Sequence[Step]) -> list[StepFailure]:
        failed: list[StepFailure] = []
        for step in steps:
            try:
                failed += self._replace(step)
            except KernelError as error:
                failed.append(StepFailure(step, error.errno, str(error)))
            self._do(DESTROY, encode_named(TEMPORARY))
        return failed

    def _replace(self, step: Step) -> list[StepFailure]:
        """Put the wanted set, with the entries that it has, in the place of the one there."""
        name, spec = set_name(step), wanted_spec(step)
        rows = self.read(ipset_scope(name))
        if not rows:
            return self._create([step])
        self._do(DESTROY, encode_named(TEMPORARY))
        if refusal := self._do(CREATE, self._create_body(TEMPORARY, spec), EXCLUSIVE):
            return [_failed(step, refusal)]
        old = rows.pop(Ipset(name))
        assert isinstance(old, IpsetSpec)
        if spec.is_like(old):
            entries = [Step("add", IpsetEntry(TEMPORARY, key.entry)) for key in rows if isinstance(key, IpsetEntry)]
            if unfit := self._entries(entries):
                return [
                    StepFailure(step, unfit[0].errno, f"{len(unfit)} entries of the set don't fit: {unfit[0].message}")
                ]
        refusal = self._do(SWAP, encode_swap(TEMPORARY, name))
        if refusal and refusal.errno == ERR_TYPE_MISMATCH:
            return self._make_anew(step)
        return [_failed(step, refusal)] if refusal else []

    def _make_anew(self, step: Step) -> list[StepFailure]:
        """Sets of different kinds can't be swapped: destroy the old one, which no rule may refer to then."""
        if refusal := self._do(DESTROY, encode_named(set_name(step))):
            words = ERROR_TEXTS.get(refusal.errno, refusal.text)
            return [StepFailure(step, refusal.errno, f"{words}, with another type (remove the rules that name it)")]
        return self._create([step])

    def _entries(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Add or delete entries, all with one verb.

        The kernel stops at the first entry of a message that it refuses and tells its line.  Those behind it are
        sent again, each alone, so that the second answer is the last.
        """
        command = DELETE if steps and steps[0].verb == "delete" else ADD
        sendable, encoded, failed = ipset_entries.encode(steps)
        messages = list(ipset_entries.pack(sendable, encoded))
        again: list[int] = []
        for number, refusal in self._execute(command, (body for _, body in messages)).items():
            culprits, unsure = ipset_entries.blame(messages[number][0], refusal)
            failed += _entry_failures(sendable, culprits, refusal)
            again += unsure
        singles = (encode_entries(ipset_entries.set_of(sendable[index]), [encoded[index]]) for index in again)
        for number, refusal in self._execute(command, singles).items():
            failed += _entry_failures(sendable, again[number : number + 1], refusal)
        return failed


def _rows_in(name: str, bodies: Sequence[bytes]) -> Rows:
    """The set *name* as it was listed."""
    if not bodies:
        return {}
    spec = decode_spec(bodies[0])
    rows: Rows = {Ipset(name): spec}
    if spec.type in ENTRY_TYPES:
        rows.update((IpsetEntry(name, entry), None) for body in bodies for entry in decode_entries(body))
    return rows


def _entry_failures(steps: Sequence[Step], indexes: Iterable[int], refusal: NetlinkError) -> list[StepFailure]:
    """The entries at *indexes* as failed; one to be deleted from a set that is gone is gone as well."""
    failed = (_failed(steps[index], refusal) for index in indexes)
    return [failure for failure in failed if not (failure.step.verb == "delete" and failure.errno == ENOENT)]


def scope_names(families: Iterable[Family]) -> list[str]:
    """The sets that may be ours."""
    return [*(key.name for family in families for key in tables.ipsets(family)), tables.PLACEHOLDER_SET, TEMPORARY]


def set_name(step: Step) -> str:
    """The set that *step* is about."""
    assert isinstance(step.key, Ipset)
    return step.key.name


def wanted_spec(step: Step) -> IpsetSpec:
    """The header that *step* shall bring about."""
    assert isinstance(step.spec, IpsetSpec)
    return step.spec


def _failed(step: Step, refusal: NetlinkError) -> StepFailure:
    missing = "no such set" if refusal.errno == ENOENT else refusal.text
    return StepFailure(step, refusal.errno, ERROR_TEXTS.get(refusal.errno, missing))
