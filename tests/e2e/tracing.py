"""Traces on node A, by desired rows and by what its kernel has, to be compared with what real packets met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from kubeproxy_py.commands.trace import TraceArguments, Tracing
from kubeproxy_py.config.load import load
from kubeproxy_py.diagnose.trace.result import Trace
from kubeproxy_py.net import join_host_port
from lab.client import PATIENT_S
from lab.network import BY_NAME, NODE_NAME, PODS, Cluster
from tests.e2e.client_requests import Request, RequestResult

Mode = Literal["rows", "kernel"]
MODES: tuple[Mode, ...] = ("rows", "kernel")

_FLAGS = {
    "hostname-override": NODE_NAME,
    "cluster-cidr": "10.244.0.0/16,fd00:10:244::/56",
    "conntrack-max-per-core": "0",
}
_POD_PORTS = {8080: "{}", 8091: "{}:8091"}  # port -> the name with which a pod answers there
_VAIN_S = 1.0
_LOST = ("lost", "unanswered", "dropped")  # after IPVS: the answer, or the packet on its way, may be lost


@contextmanager
def tracings(cluster: Cluster, folder: Path, **flags: str) -> Iterator[dict[Mode, Tracing]]:
    """Yield one Tracing for each mode; both see one state, as it is when they first ask for it."""
    loaded = load({**_FLAGS, **flags, "manifests": str(folder)})
    with cluster.node_a.inside():
        made: dict[Mode, Tracing] = {mode: Tracing(loaded, from_kernel=mode == "kernel") for mode in MODES}
        try:
            yield made
        finally:
            for tracing in made.values():
                tracing.close()


def asked(request: Request) -> TraceArguments:
    """Return the arguments of trace for *request*."""
    machine = BY_NAME[request.client]
    own = machine.ipv6 if ":" in request.address else machine.ipv4
    source = request.source or ("node" if request.client == NODE_NAME else own)
    return TraceArguments(source, f"{join_host_port(request.address, request.port)}/{request.protocol}")


class Seen(NamedTuple):
    """A program that gets a packet, and the source address that it sees."""

    name: str
    source: str


def expected_programs(trace: Trace) -> set[Seen]:
    """Return who may get the packet, as *trace* says."""
    (outcome,) = trace.outcomes
    if outcome.fate == "host":
        return {Seen(NODE_NAME, trace.packet.source)}
    return {
        Seen(_POD_PORTS[choice.port].format(_pod_at(choice.address)), branch.source)
        for branch in outcome.branches
        for choice in branch.real_servers
    }


def waits_s(traces: Iterable[Trace]) -> float:
    """Return for how long a request waits for an answer: not long if it may wait in vain by one of *traces*."""
    outcomes = [outcome for trace in traces for outcome in trace.outcomes]
    is_sure = all(outcome.fate not in ("dropped", "forwarded") and not outcome.notes for outcome in outcomes)
    return PATIENT_S if is_sure else _VAIN_S


def disagreement(trace: Trace, results: Counter[RequestResult]) -> str:
    """Return how *results*, of packets that were sent, contradict *trace*; "" if they do not."""
    if not trace.is_certain:
        return f"the trace is not certain: {trace.outcomes}"
    (outcome,) = trace.outcomes
    kinds = {result.outcome for result in results}
    match outcome.fate:
        case "refused" | "rejected":
            return "" if kinds == {"refused"} else f"{outcome.fate}, but {results}"
        case "dropped":
            return "" if kinds in ({"dropped"}, {"unanswered"}) else f"dropped, but {results}"
        case "host" | "served":
            return _programs_disagreement(trace, results, may_be_lost=bool(outcome.notes))
    return f"{outcome.fate}, but {results}"


def _programs_disagreement(trace: Trace, results: Counter[RequestResult], *, may_be_lost: bool) -> str:
    expected = expected_programs(trace)
    seen = {Seen(result.pod, result.seen_source) for result in results if result.outcome in ("answered", "lost")}
    lost = [result for result in results if result.outcome != "answered"]
    if any(result.outcome not in _LOST for result in lost):
        return f"{expected}, but {results}"
    if lost and not may_be_lost:
        return f"no word about lost answers, but {results}"
    (outcome,) = trace.outcomes
    is_hashed = outcome.scheduler.partition(",")[0] not in ("", "rr")  # others need not choose every real server
    if all(result.pod for result in results) and not is_hashed:  # each was received by a program
        return "" if seen == expected else f"{expected}, but {seen}"
    return "" if seen <= expected else f"{expected}, but {seen}"


def _pod_at(address: str) -> str:
    return next(pod.name for pod in PODS if address in (pod.ipv4, pod.ipv6))
