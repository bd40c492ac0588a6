"""The kernel's UDP flows, listed in parts and deleted one by one, by conntrack's netlink.

Law: it decides nothing about a flow.  A listing is given out as it is read, some 150 entries at a time, so that its
user may do other things in between and memory stays bounded; the kernel waits with the rest.  One that changed
under way is read again, up to five times in all, and what was seen stands.

What is listed is UDP alone where the kernel can tell (since 5.8), for the sake of nodes with many TCP connections.
"""

from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from errno import EINVAL, ENOENT, EOPNOTSUPP, EPROTONOSUPPORT, ETIMEDOUT

from msgspec import Struct

from kubeproxy_py.kernel.conntrack.wire import Places, encode_delete, encode_list, encode_list_udp, flows_in, places
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host import command
from kubeproxy_py.kernel.netlink.messages import (
    DUMP,
    INTERRUPTED,
    NLMSG_DONE,
    NLMSG_ERROR,
    flagged,
    join,
    refusal,
    split,
)
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, Message, Socket
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import FAMILIES, Family

_TRIES = 5  # as upstream
_MODPROBE_TIMEOUT_S = 30.0
_HINT = "modprobe nf_conntrack_netlink on the host, or a kernel built with CONFIG_NF_CT_NETLINK"
# The filter is not known, or nothing of conntrack is: nfnetlink says EINVAL of a part that isn't loaded.
_UNKNOWN = frozenset((EINVAL, EOPNOTSUPP, EPROTONOSUPPORT))


class _Part(Struct, frozen=True, gc=False):
    """What one read of a listing brought, and whether things have changed under way until then."""

    entries: list[bytes]
    interrupted: bool


class Conntrack:
    """The flows of the network namespace in which it is used."""

    def __init__(self) -> None:
        self._asked_for_module = False

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        """The UDP flows to *servers*, in parts as they are read; perhaps some of them twice.

        Raises KernelError, with a hint, if the kernel can't list flows.
        """
        for family in FAMILIES:
            if wanted := places(servers, family):
                yield from self._flows_of(family, wanted)

    def delete_flows(self, flows: Collection[Flow]) -> tuple[int, list[str]]:
        """Delete *flows*: how many were deleted, and the kernel's words on each that it would not delete.

        One that was gone already is neither.  Raises KernelError if the kernel could not be asked.
        """
        with closing(Socket(NETLINK_NETFILTER)) as netlink:
            refused = netlink.execute(map(encode_delete, flows))
        return len(flows) - len(refused), [answer.text for answer in refused.values() if answer.errno != ENOENT]

    def _flows_of(self, family: Family, servers: Places) -> Iterator[list[Flow]]:
        for _ in range(_TRIES):
            interrupted = False
            for part in self._parts(family):
                interrupted = part.interrupted
                yield flows_in(part.entries, servers)
            if not interrupted:
                return

    def _parts(self, family: Family) -> Iterator[_Part]:
        """A listing; if the kernel knows none, after trying once to load what it lacks."""
        try:
            yield from _listed(family)
        except KernelError as error:
            if error.errno not in _UNKNOWN or self._asked_for_module:
                raise
            self._asked_for_module = True
            with suppress(KernelError):  # no modprobe: then the kernel has the last word
                command.run(["modprobe", "nf_conntrack_netlink"], timeout_s=_MODPROBE_TIMEOUT_S)
            yield from _listed(family)


def _listed(family: Family) -> Iterator[_Part]:
    """A listing of UDP alone, or else of everything.  Raises KernelError."""
    refusals = []
    for request in (encode_list_udp(family), encode_list(family)):
        try:
            yield from _listing(request)
        except KernelError as error:
            if error.errno not in _UNKNOWN:
                raise
            refusals.append(error)
        else:
            return
    raise KernelError("this kernel can't list UDP flows", errno=refusals[-1].errno, hint=_HINT) from refusals[-1]


def _listing(request: Message) -> Iterator[_Part]:
    """A listing on a socket of its own, which ends with it: one left in the middle could not be begun anew."""
    with closing(_ListingSocket(NETLINK_NETFILTER)) as netlink:
        yield from netlink.parts(request)


class _ListingSocket(Socket):
    """A socket whose listings are told as they are read, and not when they are whole."""

    def parts(self, request: Message) -> Iterator[_Part]:
        """What each read brings.  Raises KernelError."""
        done = interrupted = False
        try:
            self._socket.send(join([flagged(request, DUMP)], self._next_sequence(1)))
            while not done:
                entries = []
                for kind, _, flags, body in split(self._receive(0)):
                    interrupted = interrupted or bool(flags & INTERRUPTED)
                    done = kind in (NLMSG_DONE, NLMSG_ERROR)
                    if not done:
                        entries.append(body)
                    elif (answer := refusal(flags, body)).errno:
                        raise KernelError(answer.text, errno=answer.errno)
                yield _Part(entries, interrupted)
        except OSError as error:
            errno = ETIMEDOUT if isinstance(error, BlockingIOError) else error.errno or 0
            raise KernelError(f"listing UDP flows: {error.strerror}", errno=errno) from error
