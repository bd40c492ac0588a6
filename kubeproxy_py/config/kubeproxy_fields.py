"""Field types that only kube-proxy's configuration has: mode, scheduler, networks, interfaces, log patterns.

Invariants:
- Addresses and networks are canonical (net.py).
- No interface name can end a word of an iptables rule.
"""

import re
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from kubeproxy_py.config.errors import InvalidValue, abbreviated
from kubeproxy_py.config.fields import (
    BOOLEAN_MAP,
    TEXT,
    FieldType,
    one_of,
    pointer,
    read_integer,
    read_text,
    split_list,
)
from kubeproxy_py.model.settings import SCHEDULERS
from kubeproxy_py.net import CIDR, SocketAddress, is_port_number, parse_cidr, parse_ip, parse_socket, special_use

# Mode, scheduler, feature gates


def _check_mode(mode: str) -> None:
    if mode == "ipvs":
        return
    if mode in ("", "iptables", "nftables"):
        actual = abbreviated(mode) if mode else "not set, which means 'iptables' to kube-proxy"
        raise InvalidValue(f"the mode is {actual}; this agent supports only IPVS", "mode: ipvs, or run kube-proxy")
    raise InvalidValue(f"unknown mode {abbreviated(mode)}", "ipvs")


MODE = pointer(FieldType("ipvs", read_text, _check_mode))

SCHEDULER = one_of("scheduler", *SCHEDULERS)


def _check_gates(gates: dict[str, bool]) -> None:
    # Kubernetes 1.37 has the gate, and from 1.40 it is off: kube-proxy then refuses to start in IPVS mode (KEP-5495).
    if gates.get("KubeProxyIPVS") is False:
        raise InvalidValue("KubeProxyIPVS is off, and this agent supports only IPVS", "remove it, or set it to true")


# kube-proxy refuses names that Kubernetes does not know.  Clusters give all components one list of gates, and each
# release adds names: an unknown name must not prevent a node from starting (load.py warns of it).
FEATURE_GATES = replace(BOOLEAN_MAP, check=_check_gates)


def _check_version(version: str) -> None:
    if not re.fullmatch(r"[0-9]+\.[0-9]+", version):
        raise InvalidValue(f"{abbreviated(version)} is not a version", "major.minor, such as 1.35")


VERSION = replace(TEXT, metavar="VERSION", check=_check_version)


# Addresses and networks


def _read_ip(raw: Any) -> str:
    text = read_text(raw)
    try:
        return parse_ip(text) if text else ""
    except ValueError:
        raise InvalidValue(f"{abbreviated(raw)} is not an IP address", "such as 0.0.0.0 or ::") from None


ADDRESS = FieldType("ADDRESS", _read_ip)


def socket_address(default_port: int) -> FieldType:
    """Return the type of an address with a port, which is *default_port* if none is given."""

    def read(raw: Any) -> SocketAddress | None:
        try:
            return parse_socket(raw, default_port) if read_text(raw) else None
        except ValueError as reason:
            hint = f"ADDRESS:PORT, such as 0.0.0.0:{default_port}"
            raise InvalidValue(f"{abbreviated(raw)}: {reason}", hint) from None

    return FieldType("ADDRESS:PORT", read, write=lambda address: str(address or ""))


def loopback_address(default_port: int) -> FieldType:
    """Return the type of a socket address that only programs of this host reach."""
    anywhere = socket_address(default_port)

    def read(raw: Any) -> SocketAddress | None:
        address: SocketAddress | None = anywhere.read(raw)
        if address and special_use(address.address) != "loopback":
            hint = f"127.0.0.1:{default_port}, which kubectl port-forward reaches"
            raise InvalidValue(f"{abbreviated(raw)}: not a loopback address", hint)
        return address

    return FieldType("ADDRESS:PORT", read, write=anywhere.write)


def _read_strings(raw: Any) -> list[str]:
    if isinstance(raw, list) and all(isinstance(word, str) for word in raw):
        return raw
    raise InvalidValue(f"expected a list of strings, got {abbreviated(raw)}", "one item a line, each after a dash")


def _parse_networks(words: Iterable[str]) -> tuple[CIDR, ...]:
    """Parse *words* as networks; the error names every invalid one."""
    networks, invalid = [], []
    for word in words:
        try:
            networks.append(parse_cidr(word))
        except ValueError:
            invalid.append(abbreviated(word))
    if invalid:
        raise InvalidValue(f"{', '.join(invalid)}: not a network", "address/length, such as 10.244.0.0/16")
    return tuple(networks)


def _read_networks(raw: Any) -> tuple[CIDR, ...]:
    return _parse_networks(_read_strings(raw))


CIDRS = FieldType("CIDR,...", _read_networks, write=list, from_text=split_list, accumulates=True)

_NODE_PORT_KEYWORDS = ("primary", "localhost")


def _read_node_port_addresses(raw: Any) -> tuple[str, ...]:
    """Read networks and the keywords ``primary`` and ``localhost``, mixed as in kube-proxy 1.37.

    kube-proxy 1.36 accepts ``primary`` only by itself.  ``all`` means the same as an empty list, also beside others.
    """
    words = _read_strings(raw)
    networks = iter(_parse_networks(word for word in words if word not in (*_NODE_PORT_KEYWORDS, "all")))
    addresses = tuple(word if word in _NODE_PORT_KEYWORDS else next(networks) for word in words if word != "all")
    return () if "all" in words else addresses


NODE_PORT_ADDRESSES = replace(CIDRS, read=_read_node_port_addresses)

_CLUSTER_CIDRS_MAX = 32  # each is a rule that every packet to a ClusterIP traverses


def _read_cluster_cidr(raw: Any) -> tuple[CIDR, ...]:
    return _parse_networks(split_list(read_text(raw)))


def _check_cluster_cidr(networks: tuple[CIDR, ...]) -> None:
    if len(networks) > _CLUSTER_CIDRS_MAX:
        raise InvalidValue(f"{len(networks)} networks", f"at most {_CLUSTER_CIDRS_MAX}")


def _check_port_range(text: str) -> None:
    first, dash, last = text.partition("-")
    is_range = dash and is_port_number(first) and is_port_number(last) and int(first) <= int(last)
    if not is_range:
        raise InvalidValue(f"{text}: not a range of ports", "FIRST-LAST, such as 30000-32767")


PORT_RANGE = FieldType("FIRST-LAST", read_text, _check_port_range)

CLUSTER_CIDR = FieldType("CIDR,...", _read_cluster_cidr, _check_cluster_cidr, ",".join)


# Names

_INTERFACE_NAME_MAX_BYTES = 15  # IFNAMSIZ - 1


def _check_interface(name: str) -> None:
    # Linux refuses the first four (dev_valid_name, net/core/dev.c); the others would end or quote a word in an
    # iptables rule, or begin an option there.
    too_long = len(name.encode()) > _INTERFACE_NAME_MAX_BYTES
    if too_long or name in (".", "..") or re.search(r"[\s/:\"'\\\x00-\x1f]|^[-!]", name):
        raise InvalidValue(f"{abbreviated(name)} cannot be an interface name", "at most 15 bytes, such as cni0")


INTERFACE = FieldType("NAME", read_text, _check_interface)


def _check_node_name(name: str) -> None:
    if not name.strip():
        raise InvalidValue("only whitespace", "the name of this node's Node object")


NODE_NAME = FieldType("NAME", read_text, _check_node_name)


# Logging


def _read_quantity(raw: Any) -> str:
    text = str(read_integer(raw)) if type(raw) is int else read_text(raw)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?([KMGTPE]i|[mkMGTPE]|[eE][0-9]{1,2})?|", text):
        return text
    raise InvalidValue(f"{abbreviated(raw)} is not a quantity", "such as 0 or 64Mi")


QUANTITY = FieldType("SIZE", _read_quantity)

Patterns = tuple[tuple[str, int], ...]
"""File patterns, each with its verbosity."""


def _read_patterns(raw: Any) -> Patterns:
    """Read ``[{filePattern: ..., verbosity: ...}, ...]``."""
    items = raw if isinstance(raw, list) else [raw]
    if all(isinstance(item, dict) and set(item) == {"filePattern", "verbosity"} for item in items):
        patterns = tuple((item["filePattern"], item["verbosity"]) for item in items)
        if all(isinstance(pattern, str) and type(level) is int and 0 <= level < 2**31 for pattern, level in patterns):
            return patterns
    raise InvalidValue(f"expected a list of filePattern and verbosity, got {abbreviated(raw)}")


def _write_patterns(patterns: Patterns) -> list[dict[str, Any]]:
    return [{"filePattern": pattern, "verbosity": level} for pattern, level in patterns]


def _patterns_from_text(text: str) -> list[dict[str, Any]]:
    pairs = [word.partition("=") for word in split_list(text)]
    if not all(pattern and re.fullmatch("[0-9]{1,9}", level) for pattern, _, level in pairs):
        raise InvalidValue(f"expected PATTERN=LEVEL,..., got {abbreviated(text)}")
    return [{"filePattern": pattern, "verbosity": int(level)} for pattern, _, level in pairs]


VMODULE = FieldType(
    "PATTERN=LEVEL,...", _read_patterns, write=_write_patterns, from_text=_patterns_from_text, accumulates=True
)
