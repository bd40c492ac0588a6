"""The path to node ports at the loopback addresses: a route in a table of its own, and rules that lead to it.

A program that connects to 127.0.0.1 sends from 127.0.0.1, and no pod can answer that.  The route has the same
destination with another source, which the kernel takes when a program connects.  Rules for TCP, UDP and SCTP to a range
of ports lead to the route, before the rule that looks up the table of all local addresses: that rule moves behind them,
because a new rule comes after those of the same preference.

Invariants:
- What is sent elsewhere is sent as before, at any moment: the rule of the local table is added at its new preference
  before it is deleted at the old one.
- The rule of the local table that another program moved stays where it is.
- A row that is there in parts is read as one that is not complete, so that it is completed or deleted.

Source: include/uapi/linux/fib_rules.h; net/core/fib_rules.c (fib_nl_newrule), net/ipv4/fib_rules.c.
"""

from collections.abc import Iterable, Iterator, Sequence
from errno import EAFNOSUPPORT, EEXIST, ENOENT, ESRCH
from socket import inet_ntop, inet_pton

from kubeproxy_py.kernel import LOOPBACK, Mark, MarkReader, Scope
from kubeproxy_py.kernel.address.routing_rules import (
    RTM_DELRULE,
    RTM_NEWRULE,
    TABLE_LOCAL,
    Rule,
    read_rules,
    rule_message,
)
from kubeproxy_py.kernel.address.routing_socket import StepwiseAdapter
from kubeproxy_py.kernel.address.rtnetlink import HOST_PREFIX, RTA_DST, RTM_GETROUTE, RTMSG, RTN_LOCAL
from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.netlink.attributes import attribute, parse_attributes, read_u32, u32
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6
from kubeproxy_py.kernel.netlink.messages import NLM_F_REPLACE
from kubeproxy_py.kernel.netlink.socket import NLM_F_CREATE, Message, message
from kubeproxy_py.model.rows import LoopbackPath, LoopbackSpec, Rows, Spec
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.net import IP, LOOPBACK_IP, PROTOCOL_NUMBERS, Family

TABLE = 0x4B50
"""The routing table, of which only this agent knows."""

_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RTA_OIF, _RTA_PREFSRC, _RTA_TABLE = 4, 7, 15
_RTPROT_STATIC = 4
_RT_SCOPE_HOST = 254
_LOOPBACK_INDEX = 1  # of lo, in every network namespace
_MOVED = 1  # the preference of the local table's rule while there are rules before it

_FAMILIES: dict[int, Family] = {AF_INET: "IPv4", AF_INET6: "IPv6"}
_NUMBERS = {family: number for number, family in _FAMILIES.items()}
_GONE = frozenset((ENOENT, ESRCH))
_EXISTS = frozenset((EEXIST,))


class LoopbackAdapter(StepwiseAdapter):
    """Reads and writes LoopbackPath rows, in the network namespace in which it is first used."""

    filters = True

    def scopes(self) -> list[Scope]:
        """Return the one scope."""
        return [LOOPBACK]

    def read(self, scope: Scope) -> Rows:
        """Return the paths of both families.  Raises KernelError."""
        assert scope == LOOPBACK, scope
        specs = {LoopbackPath(family): self._read(number) for number, family in _FAMILIES.items()}
        return {key: spec for key, spec in specs.items() if spec}

    def mark_readers(self) -> list[MarkReader]:
        """Return one that reads the paths themselves, which are few, while there are any."""
        return [MarkReader(LOOPBACK.kind, self._read_mark, LOOPBACK.kind)]

    def _read_mark(self) -> dict[str, Mark]:
        return {LOOPBACK.kind: Mark(LOOPBACK, hash(frozenset(self.read(LOOPBACK).items())))}

    def _apply(self, step: Step) -> Iterator[StepFailure]:
        assert isinstance(step.key, LoopbackPath)
        family = _NUMBERS[step.key.family]
        messages = self._build(family, step.spec) if isinstance(step.spec, LoopbackSpec) else self._delete(family)
        return self._send(step, messages, _GONE if step.verb == "delete" else _EXISTS)

    def _build(self, family: int, spec: LoopbackSpec) -> Iterator[Message]:
        yield _route(family, spec.source)
        rules = read_rules(self._netlink, family)
        wanted = dict.fromkeys(PROTOCOL_NUMBERS.values(), spec.range)
        obsolete = [rule for rule in _own(rules) if wanted.get(rule.protocol) != rule.ports]
        yield from (rule_message(RTM_DELRULE, family, rule) for rule in obsolete)
        yield from _move_local(family, rules, 0, _MOVED)
        for protocol, ports in wanted.items():
            rule = Rule(TABLE, 0, LOOPBACK_IP[_FAMILIES[family]], protocol, ports)
            if rule not in rules:
                yield rule_message(RTM_NEWRULE, family, rule)

    def _delete(self, family: int) -> Iterator[Message]:
        rules = read_rules(self._netlink, family)
        yield from (rule_message(RTM_DELRULE, family, rule) for rule in _own(rules))
        yield from _move_local(family, rules, _MOVED, 0)
        if source := self._route_source(family):
            yield _route(family, source, _RTM_DELROUTE)

    def _read(self, family: int) -> Spec:
        rules, source = read_rules(self._netlink, family), self._route_source(family)
        own = _own(rules)
        ranges = {rule.ports for rule in own}
        is_moved = any(rule == Rule(TABLE_LOCAL, _MOVED) for rule in rules)
        if not (own or source or is_moved):
            return None
        first, last = min(ranges, default=(0, 0))
        is_complete = len(ranges) == 1 and len(own) == len(PROTOCOL_NUMBERS) and _come_first(rules) and source != ""
        return LoopbackSpec(source, f"{first}-{last}", is_complete=is_complete)

    def _route_source(self, family: int) -> IP:
        """Return the source of the route; "" if there is none."""
        header = RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + u32(_RTA_TABLE, TABLE)
        try:
            bodies = self._netlink.dump(message(RTM_GETROUTE, 0, header))
        except KernelError as error:
            if error.errno in (EAFNOSUPPORT, *_GONE):
                return ""
            raise
        return decode_source(bodies, family)


def decode_source(bodies: Iterable[bytes], family: int) -> IP:
    """Return the source of the route in our table, in route messages; "" if there is none.  Raises KernelError."""
    with decoding("a listing of routes"):
        for body in bodies:
            found = parse_attributes(body, RTMSG.size)
            if _RTA_TABLE in found and read_u32(found[_RTA_TABLE]) == TABLE and _RTA_PREFSRC in found:
                return inet_ntop(family, found[_RTA_PREFSRC])
    return ""


def _own(rules: Iterable[Rule]) -> list[Rule]:
    return [rule for rule in rules if rule.table == TABLE]


def _come_first(rules: Sequence[Rule]) -> bool:
    """Return whether all rules of ours come before that of the local table."""
    tables = [rule.table for rule in rules]
    return TABLE_LOCAL not in tables or TABLE not in tables[tables.index(TABLE_LOCAL) :]


def _move_local(family: int, rules: Sequence[Rule], before: int, after: int) -> Iterator[Message]:
    """Yield the messages that move the local table's rule from the preference *before*, if it is there."""
    if Rule(TABLE_LOCAL, before) in rules:
        yield rule_message(RTM_NEWRULE, family, Rule(TABLE_LOCAL, after))
        yield rule_message(RTM_DELRULE, family, Rule(TABLE_LOCAL, before))


def _route(family: int, source: IP, kind: int = _RTM_NEWROUTE) -> Message:
    body = RTMSG.pack(family, HOST_PREFIX[family], 0, 0, 0, _RTPROT_STATIC, _RT_SCOPE_HOST, RTN_LOCAL, 0)
    body += attribute(RTA_DST, inet_pton(family, LOOPBACK_IP[_FAMILIES[family]])) + u32(_RTA_TABLE, TABLE)
    body += u32(_RTA_OIF, _LOOPBACK_INDEX) + attribute(_RTA_PREFSRC, inet_pton(family, source))
    return message(kind, NLM_F_CREATE | NLM_F_REPLACE if kind == _RTM_NEWROUTE else 0, body)
