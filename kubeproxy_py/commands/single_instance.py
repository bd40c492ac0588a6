"""One agent for each network namespace: wait for a predecessor that is ending, and give up on one that stays.

Two agents with different inputs would undo each other's changes, and Services would be down for as long as both run.

Invariants:
- Nothing of the kernel is read or written before the lock is held, so the successor of an update acts on what the
  predecessor left.
- A predecessor that is being replaced has HANDOVER_S to end: the pod of a rolling update with maxSurge, and a unit that
  is restarted, start without an error. Traffic continues meanwhile, as whenever no agent runs.
"""

import logging
from collections.abc import Callable
from time import monotonic, sleep

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.instance_lock import Holder, InstanceLock, find_holder
from kubeproxy_py.logging_setup import values

HANDOVER_S = 30.0  # as long as Kubernetes waits for a pod to end by default
_POLL_S = 0.1

log = logging.getLogger(__name__)


def take_over(
    lock: InstanceLock, clock: Callable[[], float] = monotonic, wait: Callable[[float], None] = sleep
) -> None:
    """Return when this process is the only agent of its network namespace.

    Raises:
        KernelError: Another agent has run for HANDOVER_S since; the message names it.
    """
    holder = _acquire(lock)
    if holder is None:
        return
    log.warning(
        "Another agent runs in this network namespace; waiting until it ends",
        extra=values(agent=holder, timeout_s=HANDOVER_S),
    )
    deadline_s = clock() + HANDOVER_S
    while not lock.acquire():
        if clock() >= deadline_s:
            raise KernelError(
                f"another agent runs in this network namespace ({holder}); two would undo each other's changes",
                hint="stop it, or do not start this one: one DaemonSet or systemd unit is enough",
            )
        wait(_POLL_S)
    log.info("The other agent has ended; starting")


def require_no_agent(lock: InstanceLock) -> None:
    """Take the lock, so that no agent starts meanwhile.

    Raises:
        KernelError: An agent runs in this network namespace; the message names it.
    """
    if holder := _acquire(lock):
        message = f"an agent runs in this network namespace ({holder}) and would create again what cleanup deletes"
        raise KernelError(message, hint="stop it first; --force deletes all the same")


def warn_of_agent(lock: InstanceLock) -> None:
    """Take the lock, or log what follows from going on beside the agent that holds it."""
    if holder := _acquire(lock):
        log.warning(
            "Deleting while an agent runs: connections are cut, and this node serves no Service until the agent "
            "notices (after seconds, at most a syncPeriod), and then everything is there again",
            extra=values(agent=holder),
        )


def _acquire(lock: InstanceLock) -> Holder | None:
    """Take the lock; return the agent that holds it, or None if there is none.

    A lock that does not work is not a reason to serve nothing: it is logged, and the caller goes on without.
    """
    try:
        holder = None if lock.acquire() else find_holder()
    except OSError as error:
        log.warning(
            "Failed to check that no other agent runs; continuing without this check", extra=values(err=error.strerror)
        )
        return None
    if holder and not holder.may_be_an_agent:
        log.warning(
            "A process that cannot be an agent has taken the name of the agents' lock; another agent is not noticed",
            extra=values(process=holder),
        )
        return None
    return holder
