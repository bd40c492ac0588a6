"""traffic: some requests of one client to one address, who answered, and whom the pods saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from lab.client import query
from lab.echo import Protocol
from lab.namespace import Namespace
from tests.demo.say import claim, show

Seen = Counter[tuple[str, str]]
"""How often which server answered and saw which address."""


class Target(NamedTuple):
    """What is asked: a name for people, and where it is."""

    name: str
    protocol: Protocol
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}  {self.address}:{self.port}/{self.protocol.upper()}"


def send(clients: Mapping[str, Namespace], who: str, target: Target, count: int) -> Seen:
    """Ask *count* times from *who*, each time by a new connection, and print a line for each server that answered."""
    answers = (query(clients[who], target.protocol, target.address, target.port, timeout_s=3.0) for _ in range(count))
    seen = Counter((answer.name, answer.peer_address) for answer in answers)
    show(f"{who}  ->  {target}    {count} requests")
    for (name, address), times in sorted(seen.items()):
        show(f"    {times} x answered by {name:<8} who saw {address}")
    return seen


def claim_spread(seen: Seen, expected: Mapping[str, str], text: str) -> None:
    """Say *text*: exactly the servers of *expected* answered, equally often, and each saw the address given for it."""
    share = seen.total() // len(expected)
    claim(text, seen == dict.fromkeys(expected.items(), share), dict(seen))
