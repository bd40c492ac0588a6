"""Rules as ``iptables-save`` prints them, parsed into matches and a target; rules of any program.

Invariants:
- Every rule can be parsed.  What is not known is kept as an option of its match, which then may match.
- A value is everything between two options, so the number of values of an option need not be known.
"""

import re
from functools import lru_cache

from msgspec import Struct

_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_BASE = {"-s", "-d", "-i", "-o", "-p", "-f"}
_BASE_EXTENSION = ""
_JUMPS = ("-j", "-g")
_FREE_TEXT = ("--comment", "--log-prefix", "--nflog-prefix", "--string")  # whose value may look like an option


class Option(Struct, frozen=True, gc=False):
    """One option of a match or target: ``! --dport 80``."""

    extension: str  # the match that it belongs to ("set"); "" for -s, -d, -i, -o, -p
    name: str  # with dashes
    values: tuple[str, ...] = ()
    is_negated: bool = False

    def __str__(self) -> str:
        """Return the option as iptables-save prints it."""
        return " ".join((*(("!",) if self.is_negated else ()), self.name, *self.values))

    @property
    def value(self) -> str:
        """Return the first value; "" if there is none."""
        return self.values[0] if self.values else ""


class Rule(Struct, frozen=True, gc=False):
    """One rule."""

    text: str
    options: tuple[Option, ...] = ()
    bare: tuple[str, ...] = ()  # matches that are there without any option
    target: str = ""  # "": the rule only counts
    target_options: tuple[Option, ...] = ()
    is_goto: bool = False

    def target_value(self, name: str) -> str:
        """Return the value of the target's option *name*; "" if it is not there."""
        return next((option.value for option in self.target_options if option.name == name), "")


@lru_cache(8192)
def parse_rule(text: str) -> Rule:
    """Return *text*, a rule without ``-A CHAIN``, in parts."""
    words = [re.sub(r"\\(.)", r"\1", quoted) if quoted else plain or "" for quoted, plain in _WORD.findall(text)]
    options: list[Option] = []
    named: list[str] = []  # matches
    extension = _BASE_EXTENSION
    target, is_goto = "", False
    target_options: list[Option] = []
    position = 0
    while position < len(words):
        is_negated = words[position] == "!"
        position += is_negated
        name = words[position] if position < len(words) else ""
        end = position + (2 if name in _FREE_TEXT else 1)
        while end < len(words) and not _begins_option(words, end):
            end += 1
        values, position = tuple(words[position + 1 : end]), end
        if name in _JUMPS:
            target, is_goto = (values[0] if values else ""), name == "-g"
        elif target:
            target_options.append(Option(target, name, values, is_negated))
        elif name == "-m":
            extension = values[0] if values else ""
            named.append(extension)
        else:
            options.append(Option(_BASE_EXTENSION if name in _BASE else extension, name, values, is_negated))
    used = {option.extension for option in options}
    bare = tuple(name for name in named if name not in used)
    return Rule(text, tuple(options), bare, target, tuple(target_options), is_goto)


def _begins_option(words: list[str], position: int) -> bool:
    word = words[position]
    if word == "!":
        return position + 1 < len(words) and words[position + 1].startswith("-")
    return word.startswith("--") or re.fullmatch("-[a-zA-Z]", word) is not None
