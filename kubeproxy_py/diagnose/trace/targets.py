"""What the target of a rule does to a packet that the rule matches, and how it is said.

Invariants:
- A target that is not in the table, or has a form that is not known, ends the way as not known.

Source: iptables-extensions(8); net/netfilter/xt_mark.c, xt_nat.c.
"""

from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.diagnose.trace.matches import View, value_and_mask
from kubeproxy_py.diagnose.trace.packet import Packet
from kubeproxy_py.diagnose.trace.rules import Rule
from kubeproxy_py.diagnose.trace.ruleset import Ruleset
from kubeproxy_py.diagnose.trace.sets import mapped_mark, match_set
from kubeproxy_py.diagnose.trace.truth import NO, YES, Truth
from kubeproxy_py.diagnose.trace.way import End, Way
from kubeproxy_py.net import parse_ip

_MASK = 0xFFFFFFFF


class Result(Struct, frozen=True, gc=False):
    """What is left of one way after a rule: as in Passage, and what returns from its chain."""

    going: tuple[Way, ...] = ()
    accepted: tuple[Way, ...] = ()
    ended: tuple[End, ...] = ()
    returned: tuple[Way, ...] = ()


Target = Callable[[Way, Rule], Result]


def _go_on(way: Way, _rule: Rule) -> Result:
    return Result((way,))


def _accept(way: Way, _rule: Rule) -> Result:
    return Result(accepted=(way,))


def _return(way: Way, _rule: Rule) -> Result:
    return Result(returned=(way,))


def _drop(way: Way, _rule: Rule) -> Result:
    return Result(ended=(End(way, "dropped"),))


def _reject(way: Way, _rule: Rule) -> Result:
    return Result(ended=(End(way, "rejected"),))


def end_unknown(way: Way, _rule: Rule) -> Result:
    """Return that *way* ends, and that what then happens is not known."""
    return Result(ended=(End(way, "unknown"),))


def _masquerade(way: Way, _rule: Rule) -> Result:
    return Result(accepted=(Way(replace(way.packet, is_masqueraded=True), way.steps, way.doubts),))


def _mark(way: Way, rule: Rule) -> Result:
    packet = way.packet
    for option in rule.target_options:
        operation = _MARK_OPERATIONS.get(option.name)
        if operation is None:
            packet = replace(packet, unknown_mark=_MASK)
            continue
        keep, value = operation(*value_and_mask(option.value))
        packet = replace(packet, mark=packet.mark & keep ^ value, unknown_mark=packet.unknown_mark & keep)
    return Result((Way(packet, way.steps, way.doubts),))


def maps_mark(rule: Rule, packet: Packet, view: View) -> Truth:
    """Return whether *rule*, which matches, changes anything: one that maps marks does for what is in its set."""
    if rule.target != "SET" or not (options := _map_options(rule)):
        return YES
    return match_set(view.lookup, *options, packet)


def map_mark(way: Way, rule: Rule, view: View) -> Result:
    """Give the packet the mark of its entry in the set that *rule* maps, if it does (net/netfilter/xt_set.c)."""
    options = _map_options(rule)
    has_mark = any(option.name == "--map-mark" for option in rule.target_options)
    if not options or not has_mark or maps_mark(rule, way.packet, view) == NO:
        return Result((way,))
    packet = way.packet
    mark = mapped_mark(view.lookup, options[0], packet) if options[1] == ("dst", "dst") else None
    if mark is None:
        packet = replace(packet, unknown_mark=_MASK)
    else:
        keep = ~mark.mask & _MASK
        packet = replace(packet, mark=packet.mark & keep ^ mark.mark, unknown_mark=packet.unknown_mark & keep)
    return Result((Way(packet, way.steps, way.doubts),))


def _map_options(rule: Rule) -> tuple[str, tuple[str, ...]] | None:
    """Return the set and the directions of ``--map-set``; None if *rule* has none."""
    for option in rule.target_options:
        if option.name == "--map-set" and len(option.values) > 1:
            return option.values[0], tuple(option.values[1].split(","))
    return None


def _connection_mark(way: Way, rule: Rule) -> Result:
    if not any(option.name == "--restore-mark" for option in rule.target_options):
        return Result((way,))
    return Result((Way(replace(way.packet, unknown_mark=_MASK), way.steps, way.doubts),))


def _destination(way: Way, rule: Rule) -> Result:
    """Change the destination as DNAT does; to one of several, or a form that is not known, the verdict is unknown."""
    target = rule.target_value("--to-destination")
    host, port = _split_target(target)
    try:
        address = parse_ip(host) if host else way.packet.destination
    except ValueError:
        return end_unknown(way, rule)
    packet = replace(way.packet, destination=address, port=port or way.packet.port, diverted=rule.text)
    return Result(accepted=(Way(packet, way.steps, way.doubts),))


def _split_target(target: str) -> tuple[str, int]:
    host, colon, port = target.rpartition(":")
    if target.count(":") > 1 and not target.startswith("["):  # IPv6 without a port
        host, colon, port = target, "", ""
    if not colon:
        return target.strip("[]"), 0
    return host.strip("[]"), int(port) if port.isdecimal() else 0


def _redirect(way: Way, rule: Rule) -> Result:
    """Change the destination to this host itself: the loopback address for its own packets, else the interface's."""
    port = rule.target_value("--to-ports")
    packet = replace(
        way.packet,
        destination="::1" if way.packet.family == "IPv6" else "127.0.0.1",
        port=int(port) if port.isdecimal() else way.packet.port,
        diverted=rule.text,
    )
    return Result(accepted=(Way(packet, way.steps, way.doubts),))


_MARK_OPERATIONS: Mapping[str, Callable[[int, int], tuple[int, int]]] = {  # -> bits that are kept, bits that flip
    "--set-xmark": lambda value, mask: (~mask & _MASK, value),
    "--set-mark": lambda value, mask: (~(value | mask) & _MASK, value),
    "--and-mark": lambda value, _: (value, 0),
    "--or-mark": lambda value, _: (~value & _MASK, value),
    "--xor-mark": lambda value, _: (_MASK, value),
}

TARGETS: Mapping[str, Target] = {
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


def effect_words(rule: Rule, ruleset: Ruleset, table: str) -> str:
    """Return what *rule* of *table* does to a packet, in words."""
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
        value, mask = value_and_mask(rule.target_value("--set-xmark"))
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
    "SET": "gets the mark that the set has for its destination: {options}",
}
