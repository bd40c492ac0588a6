"""The lines that the usual tools must print for what a spec case expects.

The comparison is of the complete state.  A case lists what its Services produce; all else is the baseline, which is
written once, in `baseline/`, for all cases: 34 sets, all chains and jumps, the unconditional rules, sysctls, timeouts.
Three things follow from the case and are not listed: KUBE-IPVS-IPS has the addresses of kube-ipvs0; a rule marked [SET]
exists if that set has entries; a rule refers to a set by its name in the family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.conformance.canonical import SYSCTLS, canonical_lines
from tests.conformance.case import MalformedCaseError
from tests.conformance.objects import expand, words

Expectation = Mapping[str, Any]

KEYS = {
    "servers": "virtual servers: `tcp 10.96.0.1:80 persistent 600 -> 10.244.1.5:8080 ...`",
    "scheduler": "of every virtual server",
    "flags": "of every virtual server, as `ipvsadm -Sn` prints them",
    "foreign": "lines of `ipvsadm -Sn` that are not the agent's",
    "addresses": "of kube-ipvs0",
    "sets": "entries by the name of the set",
    "drop": "`vip,protocol:port` that this node may not use",
    "not-local": "by family, the match for packets not sent by local pods, or `all`, or `src,dst`",
    "mark": "of packets to masquerade",
    "timeouts": "of IPVS: tcp, tcpfin, udp",
    "sysctls": "those missing from the baseline, or with other values",
}
"""Every key of an expectation."""

NODE_ADDRESSES = {"node": ("192.168.3.10", "172.16.5.10", "10.244.1.1"), "[node]": ("fd00:3::10", "fd00:10:244:1::1")}
"""The addresses that `node` and `[node]` mean: where NodePorts are served without nodePortAddresses."""

_BASELINE = Path(__file__).parent / "baseline"
_OPTIONS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}
_PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}
_IPVS_IPS = {"IPv4": "KUBE-IPVS-IPS", "IPv6": "KUBE-6-IPVS-IPS"}
_RULES_FILES = {"IPv4": "iptables-save.txt", "IPv6": "ip6tables-save.txt"}
_FAMILY_WORDS = {
    "IPv4": {"loopback": "127.0.0.0/8", "icmp": "icmp"},
    "IPv6": {"loopback": "::1/128", "icmp": "icmp6"},
}
_NOT_LOCAL = {"IPv4": "! -s 10.244.0.0/16", "IPv6": "src,dst"}  # the common configuration has that clusterCIDR
_CLUSTER_IP_COMMENT = '-m comment --comment "Kubernetes service cluster ip + port for masquerade purpose"'
_CONDITION = re.compile(r"\[(KUBE-[A-Z-]+)\] ")
_SERVER = re.compile(r"(tcp|udp|sctp) (\S+):(\d+)(?: persistent (\d+))?")


def expected_lines(expectation: Expectation, *, sysctls: bool) -> dict[str, list[str]]:
    """Canonical lines by file; with *settings*, those of /proc/sys too.  Raises Malformed."""
    if unknown := set(expectation) - set(KEYS):
        raise MalformedCaseError(f"expect: unknown {', '.join(sorted(unknown))}; known are {', '.join(KEYS)}")
    addresses = words(expectation.get("addresses"))
    entries = _entries(expectation, addresses)
    texts = {
        "ipvsadm-save.txt": [*_servers(expectation), *expectation.get("foreign", ())],
        "ipset-save.txt": [*_headers(), *(f"add {name} {entry}" for name, added in entries.items() for entry in added)],
        "addresses.txt": [f"{'inet6' if ':' in ip else 'inet'} {_host(ip)}" for ip in addresses],
        "timeouts.txt": [f"Timeout (tcp tcpfin udp): {expectation.get('timeouts', '900 120 300')}"],
        **{file: list(_rules(family, expectation, entries)) for family, file in _RULES_FILES.items()},
    }
    if sysctls:
        texts[SYSCTLS] = _sysctls(expectation)
    return {file: canonical_lines(file, "\n".join(lines)) for file, lines in texts.items()}


def _read(name: str) -> list[str]:
    lines = (_BASELINE / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _set_names() -> list[tuple[str, str, str]]:
    """IPv4 name, IPv6 name and type of each set."""
    return [(v4, v6, kind) for v4, v6, kind in (line.split() for line in _read("sets.txt"))]


def _headers() -> Iterator[str]:
    for v4, v6, kind in _set_names():
        for name, family in ((v4, "inet"), (v6, "inet6")):
            hashed = f"family {family} hashsize 1024 maxelem 65536"
            yield f"create {name} {kind} {'range 0-65535' if kind == 'bitmap:port' else hashed}"


def _entries(expectation: Expectation, addresses: list[str]) -> dict[str, list[str]]:
    known = {name for v4, v6, _ in _set_names() for name in (v4, v6)}
    sets = {
        name: [_entry(part) for word in words(text) for part in _at_node(word, ",")]
        for name, text in _sets(expectation)
    }
    if unknown := set(sets) - known | set(sets) & set(_IPVS_IPS.values()):
        raise MalformedCaseError(f"expect: {', '.join(sorted(unknown))} is no set, or follows from the addresses")
    for family, name in _IPVS_IPS.items():
        sets[name] = [ip for ip in addresses if (":" in ip) == (family == "IPv6")]
    return sets


def _sets(expectation: Expectation) -> Iterable[tuple[str, Any]]:
    return (expectation.get("sets") or {}).items()


def _entry(word: str) -> str:
    """The entry with a final `=` replaced by the address at its beginning."""
    return word[:-1] + word.partition(",")[0] if word.endswith(",=") else word


def _at_node(word: str, separator: str) -> list[str]:
    """*word*, once for each address of the node if it begins with `node` or `[node]`."""
    first, matched, remainder = word.partition(separator)
    if first not in NODE_ADDRESSES:
        return [word]
    bracketed = separator == ":" and first == "[node]"
    addresses = [f"[{ip}]" if bracketed else ip for ip in NODE_ADDRESSES[first]]
    return [f"{ip}{matched}{remainder}" for ip in addresses]


def _servers(expectation: Expectation) -> Iterator[str]:
    for line in expectation.get("servers") or ():
        head, _, tail = line.partition("->")
        for frontend in expand(head.strip()):
            yield from _server(expectation, frontend, words(tail))


def _server(expectation: Expectation, frontend: str, reals: Iterable[str]) -> Iterator[str]:
    """A virtual server and its real servers, for each address of the node if its address is `node`."""
    match = _SERVER.fullmatch(frontend)
    if not match:
        raise MalformedCaseError(f"expect: {frontend!r} is not a virtual server; write {KEYS['servers']}")
    protocol, address, port, persistent_s = match.groups()
    persistent = f" -p {persistent_s}" if persistent_s else ""
    flags = f" -b {expectation['flags']}" if "flags" in expectation else ""
    for place in _at_node(f"{address}:{port}", ":"):
        where = f"{_OPTIONS[protocol]} {place}"
        yield f"-A {where} -s {expectation.get('scheduler', 'rr')}{persistent}{flags}"
        yield from (f"-a {where} -r {real} -m -w 1" for real in reals)


def _rules(family: str, expectation: Expectation, entries: Mapping[str, list[str]]) -> Iterator[str]:
    names = {v4: v4 if family == "IPv4" else v6 for v4, v6, _ in _set_names()}
    mark = str(expectation.get("mark", "0x4000"))
    for line in _read("rules.txt"):
        if line.startswith(":"):
            yield f"{line} [0:0]"
            continue
        condition = _CONDITION.match(line)
        if condition and not entries.get(names[condition[1]]):
            continue
        rule = line[condition.end() :] if condition else line
        if rule == "{DROP}":
            yield from _drops(family, expectation)
            continue
        rule = rule.replace("{MASQUERADE-CLUSTER-IP}", _masquerade(family, expectation))
        for word, text in {**_FAMILY_WORDS[family], "mark": mark}.items():
            rule = rule.replace(f"{{{word}}}", text)
        yield re.sub(r"(?<=--match-set )\S+", lambda match: names[match[0]], rule)


def _masquerade(family: str, expectation: Expectation) -> str:
    how = {**_NOT_LOCAL, **expectation.get("not-local", {})}[family]
    match = f"{how} " if how.startswith("!") else ""
    direction = "src,dst" if how == "src,dst" else "dst,dst"
    rule = f"-m set --match-set KUBE-CLUSTER-IP {direction} -j KUBE-MARK-MASQ"
    return f"-A KUBE-SERVICES {match}{_CLUSTER_IP_COMMENT} {rule}"


def _drops(family: str, expectation: Expectation) -> Iterator[str]:
    for entry in words(expectation.get("drop")):
        address, protocol, port = re.split(r",|:(?=\d+$)", entry)
        if (":" in address) == (family == "IPv6"):
            to = f"--vproto {_PROTOCOL_NUMBERS[protocol]} --vaddr {address} --vport {port}"
            yield f"-A KUBE-IPVS-OUT-FILTER -s {_host(address)} -m ipvs {to} -j DROP"


def _sysctls(expectation: Expectation) -> list[str]:
    settings = dict(line.split(" = ") for line in _read("sysctls.txt"))
    return [f"{name} = {value}" for name, value in {**settings, **expectation.get("sysctls", {})}.items()]


def _host(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"
