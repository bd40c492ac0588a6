"""The state of one endpoint as its checks find it: which results in a row make it fail, and which let it return.

Invariants:
- A failure is never a reason to delete anything; it lasts until the endpoint answers, or is given up (GIVE_UP_S).
- An endpoint that has never answered a connect of this node cannot fail by connects: a NetworkPolicy may forbid them.
- An endpoint that answers clients does not fail by connects that get no answer.
"""

from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.model.conditions import Failure

SUCCESSES_NEEDED = 2
"""Connects in a row that must be answered before an endpoint that failed returns."""

GIVE_UP_S = 60.0
"""How long an endpoint fails of which no connect can tell whether it has returned: clients find it out then."""


class Result(Enum):
    """What a check found."""

    ANSWERED = "answered"  # a connect was
    REFUSED = "refused"  # nothing listens, though the machine lives
    SILENT = "got no answer"  # nor did an ICMP error say more than that it cannot be reached
    SERVES = "clients are answered"
    REFUSES = "clients are answered, maybe by resets only"
    DESERTED = "clients got no answer"  # though those of other endpoints did


class Health(Struct, frozen=True, gc=False):
    """The results of the checks of one endpoint until now."""

    is_reachable: bool = False  # a connect was answered, or refused, once
    failures: int = 0  # in a row
    since_s: float = 0.0  # when the first of them was
    connects: int = 0  # of the failures, those that were connects
    last: Result = Result.ANSWERED  # of the failures
    successes: int = 0  # in a row, since it fails
    failure: Failure | None = None  # it fails
    give_up_s: float | None = None  # when it does not any more, whatever happens; None: when it answers


NEW = Health()
REACHABLE = Health(is_reachable=True)


class Rule(Struct, frozen=True, gc=False):
    """How the endpoints of a Service are checked."""

    interval_s: float = 5.0
    threshold: int = 3  # failures in a row after which an endpoint fails
    only_nodes: bool = False  # that a node is silent is a failure, that a program does not listen is none


def after(health: Health, result: Result, rule: Rule, now_s: float) -> Health:
    """Return the state after *result* at *now_s*."""
    if _is_success(health, result, rule):
        return _after_success(health, result)
    if result in (Result.SERVES, Result.REFUSES):  # no evidence about a program that does not listen
        return health
    if result is Result.SILENT and not health.is_reachable:
        return health
    return _after_failure(health, result, rule, now_s)


def _is_success(health: Health, result: Result, rule: Rule) -> bool:
    if result in (Result.REFUSED, Result.REFUSES):
        return rule.only_nodes
    if result is Result.SERVES:
        return health.last is not Result.REFUSED or not health.failures
    return result is Result.ANSWERED


def _after_success(health: Health, result: Result) -> Health:
    is_reachable = health.is_reachable or result in (Result.ANSWERED, Result.REFUSED)
    successes = health.successes + 1
    if health.failure and successes < SUCCESSES_NEEDED:
        return replace(health, is_reachable=is_reachable, successes=successes, give_up_s=None)
    return REACHABLE if is_reachable else NEW


def _after_failure(health: Health, result: Result, rule: Rule, now_s: float) -> Health:
    failures = health.failures + 1
    since_s = health.since_s if health.failures else now_s
    is_connect = result is not Result.DESERTED
    is_reachable = health.is_reachable or result is Result.REFUSED
    counted = replace(
        health,
        is_reachable=is_reachable,
        failures=failures,
        since_s=since_s,
        connects=health.connects + is_connect,
        last=result,
        successes=0,
    )
    if health.failure or failures < rule.threshold:
        return counted
    give_up_s = None if is_reachable else now_s + GIVE_UP_S
    return replace(counted, failure=Failure(since_s, reason_of(counted)), give_up_s=give_up_s)


def reason_of(health: Health) -> str:
    """Return why an endpoint with *health* fails, in words."""
    readings = health.failures - health.connects
    word = "was refused" if health.last is Result.REFUSED else "got no answer"
    connects = f"{health.connects} TCP connect{'s' if health.connects > 1 else ''} {word.replace('was', 'were')}"
    if health.connects == 1:
        connects = f"1 TCP connect {word}"
    if not readings:
        return connects
    clients = "new connections of clients got no answer while other endpoints answered"
    return f"{clients}, and {connects}" if health.connects else clients


def fail(health: Health, reason: str, now_s: float) -> Health:
    """Return the state of an endpoint that fails because its node does."""
    if health.failure:
        return health
    return replace(
        health, failure=Failure(now_s, reason), failures=max(1, health.failures), successes=0, last=Result.SILENT
    )


def inherited(reason: str, now_s: float) -> Health:
    """Return the state of an endpoint that an earlier process of the agent had set aside."""
    return Health(
        failures=1, since_s=now_s, last=Result.SILENT, failure=Failure(now_s, reason), give_up_s=now_s + GIVE_UP_S
    )


def given_up(health: Health, now_s: float) -> Health:
    """Return the state at *now_s*: NEW if it is time to give up that it fails."""
    return NEW if health.give_up_s is not None and now_s >= health.give_up_s else health
