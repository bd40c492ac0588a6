"""Send requests of one client to one address, and print who answered and which client address was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from lab.client import query
from lab.echo import Protocol
from lab.namespace import Namespace
from tests.demo.output import check, show

Answers = Counter[tuple[str, str]]
"""Number of answers by server and by the client address that it saw."""


class Target(NamedTuple):
    """The target of requests: a name to print, and its address."""

    name: str
    protocol: Protocol
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}  {self.address}:{self.port}/{self.protocol.upper()}"


def send(clients: Mapping[str, Namespace], client: str, target: Target, count: int) -> Answers:
    """Send *count* requests from *client*, each by a new connection, and print a line for each server that answered."""
    results = (
        query(clients[client], target.protocol, target.address, target.port, timeout_s=3.0) for _ in range(count)
    )
    answers = Counter((answer.name, answer.peer_address) for answer in results)
    show(f"{client}  ->  {target}    {count} requests")
    for (name, address), number in sorted(answers.items()):
        show(f"    {number} answered by {name:<8} which saw {address}")
    return answers


def check_spread(answers: Answers, expected: Mapping[str, str], text: str) -> None:
    """Check *text*: exactly the servers of *expected* answered, equally often, and saw the client address given."""
    share = answers.total() // len(expected)
    check(text, answers == dict.fromkeys(expected.items(), share), dict(answers))
