"""The kinds of value that only kube-proxy's configuration has: mode, scheduler, gates, versions, log patterns.

Law: as in ``kinds``.
"""

import re
from typing import Any

from msgspec.structs import replace

from kubeproxy_py.config.errors import InvalidValue, shown
from kubeproxy_py.config.fields import (
    SWITCHES,
    TEXT,
    FieldType,
    one_of,
    pointer,
    read_text,
    read_whole,
    words_from_text,
)


def _check_mode(mode: str) -> None:
    if mode == "ipvs":
        return
    if mode in ("", "iptables", "nftables"):
        meant = shown(mode) if mode else "not set, which kube-proxy takes as 'iptables'"
        raise InvalidValue(f"the mode is {meant}; this agent has IPVS mode alone", "mode: ipvs, or run kube-proxy")
    raise InvalidValue(f"unknown mode {shown(mode)}", "ipvs")


MODE = pointer(FieldType("ipvs", read_text, _check_mode))

# Every scheduler of Linux 6.x (net/netfilter/ipvs/ip_vs_*.c), by the names in their `.name`.
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh", "twos")
SCHEDULER = one_of("scheduler", *SCHEDULERS)


def _check_gates(gates: dict[str, bool]) -> None:
    # Kubernetes 1.37 has the gate, and from 1.40 it is off: kube-proxy then refuses to start in IPVS mode (KEP-5495).
    if gates.get("KubeProxyIPVS") is False:
        raise InvalidValue("KubeProxyIPVS is off, and this agent has IPVS mode alone", "remove it, or set it to true")


# kube-proxy refuses names that Kubernetes does not know.  Clusters hand all components one list of gates, and new
# names come with each release: a name that we don't know must not keep a node from starting (load.py warns of it).
FEATURE_GATES = replace(SWITCHES, check=_check_gates)


def _check_version(version: str) -> None:
    if not re.fullmatch(r"[0-9]+\.[0-9]+", version):
        raise InvalidValue(f"{shown(version)} is not a version", "major.minor, such as 1.35")


VERSION = replace(TEXT, metavar="VERSION", check=_check_version)


def _read_quantity(raw: Any) -> str:
    text = str(read_whole(raw)) if type(raw) is int else read_text(raw)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?([KMGTPE]i|[mkMGTPE]|[eE][0-9]{1,2})?|", text):
        return text
    raise InvalidValue(f"{shown(raw)} is not a quantity", "such as 0 or 64Mi")


QUANTITY = FieldType("SIZE", _read_quantity)

Patterns = tuple[tuple[str, int], ...]


def _read_patterns(raw: Any) -> Patterns:
    """``[{filePattern: ..., verbosity: ...}, ...]``"""
    items = raw if isinstance(raw, list) else [raw]
    if all(isinstance(item, dict) and set(item) == {"filePattern", "verbosity"} for item in items):
        patterns = tuple((item["filePattern"], item["verbosity"]) for item in items)
        if all(isinstance(pattern, str) and type(level) is int and 0 <= level < 2**31 for pattern, level in patterns):
            return patterns
    raise InvalidValue(f"expected a list of filePattern and verbosity, got {shown(raw)}")


def _write_patterns(patterns: Patterns) -> list[dict[str, Any]]:
    return [{"filePattern": pattern, "verbosity": level} for pattern, level in patterns]


def _patterns_from_text(text: str) -> list[dict[str, Any]]:
    pairs = [word.partition("=") for word in words_from_text(text)]
    if not all(pattern and re.fullmatch("[0-9]{1,9}", level) for pattern, _, level in pairs):
        raise InvalidValue(f"expected PATTERN=N,..., got {shown(text)}")
    return [{"filePattern": pattern, "verbosity": int(level)} for pattern, _, level in pairs]


VMODULE = FieldType("PATTERN=N,...", _read_patterns, write=_write_patterns, from_text=_patterns_from_text, adds_up=True)
