"""The words of our own rules, for a library that takes them one by one: restore text -> values.

Law: pure, and closed.  Only what compile/chains.py and model/kube_names.py can write is understood; any other word is a
ValueError, and never guessed.  So nothing gets to libxtables that it might not take: no set that isn't ours, no state
or direction that is misspelt (it takes ``dstx`` for ``dst``).

An option is its name and its values; ``!`` stands first among the values of one that is turned round.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import NoReturn

from msgspec import Struct

from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.services import Family, family_of

Option = tuple[str, tuple[str, ...]]
Check = Callable[[str, Family], bool]

NOT = "!"


class ParsedRule(Struct, frozen=True, gc=False):
    """One rule; "" is a field that it leaves out."""

    source: str = ""
    in_interface: str = ""
    protocol: str = ""
    matches: tuple[tuple[str, tuple[Option, ...]], ...] = ()
    target: str = ""
    target_options: tuple[Option, ...] = ()

    def sets(self) -> set[str]:
        """The sets that it names."""
        return {values[-2] for _, options in self.matches for name, values in options if name == "match-set"}


class Line(Struct, frozen=True, gc=False):
    """One line of a restore: its command (``:``, ``-A``, ``-I``, ``-D``, ``-X``), chain, and rule if it has one."""

    command: str
    chain: str
    rule: ParsedRule | None = None


def restore_lines(text: bytes, family: Family) -> dict[str, list[Line]]:
    """The lines of each table in what ``restore_text`` made.  Raises ValueError for a rule that is none of ours."""
    found: dict[str, list[Line]] = {}
    for line in text.decode().splitlines():
        command, _, rest = line.partition(" ")
        if line.startswith("*"):
            lines = found.setdefault(line[1:], [])
        elif line.startswith(":"):
            lines.append(Line(":", command[1:]))
        elif line != "COMMIT":
            chain, _, rule = rest.partition(" ")
            lines.append(Line(command, chain, rule_words(rule, family) if rule else None))
    return found


def rule_words(rule: str, family: Family) -> ParsedRule:
    """The words of *rule*, a rule of ours as ``iptables-save`` prints it.  Raises ValueError for any other."""
    words = _RuleTokenizer(rule, family)
    fields: dict[str, str] = {}
    matches: list[tuple[str, tuple[Option, ...]]] = []
    while (word := words.next()) != "-j":
        turned = word == NOT
        word = words.next() if turned else word
        if word == "-m" and not turned:
            name = words.one_of(_MATCHES)
            matches.append((name, tuple(words.options(_MATCHES[name]))))
        elif word in _FIELDS and not (turned and word == "-p"):
            name, check = _FIELDS[word]
            fields[name] = NOT * turned + words.checked(check)
        else:
            words.refuse(word)
    target = words.one_of(_TARGETS)
    options = tuple(words.options(_TARGETS[target]))
    words.end()
    return ParsedRule(matches=tuple(matches), target=target, target_options=options, **fields)


def _like(pattern: str) -> Check:
    return lambda value, _: re.fullmatch(pattern, value) is not None


def _is_address(value: str, family: Family) -> bool:
    return family_of(value) == family and str(ip_address(value)) == value


def _is_network(value: str, family: Family) -> bool:
    return family_of(value) == family and str(ip_network(value)) == value


def _is_our_set(value: str, family: Family) -> bool:
    return any(kind.name_in(family) == value for kind in tables.SET_KINDS)


_MARK = _like(r"0x[0-9a-f]{1,8}/0x[0-9a-f]{1,8}")
_LOCAL = _like("LOCAL")
_INTERFACE = _like(r"[^\s/!+]{1,14}\+?|[^\s/!+]{15}")  # IFNAMSIZ is 16, the final NUL included

_FIELDS: Mapping[str, tuple[str, Check]] = {
    "-s": ("source", _is_network),
    "-i": ("in_interface", _INTERFACE),
    "-p": ("protocol", _like("tcp|udp|sctp")),
}
_MATCHES: Mapping[str, Mapping[str, tuple[Check, ...]]] = {
    "comment": {"comment": (_like(r"[^\x00-\x1f]{1,255}"),)},  # XT_MAX_COMMENT_LEN is 256, the final NUL included
    "set": {"match-set": (_is_our_set, _like("(src|dst)(,(src|dst)){0,2}"))},
    "mark": {"mark": (_MARK,)},
    "addrtype": {"src-type": (_LOCAL,), "dst-type": (_LOCAL,)},
    "physdev": {"physdev-is-in": ()},
    "conntrack": {"ctstate": (_like("NEW|RELATED,ESTABLISHED"),)},
    "ipvs": {"vproto": (_like("6|17|132"),), "vaddr": (_is_address,), "vport": (_like("[1-9][0-9]{0,4}"),)},
}
_TARGETS: Mapping[str, Mapping[str, tuple[Check, ...]]] = {
    "ACCEPT": {},
    "DROP": {},
    "RETURN": {},
    "MARK": {"set-xmark": (_MARK,)},
    "MASQUERADE": {"random-fully": ()},
    "REJECT": {"reject-with": (_like("icmp6?-port-unreachable"),)},
    **{name: {} for _, name in tables.CHAINS},
}


class _RuleTokenizer:
    """The words of one rule, taken one after the other."""

    _WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')  # iptables-save quotes, and puts a backslash before quotes

    def __init__(self, rule: str, family: Family) -> None:
        self._rule, self._family = rule, family
        found = self._WORD.findall(rule)
        self._words = [re.sub(r"\\(.)", r"\1", quoted) or plain for quoted, plain in found]
        self._at = 0

    def next(self) -> str:
        """The next word.  Raises ValueError if there is none."""
        if self._at == len(self._words):
            self.refuse("")
        self._at += 1
        return self._words[self._at - 1]

    def one_of(self, known: Mapping[str, object]) -> str:
        """The next word, which must be a key of *known*."""
        word = self.next()
        return word if word in known else self.refuse(word)

    def checked(self, check: Check) -> str:
        """The next word, which *check* must let pass."""
        word = self.next()
        try:
            return word if check(word, self._family) else self.refuse(word)
        except ValueError:
            return self.refuse(word)

    def options(self, known: Mapping[str, tuple[Check, ...]]) -> Iterator[Option]:
        """The options that follow, each with as many values as *known* says."""
        while self._at < len(self._words):
            turned = self._words[self._at] == NOT
            name = self._words[self._at + turned] if self._at + turned < len(self._words) else ""
            if not name.startswith("--"):
                return
            self._at += 1 + turned
            checks = known[name[2:]] if name[2:] in known else self.refuse(name)
            yield name[2:], (NOT,) * turned + tuple(self.checked(check) for check in checks)

    def end(self) -> None:
        """Raises ValueError if words are left."""
        if self._at < len(self._words):
            self.refuse(self._words[self._at])

    def refuse(self, word: str) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(f"{word!r} in the rule {self._rule!r} is no word of ours")
