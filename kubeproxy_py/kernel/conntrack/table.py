"""List and delete the kernel's UDP flows, by conntrack's netlink.

Invariants:
- Nothing is decided here about a flow.
- A listing is yielded as it is read, about 150 entries at a time, so that the caller can do other work in between and
  memory stays bounded; the kernel keeps the rest until it is read.
- A listing that changed while it was read is repeated, five times in total; what was yielded remains valid.

The kernel filters for UDP where it can (since 5.8), for nodes with many TCP connections.
"""

from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from errno import EINVAL, ENOENT, EOPNOTSUPP, EPROTONOSUPPORT, ETIMEDOUT

from msgspec import Struct

from kubeproxy_py.kernel.conntrack.wire import (
    ServerIndex,
    encode_delete,
    encode_list,
    encode_list_udp,
    flows_in,
    index_servers,
)
from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.host import command
from kubeproxy_py.kernel.netlink.messages import (
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    decode_error,
    encode_request,
    split_messages,
)
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, Message, Socket
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.net import FAMILIES, Family

_TRIES = 5  # as kube-proxy
_HINT = "modprobe nf_conntrack_netlink on the host, or use a kernel built with CONFIG_NF_CT_NETLINK"
# The kernel does not know the filter, or has no conntrack netlink: nfnetlink answers EINVAL for a subsystem not loaded.
_UNSUPPORTED = frozenset((EINVAL, EOPNOTSUPP, EPROTONOSUPPORT))


class _Part(Struct, frozen=True, gc=False):
    """What one read of a listing returned, and whether entries had changed by then."""

    entries: list[bytes]
    interrupted: bool


class Conntrack:
    """The flows of the network namespace in which it is used."""

    def __init__(self) -> None:
        self._tried_module = False

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        """Yield the UDP flows to *servers* in parts as they are read; some of them may be yielded twice.

        Raises:
            KernelError: The kernel cannot list flows; with a hint.
        """
        for family in FAMILIES:
            if index := index_servers(servers, family):
                yield from self._flows_of(family, index)

    def delete_flows(self, flows: Collection[Flow]) -> tuple[int, list[str]]:
        """Delete *flows*.

        Returns:
            How many were deleted, and the error text of each that could not be deleted.  A flow that no longer existed
            is in neither.

        Raises:
            KernelError: The kernel could not be asked.
        """
        with closing(Socket(NETLINK_NETFILTER)) as netlink, decoding("a UDP flow"):
            errors = netlink.execute(map(encode_delete, flows))
        return len(flows) - len(errors), [error.text for error in errors.values() if error.errno != ENOENT]

    def _flows_of(self, family: Family, servers: ServerIndex) -> Iterator[list[Flow]]:
        for _ in range(_TRIES):
            interrupted = False
            for part in self._parts(family):
                interrupted = part.interrupted
                yield flows_in(part.entries, servers)
            if not interrupted:
                return

    def _parts(self, family: Family) -> Iterator[_Part]:
        """Yield a listing; if the kernel does not support one, try once to load the module.  Raises KernelError."""
        try:
            yield from _list_flows(family)
        except KernelError as error:
            if error.errno not in _UNSUPPORTED or self._tried_module:
                raise
            self._tried_module = True
            with suppress(KernelError):  # without modprobe the kernel's error below is the one to report
                command.load_module("nf_conntrack_netlink")
            yield from _list_flows(family)


def _list_flows(family: Family) -> Iterator[_Part]:
    """Yield a listing of UDP flows or, if the kernel has no filter, of all flows.  Raises KernelError."""
    errors = []
    for request in (encode_list_udp(family), encode_list(family)):
        try:
            yield from _run_listing(request)
        except KernelError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            errors.append(error)
        else:
            return
    raise KernelError("this kernel cannot list UDP flows", errno=errors[-1].errno, hint=_HINT) from errors[-1]


def _run_listing(request: Message) -> Iterator[_Part]:
    """Yield a listing from its own socket, because after an abandoned listing a socket cannot start another."""
    with closing(_ListingSocket(NETLINK_NETFILTER)) as netlink:
        yield from netlink.parts(request)


class _ListingSocket(Socket):
    """A socket that yields a listing as it is read instead of when it is complete."""

    def parts(self, request: Message) -> Iterator[_Part]:
        """Yield what each read returns.  Raises KernelError."""
        done = interrupted = False
        try:
            self._socket.send(encode_request(request, NLM_F_DUMP, self._next_sequence(1)))
            while not done:
                entries = []
                for message_type, _, flags, body in split_messages(self._receive(0)):
                    interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                    done = message_type in (NLMSG_DONE, NLMSG_ERROR)
                    if not done:
                        entries.append(body)
                    elif (error := decode_error(flags, body)).errno:
                        raise KernelError(error.text, errno=error.errno)
                yield _Part(entries, interrupted)
        except OSError as error:
            errno = ETIMEDOUT if isinstance(error, BlockingIOError) else error.errno or 0
            raise KernelError(f"listing UDP flows: {error.strerror}", errno=errno) from error
