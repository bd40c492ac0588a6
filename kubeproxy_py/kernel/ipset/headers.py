"""Which sets exist, and which set types the kernel has; nothing of an entry is read."""

from collections.abc import Iterable, Iterator
from contextlib import closing

from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.ipset.constants import IPSET_CMD_HEADER, IPSET_CMD_LIST, IPSET_CMD_TYPE, IPSET_ERR_FIND_TYPE
from kubeproxy_py.kernel.ipset.decode import decode_set_name
from kubeproxy_py.kernel.ipset.encode import encode_list_headers, encode_set_name, encode_type, message_type
from kubeproxy_py.kernel.ipset.errors import module_of, request_error
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, NLM_F_ACK, Socket, message
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.host_facts import Lack
from kubeproxy_py.net import Family


def set_names() -> tuple[str, ...]:
    """Return the names of all sets of this network namespace, of any program.  Raises KernelError."""
    with closing(Socket(NETLINK_NETFILTER)) as netlink:
        try:
            bodies = netlink.dump(message(message_type(IPSET_CMD_LIST), NLM_F_ACK, encode_list_headers()))
        except KernelError as error:
            raise request_error(error, IPSET_CMD_LIST) from error
    with decoding("a listing of sets"):
        return tuple(decode_set_name(body) for body in bodies)


def has_set(name: str) -> bool:
    """Return whether the set *name* exists; also False where it cannot be asked."""
    with closing(Socket(NETLINK_NETFILTER)) as netlink:
        try:
            netlink.request(message(message_type(IPSET_CMD_HEADER), 0, encode_set_name(name)))
        except KernelError:
            return False
    return True


def missing_types(families: Iterable[Family]) -> Iterator[Lack]:
    """Yield the set types that our sets need and the kernel lacks, having tried to load them.  Raises KernelError."""
    served = tuple(families)
    types = dict.fromkeys(
        (each.type, each.spec_in(family)) for each in kube_names.IPSET_DEFINITIONS for family in served
    )
    asked: set[str] = set()
    with closing(Socket(NETLINK_NETFILTER)) as netlink:
        for name, spec in types:
            if name in asked:
                continue
            asked.add(name)
            try:
                netlink.request(message(message_type(IPSET_CMD_TYPE), 0, encode_type(spec)))
            except KernelError as error:
                named = request_error(error, IPSET_CMD_TYPE, name)
                if error.errno != IPSET_ERR_FIND_TYPE:
                    raise named from error
                yield Lack(f"the kernel has no set type {name}", f"modprobe {module_of(name)}")
