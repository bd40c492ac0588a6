"""A packet's way through the rules of one hook, both ways where a rule may match.

Invariants:
- Ways on which the packet is the same are one way, so a hook with many rules that may match stays cheap.
- The first way is the one on which no rule matches that only may.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.diagnose.trace.matches import View, match_rule, match_words, parse_mark
from kubeproxy_py.diagnose.trace.packet import Packet
from kubeproxy_py.diagnose.trace.rules import Rule, parse_rule
from kubeproxy_py.diagnose.trace.ruleset import Ruleset, is_ours
from kubeproxy_py.diagnose.trace.truth import NO, YES
from kubeproxy_py.net import IP, parse_ip

StepKind = Literal["hook", "rule", "policy", "routing", "server", "delivery"]

_OF_ONE_CLIENT = re.compile(r"-s [0-9a-f.:]+/(?:32|128) ")
_WAYS_MAX = 16
_RULES_MAX = 500_000  # that are evaluated in one trace; whatever comes after is not known
_MASK = 0xFFFFFFFF


class Step(Struct, frozen=True, gc=False):
    """One thing that happens to the packet.

    Attributes:
        kind: what decides: a rule, the policy of a chain, the routing decision, a virtual server.
        table: the table, of a rule or policy.
        chain: the chain, of a rule or policy.
        number: the position of the rule in its chain, from 1 on.
        rule: the rule as iptables-save prints it.
        because: what of the packet decided it, in words.
        effect: what follows, in words.
        certain: False for a rule that may match.
        foreign: whether the rule is another program's.
    """

    kind: StepKind
    effect: str
    because: str = ""
    table: str = ""
    chain: str = ""
    number: int = 0
    rule: str = ""
    certain: bool = True
    foreign: bool = False


class Way(Struct, frozen=True, gc=False):
    """One way that a packet may go.

    Attributes:
        packet: The packet at its end.
        steps: What happened on it.
        doubts: The rules that only may match, and that match on this way.
    """

    packet: Packet
    steps: tuple[Step, ...] = ()
    doubts: tuple[Step, ...] = ()

    def with_step(self, step: Step, packet: Packet | None = None) -> "Way":
        """Return this way with one more step, after which the packet is *packet*."""
        return Way(packet or self.packet, (*self.steps, step), self.doubts)

    def assuming(self, step: Step) -> "Way":
        """Return this way on which the rule of *step* matches."""
        return Way(self.packet, self.steps, (*self.doubts, step))


Verdict = Literal["dropped", "rejected", "unknown"]


class End(Struct, frozen=True, gc=False):
    """A way that ends at a rule."""

    way: Way
    verdict: Verdict

    @property
    def step(self) -> Step:
        """Return the step at which it ends."""
        return self.way.steps[-1]


class Passage(Struct, frozen=True, gc=False):
    """What is left of some ways after a hook or chain."""

    going: tuple[Way, ...] = ()  # to the next rule of the calling chain, or past the hook
    accepted: tuple[Way, ...] = ()  # past the rest of the table
    ended: tuple[End, ...] = ()


class Hooks:
    """The hooks of one family."""

    def __init__(self, ruleset: Ruleset, view: View) -> None:
        self._ruleset, self._view = ruleset, view
        self._evaluated = 0
        self._candidates: dict[tuple[str, str, IP], list[tuple[int, str]]] = {}

    def run(self, ways: Iterable[Way], hook: str, *tables: str) -> tuple[tuple[Way, ...], tuple[End, ...]]:
        """Return the ways past *hook* in *tables*, in this order, and those that end there."""
        going, ended = tuple(ways), list[End]()
        for table in tables:
            if self._ruleset.is_empty(table, hook):
                continue
            passage = self._run(going, table, hook, ())
            ended += passage.ended
            after = passage.going
            if policy := self._ruleset.policies.get((table, hook), "").replace("ACCEPT", ""):
                step = Step(
                    "policy", policy.lower() + "ped", f"no rule of {hook} accepts it", table, hook, foreign=True
                )
                ended += [End(way.with_step(step), "dropped") for way in after]
                after = ()
            going = _merged((*passage.accepted, *after))
        return going, tuple(ended)

    def _run(self, ways: Sequence[Way], table: str, chain: str, callers: tuple[str, ...]) -> Passage:
        going, returned, accepted = tuple(ways), tuple[Way, ...](), tuple[Way, ...]()
        ended: tuple[End, ...] = ()
        for number, text in self._candidate_rules(table, chain, going[0].packet.source) if going else ():
            if not going:
                break
            place = _Place(table, chain, number, parse_rule(text), callers)
            results = [self._apply(way, place) for way in going]
            going = _merged([way for result in results for way in result.going])
            accepted = _merged((*accepted, *(way for result in results for way in result.accepted)))
            ended += tuple(end for result in results for end in result.ended)
            returned = _merged((*returned, *(way for result in results for way in result.returned)))
        return Passage(_merged((*going, *returned)), accepted, ended)

    def _candidate_rules(self, table: str, chain: str, source: IP) -> list[tuple[int, str]]:
        """Return the rules of *chain* with their numbers, without those for another client.

        A chain may have a rule for each of thousands of addresses, and is traversed once for each real server.
        """
        key = table, chain, source
        if key not in self._candidates:
            rules = enumerate(self._ruleset.chains.get((table, chain), ()), 1)
            own = (f"-s {source}/32 ", f"-s {source}/128 ")
            self._candidates[key] = [
                (number, text) for number, text in rules if text.startswith(own) or not _OF_ONE_CLIENT.match(text)
            ]
        return self._candidates[key]

    def _apply(self, way: Way, place: "_Place") -> "_Result":
        rule = place.rule
        self._evaluated += 1
        matches = match_rule(rule, way.packet, self._view)
        if matches == NO or not rule.target:
            return _Result((way,))
        step = Step(
            "rule",
            _effect(rule, self._ruleset, place.table),
            match_words(rule, way.packet, self._view),
            place.table,
            place.chain,
            place.number,
            rule.text,
            certain=matches == YES,
            foreign=not is_ours(place.table, place.chain, rule.target),
        )
        taken = way.with_step(step)
        if matches == YES:
            return self._take(taken, place)
        result = self._take(taken.assuming(step), place)
        if result.going == (taken.assuming(step),) and not (result.accepted or result.ended or result.returned):
            return _Result((taken,))  # it makes no difference
        return _Result((taken, *result.going), result.accepted, result.ended, result.returned)

    def _take(self, way: Way, place: "_Place") -> "_Result":
        """Return the result of the target of the rule, which matches."""
        rule, table = place.rule, place.table
        if target := _TARGETS.get(rule.target):
            try:
                return target(way, rule)
            except ValueError:  # a form of its value that is not known here
                return _unknown(way, rule)
        callers = (*place.callers, place.chain)
        is_known = (table, rule.target) in self._ruleset.chains and rule.target not in callers
        if not is_known or self._evaluated > _RULES_MAX:
            return _Result((way.assuming(way.steps[-1]),), ended=(End(way, "unknown"),))
        passage = self._run((way,), table, rule.target, callers)
        if rule.is_goto:
            return _Result((), passage.accepted, passage.ended, passage.going)
        return _Result(passage.going, passage.accepted, passage.ended)


class _Place(Struct, frozen=True, gc=False):
    """Where a rule is."""

    table: str
    chain: str
    number: int
    rule: Rule
    callers: tuple[str, ...]  # the chains that lead here; a kernel refuses a loop


class _Result(Struct, frozen=True, gc=False):
    """What is left of one way after a rule: as in Passage, and what returns from its chain."""

    going: tuple[Way, ...] = ()
    accepted: tuple[Way, ...] = ()
    ended: tuple[End, ...] = ()
    returned: tuple[Way, ...] = ()


def _merged(ways: Sequence[Way]) -> tuple[Way, ...]:
    """Return *ways* with one for each packet, that with the fewest doubts; beyond a limit, one with any mark."""
    if len(ways) <= 1:
        return tuple(ways)
    best: dict[Packet, Way] = {}
    for way in ways:
        known = best.get(way.packet)
        if known is None or len(way.doubts) < len(known.doubts):
            best[way.packet] = way
    first = min(best.values(), key=lambda way: len(way.doubts))
    others = [way for way in best.values() if way is not first]
    if len(others) < _WAYS_MAX:
        return (first, *others)
    last = others[-1]
    any_mark = Way(replace(last.packet, unknown_mark=_MASK), last.steps, last.doubts)
    return (first, *others[: _WAYS_MAX - 1], any_mark)


# Targets

Target = Callable[[Way, Rule], _Result]


def _go_on(way: Way, _rule: Rule) -> _Result:
    return _Result((way,))


def _accept(way: Way, _rule: Rule) -> _Result:
    return _Result(accepted=(way,))


def _return(way: Way, _rule: Rule) -> _Result:
    return _Result(returned=(way,))


def _drop(way: Way, _rule: Rule) -> _Result:
    return _Result(ended=(End(way, "dropped"),))


def _reject(way: Way, _rule: Rule) -> _Result:
    return _Result(ended=(End(way, "rejected"),))


def _unknown(way: Way, _rule: Rule) -> _Result:
    return _Result(ended=(End(way, "unknown"),))


def _masquerade(way: Way, _rule: Rule) -> _Result:
    return _Result(accepted=(Way(replace(way.packet, is_masqueraded=True), way.steps, way.doubts),))


def _mark(way: Way, rule: Rule) -> _Result:
    packet = way.packet
    for option in rule.target_options:
        operation = _MARK_OPERATIONS.get(option.name)
        if operation is None:
            packet = replace(packet, unknown_mark=_MASK)
            continue
        keep, value = operation(*parse_mark(option.value))
        packet = replace(packet, mark=packet.mark & keep ^ value, unknown_mark=packet.unknown_mark & keep)
    return _Result((Way(packet, way.steps, way.doubts),))


def _connection_mark(way: Way, rule: Rule) -> _Result:
    if not any(option.name == "--restore-mark" for option in rule.target_options):
        return _Result((way,))
    return _Result((Way(replace(way.packet, unknown_mark=_MASK), way.steps, way.doubts),))


def _destination(way: Way, rule: Rule) -> _Result:
    """Change the destination as DNAT does; to one of several, or a form that is not known, the verdict is unknown."""
    target = rule.target_value("--to-destination")
    host, port = _split_target(target)
    try:
        address = parse_ip(host) if host else way.packet.destination
    except ValueError:
        return _unknown(way, rule)
    packet = replace(way.packet, destination=address, port=port or way.packet.port, diverted=rule.text)
    return _Result(accepted=(Way(packet, way.steps, way.doubts),))


def _split_target(target: str) -> tuple[str, int]:
    host, colon, port = target.rpartition(":")
    if target.count(":") > 1 and not target.startswith("["):  # IPv6 without a port
        host, colon, port = target, "", ""
    if not colon:
        return target.strip("[]"), 0
    return host.strip("[]"), int(port) if port.isdecimal() else 0


def _redirect(way: Way, rule: Rule) -> _Result:
    """Change the destination to this host itself: the loopback address for its own packets, else the interface's."""
    port = rule.target_value("--to-ports")
    packet = replace(
        way.packet,
        destination="::1" if way.packet.family == "IPv6" else "127.0.0.1",
        port=int(port) if port.isdecimal() else way.packet.port,
        diverted=rule.text,
    )
    return _Result(accepted=(Way(packet, way.steps, way.doubts),))


_MARK_OPERATIONS: Mapping[str, Callable[[int, int], tuple[int, int]]] = {  # -> bits that are kept, bits that flip
    "--set-xmark": lambda value, mask: (~mask & _MASK, value),
    "--set-mark": lambda value, mask: (~(value | mask) & _MASK, value),
    "--and-mark": lambda value, _: (value, 0),
    "--or-mark": lambda value, _: (~value & _MASK, value),
    "--xor-mark": lambda value, _: (_MASK, value),
}

_TARGETS: Mapping[str, Target] = {
    "ACCEPT": _accept,
    "DROP": _drop,
    "REJECT": _reject,
    "RETURN": _return,
    "MARK": _mark,
    "CONNMARK": _connection_mark,
    "MASQUERADE": _masquerade,
    "SNAT": _masquerade,
    "DNAT": _destination,
    "REDIRECT": _redirect,
    **dict.fromkeys(
        (
            "LOG", "NFLOG", "ULOG", "TRACE", "AUDIT", "SET", "CLASSIFY", "CHECKSUM", "CT", "NOTRACK", "TCPMSS", "DSCP",
            "TOS", "TTL", "HL", "SECMARK", "CONNSECMARK", "LED", "IDLETIMER", "RATEEST", "TEE",
        ),
        _go_on,
    ),
}  # fmt: skip


def _effect(rule: Rule, ruleset: Ruleset, table: str) -> str:
    options = " ".join(map(str, rule.target_options))
    if rule.target == "MARK":
        return _mark_effect(rule, options)
    if rule.target in _EFFECTS:
        value = rule.target_value("--reject-with") or "icmp-port-unreachable"
        return _EFFECTS[rule.target].format(options=options, value=value).strip()
    if (table, rule.target) in ruleset.chains:
        return f"goes to {rule.target}"
    return f"{rule.target} {options}".strip()


def _mark_effect(rule: Rule, options: str) -> str:
    try:
        value, mask = parse_mark(rule.target_value("--set-xmark"))
    except ValueError:
        return f"its mark changes: {options}"
    if value == mask:
        return f"gets the mark {value:#x}"
    if not value:
        return f"loses the mark {mask:#x}"
    return f"its mark changes: {options}" if mask else f"its mark flips: {value:#x}"


_EFFECTS: Mapping[str, str] = {
    "ACCEPT": "accepted",
    "DROP": "dropped",
    "REJECT": "rejected by {value}",
    "RETURN": "returns",
    "MASQUERADE": "masqueraded",
    "SNAT": "its source changes: {options}",
    "DNAT": "its destination changes: {options}",
    "REDIRECT": "redirected to this node: {options}",
}
