"""cleanup: delete all kernel state that this agent or kube-proxy created, and nothing else.

Invariants:
- No source of objects is needed: only kernel state determines what is deleted.
- Virtual servers that none of our sets names, and rules and sets of others, are left in place. So are sysctls, modules
  and conntrack entries, on which other software may depend by now.
- A failure is logged, and everything else is still deleted.
"""

import logging
from collections.abc import Iterable
from errno import ENOENT
from typing import TYPE_CHECKING

from kubeproxy_py.commands.exit_status import FAILED, SUCCESS
from kubeproxy_py.commands.parts import linux_kernel, probe_host
from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.iptables.other_modes import delete, detach, find_stale_rules
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.plan.ownership import filter_owned, filter_removable
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.reconcile.apply import apply_plan
from kubeproxy_py.reconcile.report_text import changes_text

if TYPE_CHECKING:
    from kubeproxy_py.config.load import LoadedConfig
    from kubeproxy_py.kernel.iptables.backend import IptablesCommands

log = logging.getLogger(__name__)


def cleanup(loaded: "LoadedConfig") -> int:
    """Delete our kernel state and that of kube-proxy's other modes, and return the exit status.

    Raises:
        KernelError: The host's addresses cannot be read.
    """
    probed = probe_host(loaded)
    kernel = linux_kernel(loaded, probed)
    stale = find_stale_rules(probed.commands)
    if stale:
        log.info("Deleting rules of another kube-proxy mode", extra=values(found=stale))
    # Detached first, so that no packet reaches rules whose sets are deleted next.
    failures = _log_errors(detach(probed.commands, stale))
    failures += _delete_owned(kernel, loaded)
    failures += _log_errors(delete(probed.commands, stale))
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


def _delete_owned(kernel: Kernel, loaded: "LoadedConfig") -> int:
    """Delete every row that we own, and return the number of failures."""
    rows, failures = _read_all(kernel)
    addresses = [host.address for host in kernel.host_addresses()]
    owned = filter_owned(rows, loaded.config.ipvs.exclude_cidrs)
    removable = filter_removable(owned, addresses)
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
    rows: Rows = {}
    failures = 0
    for scope in kernel.scopes():
        try:
            rows.update(kernel.read(scope))
        except KernelError as error:
            if scope != VIRTUAL_SERVERS or error.errno != ENOENT:  # without IPVS the kernel has no virtual servers
                failures += _log_errors([error])
    return rows, failures


def _log_errors(errors: Iterable[KernelError]) -> int:
    """Log each of *errors* as it occurs, and return their number."""
    count = 0
    for error in errors:
        log.error("Failed to clean up", extra=values(err=error))
        count += 1
    return count
