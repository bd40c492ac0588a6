"""A packet's way through the rules of one hook, both ways where a rule may match.

Invariants:
- Ways on which the packet is the same are one way, so a hook with many rules that may match stays cheap.
- The first way is the one on which no rule matches that only may.
"""

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.diagnose.trace.matches import View, match_rule, match_words
from kubeproxy_py.diagnose.trace.packet import Packet
from kubeproxy_py.diagnose.trace.rules import Rule, parse_rule
from kubeproxy_py.diagnose.trace.ruleset import Ruleset, is_ours
from kubeproxy_py.diagnose.trace.targets import TARGETS, Result, effect_words, end_unknown, map_mark, maps_mark
from kubeproxy_py.diagnose.trace.truth import NO, YES, all_of
from kubeproxy_py.diagnose.trace.way import End, Step, Way
from kubeproxy_py.net import IP

_OF_ONE_CLIENT = re.compile(r"-s [0-9a-f.:]+/(?:32|128) ")
_WAYS_MAX = 16
_RULES_MAX = 500_000  # that are evaluated in one trace; whatever comes after is not known
_MASK = 0xFFFFFFFF


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

    def _apply(self, way: Way, place: "_Place") -> "Result":
        rule = place.rule
        self._evaluated += 1
        matches = match_rule(rule, way.packet, self._view)
        if matches != NO and rule.target == "SET":
            matches = all_of((matches, maps_mark(rule, way.packet, self._view)))
        if matches == NO or not rule.target:
            return Result((way,))
        step = Step(
            "rule",
            effect_words(rule, self._ruleset, place.table),
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
            return Result((taken,))  # it makes no difference
        return Result((taken, *result.going), result.accepted, result.ended, result.returned)

    def _take(self, way: Way, place: "_Place") -> "Result":
        """Return the result of the target of the rule, which matches."""
        rule, table = place.rule, place.table
        if rule.target == "SET":
            return map_mark(way, rule, self._view)
        if target := TARGETS.get(rule.target):
            try:
                return target(way, rule)
            except ValueError:  # a form of its value that is not known here
                return end_unknown(way, rule)
        callers = (*place.callers, place.chain)
        is_known = (table, rule.target) in self._ruleset.chains and rule.target not in callers
        if not is_known or self._evaluated > _RULES_MAX:
            return Result((way.assuming(way.steps[-1]),), ended=(End(way, "unknown"),))
        passage = self._run((way,), table, rule.target, callers)
        if rule.is_goto:
            return Result((), passage.accepted, passage.ended, passage.going)
        return Result(passage.going, passage.accepted, passage.ended)


class _Place(Struct, frozen=True, gc=False):
    """Where a rule is."""

    table: str
    chain: str
    number: int
    rule: Rule
    callers: tuple[str, ...]  # the chains that lead here; a kernel refuses a loop


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
