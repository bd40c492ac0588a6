"""How iptables chains treat Service traffic, as far as their rules determine it.

A rule matches certainly, possibly or not at all.  What possibly accepts counts as accepting, and what possibly drops
counts as passing, so a verdict of DROP is certain.

Invariants:
- Our own chains are not judged: what they drop is no Service's traffic, or is meant to be dropped.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Literal

from msgspec import Struct

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.host_facts import ChainFacts, Chains

_DEPTH_MAX = 16  # of jumps that are followed; iptables permits no loops, but the facts are of two moments
_NODE_PORTS = (30000, 32767)  # the default range; ports of Services in general are not known here


class Verdict(Enum):
    """The verdict on a packet in a chain."""

    ACCEPT = "accepted, or possibly accepted"
    DROP = "dropped or rejected"
    PASS = "not decided"  # noqa: S105 - not a password


class Packets(Struct, frozen=True, gc=False):
    """The packets that are judged."""

    state: Literal["NEW", "ESTABLISHED"]  # of conntrack
    accepting_chains: frozenset[str] = frozenset()  # our chains that accept these packets


NEW = Packets("NEW")
ESTABLISHED = Packets("ESTABLISHED", frozenset((kube_names.FORWARD_CHAIN,)))

_OUR_CHAINS = frozenset(name for _, name in kube_names.OWN_CHAINS)
_ACCEPTING = ("ACCEPT", "NFQUEUE")  # a program decides what it takes from a queue
_COMMENT = re.compile(r'-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) ?')
_DROPPING = ("DROP", "REJECT", "TARPIT")


class _Match(Enum):
    NO = 0
    POSSIBLY = 1
    YES = 2


class _Rule(Struct, frozen=True, gc=False):
    options: tuple[tuple[str, tuple[str, ...], bool], ...]  # (option, its words, negated)
    target: str = ""
    goes: bool = False  # -g: the rules after it are not met


def judge(chain: str, chains: Chains, packets: Packets) -> tuple[Verdict, str]:
    """Return the verdict on *packets* in the built-in *chain*, and the rule or policy that drops it."""
    facts = chains.get(chain)
    if facts is None:
        return Verdict.PASS, ""
    verdict, rule = _judge(chain, chains, packets, _DEPTH_MAX)
    if verdict is Verdict.PASS and facts.policy == "DROP":
        return Verdict.DROP, f"policy DROP of {chain}"
    return verdict, rule


def leads_to(targets: frozenset[str], rule: str, chains: Chains, packets: Packets, depth: int = _DEPTH_MAX) -> bool:
    """Return whether *packets* possibly reaches a rule with one of *targets* through *rule*."""
    parsed = _parse(rule)
    if parsed is None or parsed.target in _OUR_CHAINS or _match(parsed, packets, ports=True) is _Match.NO:
        return False
    if parsed.target in targets:
        return True
    inner = chains.get(parsed.target, ChainFacts()).rules if depth else ()
    return any(leads_to(targets, each, chains, packets, depth - 1) for each in inner)


def ends(rule: str, chains: Chains, packets: Packets, *, wide: bool = False) -> bool:
    """Return whether *packets* certainly leave the built-in chain of *rule* there, accepted; they do not meet the rest.

    With *wide* that is also so if it accepts those of one interface, or from or to one network.
    """
    parsed = _parse(rule)
    if parsed is None or _match(parsed, packets, wide=wide) is not _Match.YES:
        return False
    return parsed.target == "RETURN" or parsed.goes or _accepts(parsed, chains, packets, wide, _DEPTH_MAX)


def _accepts(rule: _Rule, chains: Chains, packets: Packets, wide: bool, depth: int) -> bool:  # noqa: FBT001
    """Return whether *rule*, which matches *packets*, certainly accepts them."""
    if rule.target == "ACCEPT":
        return True
    if rule.target in _OUR_CHAINS or not depth:
        return False
    for text in chains.get(rule.target, ChainFacts()).rules:
        inner = _parse(text)
        if inner is None or _match(inner, packets, wide=wide) is not _Match.YES:
            continue
        if _accepts(inner, chains, packets, wide, depth - 1):
            return True
        if inner.target == "RETURN" or inner.goes:
            return False
    return False


def _judge(chain: str, chains: Chains, packets: Packets, depth: int) -> tuple[Verdict, str]:
    left = False  # packets have possibly left the chain, so what drops in its rest is not certain
    for text in chains.get(chain, ChainFacts()).rules if depth else ():
        rule = _parse(text)
        match = _match(rule, packets) if rule else _Match.NO
        if rule is None or match is _Match.NO:
            continue
        verdict, reason = _judge_target(rule, f"-A {chain} {text}", chains, packets, depth)
        if verdict is Verdict.DROP and match is _Match.YES:
            return (Verdict.ACCEPT, "") if left else (verdict, reason)
        if verdict is Verdict.ACCEPT:
            return verdict, reason
        if rule.target == "RETURN" or rule.goes:
            if match is _Match.YES:
                break
            left = True
    return Verdict.PASS, ""


def _judge_target(rule: _Rule, text: str, chains: Chains, packets: Packets, depth: int) -> tuple[Verdict, str]:
    if rule.target in _ACCEPTING or rule.target in packets.accepting_chains:
        return Verdict.ACCEPT, ""
    if rule.target in _DROPPING:
        return Verdict.DROP, text
    if rule.target in _OUR_CHAINS:
        return Verdict.PASS, ""
    return _judge(rule.target, chains, packets, depth - 1)


# Rules


def _parse(text: str) -> _Rule | None:
    """Return *text*, a rule as ``iptables-save`` prints it; None if it cannot be read."""
    text = _COMMENT.sub("", text)
    try:
        words = shlex.split(text) if '"' in text else text.split()  # shlex takes 20 us for a rule
    except ValueError:
        return None
    options: list[tuple[str, tuple[str, ...], bool]] = []
    target, goes, negated = "", False, False
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "!":
            negated = True
            continue
        values: list[str] = []
        while index < len(words) and not words[index].startswith("-") and words[index] != "!":
            values.append(words[index])
            index += 1
        if word in ("-j", "-g"):
            target, goes = (values or [""])[0], word == "-g"
            break  # what follows are options of the target
        options.append((word, tuple(values), negated))
        negated = False
    return _Rule(tuple(options), target, goes)


def _match(rule: _Rule, packets: Packets, *, ports: bool = False, wide: bool = False) -> _Match:
    """Return whether *rule* matches *packets*; with *ports*, single ports count as possible.

    With *wide*, one interface or network counts as all of them.
    """
    result = _Match.YES
    for option, values, negated in rule.options:
        judge_option = _OPTIONS.get(option)
        match = judge_option(values, packets) if judge_option else _Match.POSSIBLY
        if ports and option in _PORT_OPTIONS:
            match = _Match.POSSIBLY
        if negated:
            match = _Match(2 - match.value)
        if wide and option in _WIDE_OPTIONS and match is _Match.POSSIBLY:
            match = _Match.YES
        if match is _Match.NO:
            return match
        result = min(result, match, key=lambda each: each.value)
    return result


_OptionMatch = Callable[[tuple[str, ...], Packets], _Match]


def _is_state(values: tuple[str, ...], packets: Packets) -> _Match:
    return _Match.YES if packets.state in (values or ("",))[0].split(",") else _Match.NO


def _is_service_interface(values: tuple[str, ...], _packets: Packets) -> _Match:
    return _Match.NO if values == ("lo",) else _Match.POSSIBLY


def _is_service_protocol(values: tuple[str, ...], _packets: Packets) -> _Match:
    # All protocols of Services are alike to most firewalls; one that treats TCP specially is judged by its TCP rules.
    return _Match.YES if values in (("tcp",), ("all",)) else _Match.NO


def _is_service_address(values: tuple[str, ...], _packets: Packets) -> _Match:
    """Return NO for a single address: clients and Services have many, so a rule about one is not about them."""
    is_single = (values or ("",))[0].endswith(("/32", "/128"))
    return _Match.NO if is_single else _Match.POSSIBLY


def _is_service_port(values: tuple[str, ...], _packets: Packets) -> _Match:
    """Return NO for single ports, which are those of some Services at most; all node ports may be meant by a range."""
    for part in (values or ("",))[0].split(","):
        first, _, last = part.partition(":")
        low, high = _NODE_PORTS
        if first.isdigit() and (last or first).isdigit() and int(first) <= low and int(last or first) >= high:
            return _Match.POSSIBLY
    return _Match.NO


def _is_local(values: tuple[str, ...], _packets: Packets) -> _Match:
    return _Match.YES if "LOCAL" in (values or ("",))[0].split(",") else _Match.NO


def _yes(_values: tuple[str, ...], _packets: Packets) -> _Match:
    return _Match.YES


def _no(_values: tuple[str, ...], _packets: Packets) -> _Match:
    return _Match.NO


_PORT_OPTIONS = frozenset(("--dport", "--dports", "--ports"))
_WIDE_OPTIONS = frozenset(("-i", "-o", "-s", "-d"))
_OPTIONS: Mapping[str, _OptionMatch] = {
    "-m": _yes,  # says nothing by itself; the options of the match follow
    "--comment": _yes,
    "--ctstate": _is_state,
    "--state": _is_state,
    "-i": _is_service_interface,
    "-p": _is_service_protocol,
    "-s": _is_service_address,
    "-d": _is_service_address,
    "--dport": _is_service_port,
    "--dports": _is_service_port,
    "--ports": _is_service_port,
    "--sport": _no,
    "--sports": _no,
    "--dst-type": _is_local,
    "--icmp-type": _no,
    "--icmpv6-type": _no,
}
