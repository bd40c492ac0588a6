"""cleanup: delete all kernel state that this agent or kube-proxy created, and nothing else.

Invariants:
- No source of objects is needed: only kernel state determines what is deleted.
- Virtual servers that none of our sets names, and rules and sets of others, are left in place. So are sysctls, modules
  and conntrack entries, on which other software may depend by now, and the chain KUBE-MARK-MASQ while other programs
  jump to it.
- A failure is logged, and everything else is still deleted.
- No agent runs meanwhile, unless the caller insists: it would create everything again, and serve nothing until then.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from errno import ENOENT
from typing import TYPE_CHECKING

from kubeproxy_py.commands.exit_status import FAILED, SUCCESS
from kubeproxy_py.commands.parts import linux_kernel, probe_host
from kubeproxy_py.commands.single_instance import require_no_agent, warn_of_agent
from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel, read_scopes
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.instance_lock import InstanceLock
from kubeproxy_py.kernel.iptables.other_modes import StaleRules, delete, detach, find_mark_users, find_stale_rules
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.kube_names import MARK_MASQ_CHAIN
from kubeproxy_py.model.policy_marks import foreign_mark_servers
from kubeproxy_py.model.rows import Chain, Rows
from kubeproxy_py.plan.ownership import filter_owned, filter_policies, filter_removable
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.reconcile.apply import apply_plan
from kubeproxy_py.reconcile.report_text import changes_text

if TYPE_CHECKING:
    from kubeproxy_py.config.load import LoadedConfig
    from kubeproxy_py.kernel.iptables.backend import IptablesCommands

log = logging.getLogger(__name__)


def cleanup(loaded: "LoadedConfig", *, is_forced: bool = False, only_extras: bool = False) -> int:
    """Delete our kernel state and that of kube-proxy's other modes, and return the exit status.

    Args:
        loaded: The configuration.
        is_forced: Also while an agent runs.
        only_extras: Delete only what kube-proxy does not know.

    Raises:
        KernelError: An agent runs and *is_forced* is false, or the host's addresses cannot be read.
    """
    lock = InstanceLock()
    if is_forced:
        warn_of_agent(lock)
    else:
        require_no_agent(lock)
    try:
        return _delete_extras(loaded) if only_extras else _cleanup(loaded)
    finally:
        lock.release()


def _cleanup(loaded: "LoadedConfig") -> int:
    """Delete everything, and return the exit status.  Raises KernelError."""
    probed = probe_host(loaded, verbosity=1)
    kernel = linux_kernel(loaded, probed)
    stale, failures = _find_stale_rules(probed.commands)
    if stale:
        log.info("Deleting rules of another kube-proxy mode", extra=values(found=stale))
    # Detached first, so that no packet reaches rules whose sets are deleted next.
    failures += _log_errors(detach(stale))
    failures += _delete_owned(kernel, loaded, _chains_in_use(probed.commands))
    failures += _log_errors(delete(stale))
    kernel.close()
    return SUCCESS if probed.commands and not failures else FAILED


def _delete_extras(loaded: "LoadedConfig") -> int:
    """Delete what kube-proxy does not know, and return the exit status.  Raises KernelError."""
    probed = probe_host(loaded, verbosity=1)
    kernel = linux_kernel(loaded, probed)
    failures = _delete_owned(kernel, loaded, (), filter_policies)
    kernel.close()
    return SUCCESS if probed.commands and not failures else FAILED


def warn_of_stale_rules(commands: "Iterable[IptablesCommands]") -> None:
    """Log a warning if another mode of kube-proxy left rules on this node."""
    try:
        stale = find_stale_rules(commands)
    except KernelError as error:
        log.warning("Failed to look for rules of other kube-proxy modes", extra=values(err=error))
        return
    if stale:
        log.warning(
            "Found rules of another kube-proxy mode, which may drop or misdirect packets; stop this agent, run "
            '"kubeproxy-py cleanup", and start it again',
            extra=values(found=stale),
        )


def _find_stale_rules(commands: "Iterable[IptablesCommands]") -> tuple[StaleRules, int]:
    """Return what other modes left, and the number of failures."""
    try:
        return find_stale_rules(commands), 0
    except KernelError as error:
        return StaleRules(), _log_errors([error])


def _chains_in_use(commands: "Iterable[IptablesCommands]") -> set[Chain]:
    """Return the KUBE-MARK-MASQ chains to which other programs jump, and log which."""
    kept: set[Chain] = set()
    try:
        users_by_family = find_mark_users(commands)
    except KernelError as error:
        log.warning("Failed to look for jumps of other programs", extra=values(err=error))
        return kept
    for family, users in users_by_family.items():
        kept.add(Chain(family, "nat", MARK_MASQ_CHAIN))
        log.info(
            "Leaving chain %s in place, because chains of other programs jump to it",
            MARK_MASQ_CHAIN,
            extra=values(family=family, used_by=list(users)),
        )
    return kept


def _delete_owned(
    kernel: Kernel, loaded: "LoadedConfig", kept: Collection[Chain], chosen: Callable[[Rows], Rows] = lambda rows: rows
) -> int:
    """Delete every row that we own, and that is *chosen*, but *kept*, and return the number of failures."""
    rows, failures = _read_all(kernel)
    for chain in kept:
        rows.pop(chain, None)
    addresses = [host.address for host in kernel.host_addresses()]
    foreign = foreign_mark_servers(rows, rows, loaded.agent.mark_range)
    owned = filter_owned(rows, loaded.config.ipvs.exclude_cidrs, foreign=foreign)
    removable = chosen(filter_removable(owned, addresses))
    plan = make_plan({}, removable)
    failed = apply_plan(kernel, plan, {}, removable)
    for failure in failed:
        log.error("Failed to delete", extra=values(step=failure))
    failures += len(failed)
    done = values(changes=changes_text(plan, failed))
    if failures:
        log.error("Cleanup is incomplete; see the errors above", extra=done)
    else:
        log.info("Cleaned up", extra=done)
    return failures


def _read_all(kernel: Kernel) -> tuple[Rows, int]:
    """Return every row that can be read, and the number of scopes that cannot."""
    rows, unread = read_scopes(kernel)
    errors = {
        scope: error
        for scope, error in unread.items()
        if scope != VIRTUAL_SERVERS or error.errno != ENOENT  # without IPVS the kernel has no virtual servers
    }
    return rows, _log_errors(errors.values())


def _log_errors(errors: Iterable[KernelError]) -> int:
    """Log each of *errors* as it occurs, and return their number."""
    count = 0
    for error in errors:
        log.error("Failed to clean up", extra=values(err=error))
        count += 1
    return count
