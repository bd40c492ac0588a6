"""asking: many requests at once, and what became of each.

Law: no two requests of a run have the same source port or say the same.  So neither IPVS nor conntrack takes one for a
flow that they know, and what a pod heard of one is known even where the answer went astray.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Literal, NamedTuple

from lab.ask import Answer, AskError, NoAnswer, Unreachable, ask
from lab.echo import EchoServers, Heard, Protocol
from lab.network import Cluster

PORT_UNREACHABLE = {4: (3, 3), 6: (1, 4)}  # RFC 792; RFC 4443, 3.1

# Below Linux's ephemeral ports and the NodePorts (30000 up), above those of the agent's own servers (10249, 10256).
_source_ports = itertools.count(11000)
_AT_ONCE = 32  # threads; nearly all of them wait for an answer that will not come
_TIMEOUT_S = 1.0


class Request(NamedTuple):
    """*client* asks *address*:*port*, from *source*, an address of its own, if it doesn't leave that to the kernel."""

    client: str
    protocol: Protocol
    address: str
    port: int
    source: str = ""


class Met(NamedTuple):
    """What one request met.

    answered: *pod* answered, and it saw the client as *saw*.  lost: *pod* heard it, and no answer came back.  dropped:
    no pod heard it, and no answer came back.  Of TCP and SCTP a lost handshake can't be told from a dropped one:
    unanswered.  refused: the ICMP error port unreachable came back; failed: another error.
    """

    how: Literal["answered", "lost", "dropped", "unanswered", "refused", "failed"]
    pod: str = ""
    saw: str = ""


class _Asked(NamedTuple):
    request: Request
    said: bytes
    fate: Answer | AskError


def ask_one(cluster: Cluster, request: Request, timeout_s: float = _TIMEOUT_S) -> Answer:
    """Make *request* once; raises as `ask`."""
    return _ask(cluster, request, next(_source_ports), b"who are you?\n", timeout_s)


def ask_all(
    cluster: Cluster, servers: EchoServers, requests: set[Request], times: int
) -> Mapping[Request, Counter[Met]]:
    """Make each of *requests* *times* times; what they met.

    Clients of one virtual server take turns, so that each gets whole rounds of rr.
    """
    turns: dict[object, list[Request]] = {}
    for request in sorted(requests):
        turns.setdefault((request.protocol, request.address, request.port), []).extend([request] * times)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        asked = list(threads.map(lambda turn: [_ask_marked(cluster, each) for each in turn], turns.values()))
    heard = {datagram.said: datagram for datagram in servers.heard}
    met: dict[Request, Counter[Met]] = {request: Counter() for request in requests}
    for each in itertools.chain.from_iterable(asked):
        met[each.request][_what_it_met(each, heard.get(each.said))] += 1
    return met


def _ask_marked(cluster: Cluster, request: Request) -> _Asked:
    port = next(_source_ports)
    said = f"this is {port}\n".encode()
    try:
        return _Asked(request, said, _ask(cluster, request, port, said, _TIMEOUT_S))
    except AskError as error:
        return _Asked(request, said, error)


def _ask(cluster: Cluster, request: Request, source_port: int, said: bytes, timeout_s: float) -> Answer:
    client, protocol, address, port, source = request
    return ask(cluster[client], protocol, address, port, timeout_s, source_port, said, source)


def _what_it_met(asked: _Asked, heard: Heard | None) -> Met:
    fate, request = asked.fate, asked.request
    if isinstance(fate, Answer):
        return Met("answered", fate.name, fate.peer_address)
    if isinstance(fate, Unreachable) and fate.icmp == PORT_UNREACHABLE[ip_address(request.address).version]:
        return Met("refused")
    if not isinstance(fate, NoAnswer):
        return Met("failed", saw=repr(fate))
    if request.protocol != "udp":
        return Met("unanswered")
    return Met("lost", heard.name, Answer(heard.name, heard.peer).peer_address) if heard else Met("dropped")
