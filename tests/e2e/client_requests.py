"""Send many requests at once and classify the result of each.

Invariants:
  - No two requests of a run have the same source port or the same payload.  So no request belongs to a flow that IPVS
    or conntrack knows already, and a datagram that a pod received is identified even if the answer was lost.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Literal, NamedTuple

from lab.client import PATIENT_S, Answer, NoAnswer, QueryError, Unreachable, next_source_port, query
from lab.echo import EchoServers, Protocol, ReceivedDatagram
from lab.network import Cluster

PORT_UNREACHABLE = {4: (3, 3), 6: (1, 4)}  # RFC 792; RFC 4443, 3.1

_THREADS = 32
_WAITING_THREADS = 96  # nearly all of them wait for an answer that will not come


class Request(NamedTuple):
    """A request of *client* to *address*:*port*, from its address *source*; "": chosen by the kernel."""

    client: str
    protocol: Protocol
    address: str
    port: int
    source: str = ""


class RequestResult(NamedTuple):
    """The result of one request.

    answered: *pod* answered, and it saw the client's address as *seen_source*.
    lost: *pod* received the datagram, but no answer arrived.
    dropped: no pod received the datagram, and no answer arrived.
    unanswered: for TCP and SCTP, where a lost handshake cannot be distinguished from a dropped one.
    refused: the ICMP error port unreachable was received.
    failed: another error; *error* is its text.
    """

    outcome: Literal["answered", "lost", "dropped", "unanswered", "refused", "failed"]
    pod: str = ""
    seen_source: str = ""
    error: str = ""


class _SentRequest(NamedTuple):
    request: Request
    source_port: int
    payload: bytes
    result: Answer | QueryError


def send_request(cluster: Cluster, request: Request, timeout_s: float = PATIENT_S) -> Answer:
    """Send *request* once; raises as `lab.client.query`."""
    return _send(cluster, request, next_source_port(), b"who are you?\n", timeout_s)


class Series(NamedTuple):
    """How often a request is sent, how long each waits for an answer, and what it shares rounds of rr with.

    turn: requests with the same one are sent one after the other; "": those to one virtual server are.
    """

    times: int
    timeout_s: float
    turn: str = ""


def send_series(
    cluster: Cluster,
    servers: EchoServers,
    requests: Mapping[Request, Series],
    refused_ports: Container[int] = (),
) -> Mapping[Request, Counter[RequestResult]]:
    """Send *requests* and count the results of each.

    Those with the same turn are sent one after the other, so that each client gets complete rounds of rr.
    Requests that wait for long are sent first, so that they need not wait for many others.  *refused_ports* are source
    ports for which an ICMP error port unreachable was seen: SCTP does not report it.
    """
    waiting = {request for request, series in requests.items() if series.timeout_s < PATIENT_S}
    sent_requests = [
        *_send_all(cluster, requests, sorted(requests.keys() - waiting), _THREADS),
        *_send_all(cluster, requests, sorted(waiting), _WAITING_THREADS),
    ]
    received = {datagram.payload: datagram for datagram in servers.received}
    results: dict[Request, Counter[RequestResult]] = {request: Counter() for request in requests}
    for sent in sent_requests:
        results[sent.request][_classify(sent, received.get(sent.payload), refused_ports)] += 1
    return results


def _send_all(
    cluster: Cluster, series: Mapping[Request, Series], requests: Iterable[Request], threads_max: int
) -> list[_SentRequest]:
    by_server: dict[object, list[Request]] = {}
    for request in requests:
        batch = [request] * series[request].times
        turn = series[request].turn or (request.protocol, request.address, request.port)
        by_server.setdefault(turn, []).extend(batch)
    with ThreadPoolExecutor(threads_max) as threads:
        batches = threads.map(
            lambda batch: [_send_marked(cluster, request, series[request].timeout_s) for request in batch],
            by_server.values(),
        )
        return list(itertools.chain.from_iterable(batches))


def _send_marked(cluster: Cluster, request: Request, timeout_s: float) -> _SentRequest:
    port = next_source_port()
    payload = f"this is {port}\n".encode()
    try:
        return _SentRequest(request, port, payload, _send(cluster, request, port, payload, timeout_s))
    except QueryError as error:
        return _SentRequest(request, port, payload, error)


def _send(cluster: Cluster, request: Request, source_port: int, payload: bytes, timeout_s: float) -> Answer:
    client, protocol, address, port, source = request
    return query(cluster[client], protocol, address, port, timeout_s, source_port, payload, source)


def _classify(sent: _SentRequest, received: ReceivedDatagram | None, refused_ports: Container[int]) -> RequestResult:
    result, request = sent.result, sent.request
    if isinstance(result, Answer):
        return RequestResult("answered", result.name, result.peer_address)
    if isinstance(result, Unreachable) and result.icmp == PORT_UNREACHABLE[ip_address(request.address).version]:
        return RequestResult("refused")
    if not isinstance(result, NoAnswer):
        return RequestResult("failed", error=repr(result))
    if sent.source_port in refused_ports:
        return RequestResult("refused")
    if request.protocol != "udp":
        return RequestResult("unanswered")
    if not received:
        return RequestResult("dropped")
    return RequestResult("lost", received.name, Answer(received.name, received.peer).peer_address)
