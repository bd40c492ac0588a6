"""The kinds of value that speak of networks and nodes: addresses, ranges, sockets, interfaces, node names.

Law: as in ``kinds``; besides, every address that leaves here is canonical, and no name can end a word of an iptables
rule.
"""

import re
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from kubeproxy_py.config.errors import InvalidValue, shown
from kubeproxy_py.config.fields import FieldType, read_text, words_from_text
from kubeproxy_py.net import CIDR, SocketAddress, is_ipv6, parse_cidr, parse_ip, parse_socket


def _read_ip(raw: Any) -> str:
    text = read_text(raw)
    try:
        return parse_ip(text) if text else ""
    except ValueError:
        raise InvalidValue(f"{shown(raw)} is not an IP address", "such as 0.0.0.0 or ::") from None


ADDRESS = FieldType("IP", _read_ip)


def socket_address(default_port: int) -> FieldType:
    """``IP:port``; *default_port* if it names none."""

    def read(raw: Any) -> SocketAddress | None:
        try:
            return parse_socket(raw, default_port) if read_text(raw) else None
        except ValueError as reason:
            raise InvalidValue(f"{shown(raw)}: {reason}", f"IP:port, such as 0.0.0.0:{default_port}") from None

    return FieldType("IP:PORT", read, write=lambda socket: str(socket or ""))


def _read_words(raw: Any) -> list[str]:
    if isinstance(raw, list) and all(isinstance(word, str) for word in raw):
        return raw
    raise InvalidValue(f"expected a list of texts, got {shown(raw)}", "one item a line, each with a dash")


def _networks(words: Iterable[str]) -> tuple[CIDR, ...]:
    """*words* as networks, all bad ones named at once."""
    good, bad = [], []
    for word in words:
        try:
            good.append(parse_cidr(word))
        except ValueError:
            bad.append(shown(word))
    if bad:
        raise InvalidValue(f"{', '.join(bad)}: not a network", "address/length, such as 10.244.0.0/16")
    return tuple(good)


def _read_networks(raw: Any) -> tuple[CIDR, ...]:
    return _networks(_read_words(raw))


CIDRS = FieldType("CIDR,...", _read_networks, write=list, from_text=words_from_text, adds_up=True)


NODE_PORT_WORDS = ("primary", "localhost")


def _read_node_port_addresses(raw: Any) -> tuple[str, ...]:
    """Networks and the words ``primary`` and ``localhost``, mixed as kube-proxy 1.37 has it (1.36: ``primary`` alone).

    ``all`` is what an empty list means, and makes it one, whatever else is there.
    """
    words = _read_words(raw)
    networks = iter(_networks(word for word in words if word not in (*NODE_PORT_WORDS, "all")))
    found = tuple(word if word in NODE_PORT_WORDS else next(networks) for word in words if word != "all")
    return () if "all" in words else found


NODE_PORT_ADDRESSES = replace(CIDRS, read=_read_node_port_addresses)


def _read_cluster_cidr(raw: Any) -> tuple[CIDR, ...]:
    return _networks(words_from_text(read_text(raw)))


def _check_cluster_cidr(networks: tuple[CIDR, ...]) -> None:
    if len(networks) > 2:
        raise InvalidValue(f"{len(networks)} networks", "at most one of each family")
    if len(networks) == 2 and is_ipv6(networks[0]) == is_ipv6(networks[1]):
        raise InvalidValue("two networks of one family", "at most one of each family")


CLUSTER_CIDR = FieldType("CIDR[,CIDR]", _read_cluster_cidr, _check_cluster_cidr, ",".join)


def _check_interface(name: str) -> None:
    # Linux refuses the first four (dev_valid_name, net/core/dev.c); the rest would end or quote a word in an
    # iptables rule, or begin an option there.
    if len(name.encode()) > 15 or name in (".", "..") or re.search(r"[\s/:\"'\\\x00-\x1f]|^[-!]", name):
        raise InvalidValue(f"{shown(name)} can't be the name of an interface", "at most 15 bytes, such as cni0")


INTERFACE = FieldType("NAME", read_text, _check_interface)


def _check_node_name(name: str) -> None:
    if not name.strip():
        raise InvalidValue("only blanks", "the name of this node's Node object")


NODE_NAME = FieldType("NAME", read_text, _check_node_name)
