"""ipset's own error numbers as text, by command and set type, with the remedy where there is one.

The numbers from 4352 on mean something else for each kind of type.  Others are the kernel's usual ones, except that
nfnetlink answers EINVAL for a subsystem that it does not have: ip_set is not loaded.

Source: include/uapi/linux/netfilter/ipset/ip_set.h, ip_set_bitmap.h, ip_set_hash.h; lib/errcode.c of ipset.
"""

import re
from errno import EEXIST, EINVAL, ENOENT

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipset.constants import (
    IPSET_CMD_ADD,
    IPSET_CMD_CREATE,
    IPSET_CMD_DEL,
    IPSET_ERR_BUSY,
    IPSET_ERR_EXIST,
    IPSET_ERR_FIND_TYPE,
    IPSET_ERR_HASH_FULL,
    IPSET_ERR_INVALID_CIDR,
    IPSET_ERR_PROTOCOL,
    IPSET_ERR_TYPE_MISMATCH,
)

_NO_IPSET = "the kernel does not support ipset (modprobe ip_set)"
_NOT_AN_ENTRY = "not an entry for this set: other family, or parts missing"
_TEXTS_BY_COMMAND = {
    (IPSET_CMD_ADD, IPSET_ERR_PROTOCOL): _NOT_AN_ENTRY,
    (IPSET_CMD_DEL, IPSET_ERR_PROTOCOL): _NOT_AN_ENTRY,
    (IPSET_CMD_ADD, IPSET_ERR_EXIST): "it is in the set already",
    (IPSET_CMD_DEL, IPSET_ERR_EXIST): "it is not in the set",
}
_TEXTS = {
    ENOENT: "no such set",
    IPSET_ERR_PROTOCOL: "the kernel does not understand the request",
    IPSET_ERR_FIND_TYPE: "the kernel has no set type {type} (modprobe {module})",
    4099: "the kernel has no room for more sets (parameter max_sets of ip_set)",
    IPSET_ERR_BUSY: "the set is in use",
    4101: "a set of that name exists already",
    IPSET_ERR_TYPE_MISMATCH: "the sets differ in type or family",
    IPSET_ERR_EXIST: "it exists already, or is missing",
    IPSET_ERR_INVALID_CIDR: "not a usable prefix length",
    4105: "not a usable netmask",
    4106: "the set type {type} has no such family",
    4107: "the set has no timeouts",
    4108: "the set is in use",
    4109: "not an IPv4 address",
    4110: "not an IPv6 address",
    4111: "the set has no counters",
    4112: "the set has no comments",
    4113: "not a usable mark mask",
    4114: "the set has no skbinfo",
    4115: "bitmask and netmask exclude each other",
}
_TEXTS_BY_KIND = {
    "bitmap": {4352: "outside of the set's range", 4353: "the range is too large for the set type"},
    "hash": {
        IPSET_ERR_HASH_FULL: "the set is full",
        4353: "an address or port of zero cannot be an entry",
        4354: "not a protocol that the set type knows",
        4355: "the protocol is missing",
        4356: "the set type has no ranges",
        4357: "not a valid range",
    },
}
_ERRNO_OF_TOOL_TEXT = {  # text in the output of the program ipset -> the errno that the kernel returned to it
    "does not exist": ENOENT,
    "already exists": EEXIST,
    "set type not supported": IPSET_ERR_FIND_TYPE,
    "is full": IPSET_ERR_HASH_FULL,
    "in use by a kernel component": IPSET_ERR_BUSY,
    "their type does not match": IPSET_ERR_TYPE_MISMATCH,
    "CIDR parameter": IPSET_ERR_INVALID_CIDR,
}
_TOOL_NUMBER = re.compile(r"Unknown error ([0-9]{1,9})")


def error_text(errno: int, text: str, command: int, set_type: str = "") -> str:
    """Return what *errno* means for *command*; *text*, the kernel's or the system's, where ipset has no own meaning."""
    if errno == EINVAL and command not in (IPSET_CMD_ADD, IPSET_CMD_DEL):
        return _NO_IPSET
    kind, _, _ = (set_type or "hash").partition(":")
    known = _TEXTS_BY_COMMAND.get((command, errno)) or _TEXTS.get(errno) or _TEXTS_BY_KIND.get(kind, {}).get(errno)
    if known is None:
        return text
    return known.format(type=set_type or "that was requested", module=module_of(set_type) if set_type else "ip_set_*")


def request_error(error: KernelError, command: int, set_type: str = "") -> KernelError:
    """Return *error*, of a request, in the words of ``error_text``; without a set's name, so equal for equal causes."""
    return KernelError(error_text(error.errno, str(error), command, set_type), errno=error.errno)


def module_of(set_type: str) -> str:
    """Return the kernel module of a set type: ``ip_set_hash_ipportnet`` for ``hash:ip,port,net``."""
    set_type, _, _ = set_type.partition(" ")  # without our options
    return f"ip_set_{set_type.replace(':', '_').replace(',', '')}"


def tool_errno(text: str) -> int:
    """Return the errno that the kernel returned to the program ipset, from its error *text*."""
    if number := _TOOL_NUMBER.search(text):
        return int(number[1])
    return next((errno for fragment, errno in _ERRNO_OF_TOOL_TEXT.items() if fragment in text), EINVAL)


def tool_text(text: str, set_type: str = "") -> str:
    """Return the error *text* of the program ipset, with the module where a module is missing."""
    errno = tool_errno(text)
    if "Kernel error received: Invalid argument" in text:
        return _NO_IPSET
    if errno == IPSET_ERR_FIND_TYPE or _TOOL_NUMBER.search(text):
        return error_text(errno, text, IPSET_CMD_CREATE, set_type)
    return text
