"""Marks of our sets: their headers, all of them by one listing without entries.

Invariants:
- The listing has the sets of other programs, too; only a header that is not as it was last time is decoded.
- References and memory are left out: they follow from rules and from the kernel's own resizing.
- Kernels before 4.10 do not count entries, so there the sets have no marks.

Source: net/netfilter/ipset/ip_set_core.c, ip_set_dump_do; IPSET_ATTR_ELEMENTS in ip_set_hash_gen.h.
"""

from collections.abc import Iterable, Mapping

from kubeproxy_py.kernel import Mark, ipset_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipset.constants import IPSET_CMD_LIST
from kubeproxy_py.kernel.ipset.decode import decode_element_count, decode_set_name, decode_spec
from kubeproxy_py.kernel.ipset.encode import encode_list_headers, message_type
from kubeproxy_py.kernel.ipset.errors import request_error
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, NLM_F_ACK, Socket, message


class IpsetMarkReader:
    """Reads the marks of the sets *names*, in the network namespace in which it is first used."""

    def __init__(self, names: Iterable[str]) -> None:
        self._absent = {name: Mark(ipset_scope(name), 0, ((name, 0),)) for name in names}
        self._socket: Socket | None = None
        self._bodies: list[bytes] = []  # of the last listing
        self._marks: Mapping[str, Mark] = self._absent
        self._decoded: dict[bytes, Mark | None] = {}  # by header, as listed last; None: not ours, or without a count

    def read(self) -> Mapping[str, Mark]:
        """Return the mark of each set that has one, whether it exists or not.  Raises KernelError."""
        self._socket = self._socket or Socket(NETLINK_NETFILTER)
        try:
            bodies = self._socket.dump(message(message_type(IPSET_CMD_LIST), NLM_F_ACK, encode_list_headers()))
        except KernelError as error:
            raise request_error(error, IPSET_CMD_LIST) from error
        if bodies == self._bodies:
            return self._marks
        known = self._decoded
        self._decoded = {body: known[body] if body in known else self._decode(body) for body in bodies}
        self._bodies = bodies
        self._marks = self._absent | {mark.scope.name: mark for mark in self._decoded.values() if mark}
        return self._marks

    def close(self) -> None:
        """Close the socket; a later use opens another."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def _decode(self, body: bytes) -> Mark | None:
        name = decode_set_name(body)
        if name not in self._absent:
            return None
        spec, elements = decode_spec(body), decode_element_count(body)
        if elements is None:
            del self._absent[name]  # this kernel does not count
            return None
        return Mark(ipset_scope(name), hash((spec, elements)), ((name, 1 + elements),))  # the set is a row of its group
