"""ipset's error numbers as text: every number has one, in both adapters, and a missing type names its module."""

import errno
import re

import pytest

from kubeproxy_py.kernel.errors import KernelError, errno_text
from kubeproxy_py.kernel.ipset.command import parse_save
from kubeproxy_py.kernel.ipset.constants import (
    IPSET_CMD_ADD,
    IPSET_CMD_CREATE,
    IPSET_CMD_DEL,
    IPSET_CMD_DESTROY,
    IPSET_CMD_LIST,
    IPSET_CMD_SWAP,
    IPSET_CMD_TYPE,
    NEEDED_REVISIONS,
)
from kubeproxy_py.kernel.ipset.decode import decode_revisions
from kubeproxy_py.kernel.ipset.errors import error_text, module_of, request_error, tool_errno, tool_text
from kubeproxy_py.kernel.netlink.attributes import u8
from kubeproxy_py.kernel.netlink.messages import NLMSGHDR, decode_error
from kubeproxy_py.model.kube_names import IPSET_DEFINITIONS, POLICY_IPSET_DEFINITIONS

COMMANDS = (
    IPSET_CMD_CREATE,
    IPSET_CMD_DESTROY,
    IPSET_CMD_SWAP,
    IPSET_CMD_LIST,
    IPSET_CMD_ADD,
    IPSET_CMD_DEL,
    IPSET_CMD_TYPE,
)
GENERAL_ERRORS = range(4097, 4116)  # enum ipset_errno of Linux 6.3
TYPE_ERRORS = {"hash:ip,port": range(4352, 4358), "bitmap:port": range(4352, 4354)}
TYPES = sorted({definition.type for definition in (*IPSET_DEFINITIONS, *POLICY_IPSET_DEFINITIONS)})


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("set_type", TYPES)
def test_every_error_number_of_ipset_has_a_text(command: int, set_type: str) -> None:
    kind = "bitmap:port" if set_type.startswith("bitmap") else "hash:ip,port"
    texts = [error_text(number, f"error {number}", command, set_type) for number in GENERAL_ERRORS]
    texts += [error_text(number, f"error {number}", command, set_type) for number in TYPE_ERRORS[kind]]
    assert not [text for text in texts if re.search(r"error \d|[{}]", text)]


@pytest.mark.parametrize("number", [4096, 4116, 4358, 5000, 512, 524, 70000])
def test_an_unknown_error_number_is_printed_as_a_number_and_not_as_unknown(number: int) -> None:
    packed = (-number).to_bytes(4, "little", signed=True) + NLMSGHDR.pack(16, 0, 0, 1, 0)
    text = decode_error(0, packed).text
    assert text == errno_text(number)
    assert "Unknown" not in error_text(number, text, IPSET_CMD_ADD, "hash:ip")


def test_known_numbers_of_the_system_have_the_system_text() -> None:
    assert errno_text(errno.EPERM) == "Operation not permitted"


@pytest.mark.parametrize(
    ("set_type", "module"),
    [
        ("hash:ip", "ip_set_hash_ip"),
        ("hash:ip,port", "ip_set_hash_ipport"),
        ("hash:ip,port,ip", "ip_set_hash_ipportip"),
        ("hash:ip,port,net", "ip_set_hash_ipportnet"),
        ("bitmap:port", "ip_set_bitmap_port"),
    ],
)
def test_a_missing_set_type_names_its_module_in_both_adapters(set_type: str, module: str) -> None:
    assert module_of(set_type) == module
    expected = f"the kernel has no set type {set_type} (modprobe {module})"
    error = request_error(KernelError("error 4098", errno=4098), IPSET_CMD_TYPE, set_type)
    assert (str(error), error.errno) == (expected, 4098)
    for text in ("Kernel error received: set type not supported", "Kernel error received: Unknown error 4098"):
        assert (tool_text(f"ipset v7.17: {text}", set_type), tool_errno(text)) == (expected, 4098)


def test_a_kernel_without_ipset_names_the_module_in_both_adapters() -> None:
    expected = "the kernel does not support ipset (modprobe ip_set)"
    assert str(request_error(KernelError("Invalid argument", errno=errno.EINVAL), IPSET_CMD_LIST)) == expected
    assert tool_text("ipset v7.17: Kernel error received: Invalid argument") == expected


def test_an_invalid_entry_is_not_taken_for_a_kernel_without_ipset() -> None:
    assert error_text(errno.EINVAL, "Invalid argument", IPSET_CMD_ADD, "hash:ip") == "Invalid argument"


def test_one_number_means_different_things_for_different_types() -> None:
    assert error_text(4352, "", IPSET_CMD_ADD, "hash:ip") == "the set is full"
    assert error_text(4352, "", IPSET_CMD_ADD, "bitmap:port") == "outside of the set's range"


def test_every_type_that_is_used_has_a_needed_revision() -> None:
    assert NEEDED_REVISIONS.keys() == set(TYPES)


def test_the_supported_revisions_are_those_from_the_lowest_to_the_highest() -> None:
    assert decode_revisions(bytes(4) + u8(4, 7) + u8(10, 0)) == range(8)
    assert decode_revisions(bytes(4) + u8(4, 7)) == range(7, 8)


def test_a_text_with_braces_is_passed_on() -> None:
    assert error_text(9999, "no {such} thing", IPSET_CMD_ADD, "hash:ip") == "no {such} thing"


@pytest.mark.parametrize(
    "saved",
    [b"", b"create KUBE-X\n", b"create KUBE-X hash:ip family inet\nadd KUBE-X\n", b"create KUBE-X hash:ip \xff\n"],
)
def test_output_of_ipset_save_that_cannot_be_understood_is_an_error(saved: bytes) -> None:
    with pytest.raises(KernelError, match="the output of ipset save KUBE-X cannot be decoded"):
        parse_save("KUBE-X", saved)
