"""Parse our own rules into values, for a library that takes matches and options one by one.

Invariants:
- Pure and strict: only what compile/chains.py and model/kube_names.py can write is accepted; any other word is a
  ValueError.  So nothing reaches libxtables that it might mishandle: no set that is not ours, no misspelt state or
  direction (libxtables accepts ``dstx`` as ``dst``).
- An option is its name and its values; ``!`` is the first value of an inverted one.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import NoReturn

from msgspec import Struct

from kubeproxy_py.model import kube_names
from kubeproxy_py.net import Family, family_of

Option = tuple[str, tuple[str, ...]]
"""Name without dashes, and values."""

Check = Callable[[str, Family], bool]
"""Whether a word is acceptable in a rule of a family; may raise ValueError if it is not."""

NOT = "!"


class ParsedRule(Struct, frozen=True, gc=False):
    """One rule; a field that the rule does not use is empty."""

    source: str = ""  # network, after NOT if inverted
    destination: str = ""  # as source
    in_interface: str = ""  # name, or prefix and "+", after NOT if inverted
    protocol: str = ""
    matches: tuple[tuple[str, tuple[Option, ...]], ...] = ()
    target: str = ""
    target_options: tuple[Option, ...] = ()

    def set_names(self) -> set[str]:
        """Return the names of the sets that the rule matches on, or takes marks from."""
        matched = {values[-2] for _, options in self.matches for name, values in options if name == "match-set"}
        return matched | {values[-2] for name, values in self.target_options if name == "map-set"}


class Line(Struct, frozen=True, gc=False):
    """One line of restore text: its command (``:``, ``-A``, ``-I``, ``-D``, ``-X``), chain and rule, if it has one."""

    command: str
    chain: str
    rule: ParsedRule | None = None


def parse_restore(text: bytes, family: Family) -> dict[str, list[Line]]:
    """Return the lines of each table in text that ``restore_text`` wrote.

    Raises:
        ValueError: A rule is not one of ours, or is outside of a table.
    """
    tables: dict[str, list[Line]] = {}
    lines: list[Line] | None = None
    for line in text.decode().splitlines():
        command, _, tail = line.partition(" ")
        if line.startswith("*"):
            lines = tables.setdefault(line[1:], [])
        elif lines is None:
            raise ValueError(f"outside of a table: {line!r:.100}")
        elif line.startswith(":"):
            lines.append(Line(":", command[1:]))
        elif line != "COMMIT":
            chain, _, rule = tail.partition(" ")
            lines.append(Line(command, chain, parse_rule(rule, family) if rule else None))
    return tables


def parse_rule(rule: str, family: Family) -> ParsedRule:
    """Return the parts of *rule*, a rule of ours as ``iptables-save`` prints it.

    Raises:
        ValueError: The rule is not one of ours.
    """
    tokens = _RuleTokenizer(rule, family)
    fields: dict[str, str] = {}
    matches: list[tuple[str, tuple[Option, ...]]] = []
    while (word := tokens.next()) != "-j":
        inverted = word == NOT
        word = tokens.next() if inverted else word
        if word == "-m" and not inverted:
            name = tokens.one_of(_MATCHES)
            matches.append((name, tuple(tokens.options(_MATCHES[name]))))
        elif word in _FIELDS and not (inverted and word == "-p"):
            name, check = _FIELDS[word]
            fields[name] = NOT * inverted + tokens.checked(check)
        else:
            tokens.reject(word)
    target = tokens.one_of(_TARGETS)
    options = tuple(tokens.options(_TARGETS[target]))
    tokens.end()
    return ParsedRule(matches=tuple(matches), target=target, target_options=options, **fields)


def _matching(pattern: str) -> Check:
    return lambda value, _: re.fullmatch(pattern, value) is not None


def _is_address(value: str, family: Family) -> bool:
    return family_of(value) == family and str(ip_address(value)) == value


def _is_network(value: str, family: Family) -> bool:
    return family_of(value) == family and str(ip_network(value)) == value


def _is_our_set(value: str, family: Family) -> bool:
    definitions = (*kube_names.IPSET_DEFINITIONS, *kube_names.POLICY_IPSET_DEFINITIONS)
    return any(definition.name_in(family) == value for definition in definitions)


def _is_mark_set(value: str, family: Family) -> bool:
    return any(definition.name_in(family) == value for definition in kube_names.POLICY_MARK_DEFINITIONS)


_MARK = _matching(r"0x[0-9a-f]{1,8}/0x[0-9a-f]{1,8}")
_DIRECTIONS = _matching("(src|dst)(,(src|dst)){0,2}")
_LOCAL = _matching("LOCAL")
_DSCP = _matching("0x[0-9a-f]{2}")
_PORT = _matching("[1-9][0-9]{0,4}")
_INTERFACE = _matching(r"[^\s/!+]{1,14}\+?|[^\s/!+]{15}")  # IFNAMSIZ is 16, the final NUL included

_FIELDS: Mapping[str, tuple[str, Check]] = {  # option -> field of ParsedRule, check of its value
    "-s": ("source", _is_network),
    "-d": ("destination", _is_network),
    "-i": ("in_interface", _INTERFACE),
    "-p": ("protocol", _matching("tcp|udp|sctp")),
}
_MATCHES: Mapping[str, Mapping[str, tuple[Check, ...]]] = {  # match -> option -> check of each value
    "comment": {"comment": (_matching(r"[^\x00-\x1f]{1,255}"),)},  # XT_MAX_COMMENT_LEN is 256, final NUL included
    "set": {"match-set": (_is_our_set, _DIRECTIONS)},
    "mark": {"mark": (_MARK,)},
    "addrtype": {"src-type": (_LOCAL,), "dst-type": (_LOCAL,)},
    "dscp": {"dscp": (_DSCP,)},
    "physdev": {"physdev-is-in": ()},
    "conntrack": {"ctstate": (_matching("NEW|NEW,UNTRACKED|RELATED,ESTABLISHED"),)},
    "tcp": {"dport": (_PORT,)},
    "ipvs": {"vproto": (_matching("6|17|132"),), "vaddr": (_is_address,), "vport": (_PORT,)},
}
_TARGETS: Mapping[str, Mapping[str, tuple[Check, ...]]] = {  # target -> option -> check of each value
    "ACCEPT": {},
    "DROP": {},
    "RETURN": {},
    "MARK": {"set-xmark": (_MARK,)},
    "SET": {"map-set": (_is_mark_set, _DIRECTIONS), "map-mark": ()},
    "DSCP": {"set-dscp": (_DSCP,)},
    "MASQUERADE": {"random-fully": ()},
    "REJECT": {"reject-with": (_matching("icmp6?-port-unreachable"),)},
    **{name: {} for _, name in kube_names.OWN_CHAINS},
}


class _RuleTokenizer:
    """The words of one rule, consumed from left to right."""

    _WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')  # iptables-save quotes, and puts a backslash before quotes

    def __init__(self, rule: str, family: Family) -> None:
        self._rule, self._family = rule, family
        words = self._WORD.findall(rule)
        self._words = [re.sub(r"\\(.)", r"\1", quoted) or plain for quoted, plain in words]
        self._position = 0

    def next(self) -> str:
        """Consume the next word.  Raises ValueError if there is none."""
        if self._position == len(self._words):
            self.reject("")
        self._position += 1
        return self._words[self._position - 1]

    def one_of(self, known: Mapping[str, object]) -> str:
        """Consume the next word, which must be a key of *known*.  Raises ValueError."""
        word = self.next()
        return word if word in known else self.reject(word)

    def checked(self, check: Check) -> str:
        """Consume the next word, which *check* must accept.  Raises ValueError."""
        word = self.next()
        try:
            return word if check(word, self._family) else self.reject(word)
        except ValueError:
            return self.reject(word)

    def options(self, known: Mapping[str, tuple[Check, ...]]) -> Iterator[Option]:
        """Consume the options that follow, with as many values as *known* has checks for each.  Raises ValueError."""
        while self._position < len(self._words):
            inverted = self._words[self._position] == NOT
            at = self._position + inverted
            name = self._words[at] if at < len(self._words) else ""
            if not name.startswith("--"):
                return
            self._position = at + 1
            checks = known[name[2:]] if name[2:] in known else self.reject(name)
            yield name[2:], (NOT,) * inverted + tuple(self.checked(check) for check in checks)

    def end(self) -> None:
        """Raise ValueError if words are left."""
        if self._position < len(self._words):
            self.reject(self._words[self._position])

    def reject(self, word: str) -> NoReturn:
        """Raise ValueError for *word*."""
        raise ValueError(f"{word!r} is not accepted in the rule {self._rule!r}")
