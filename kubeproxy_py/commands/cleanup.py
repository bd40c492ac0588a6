"""Cleanup: all that this agent and kube-proxy made goes, and nothing else.

Law: it needs no source and no configuration, and asks the kernel alone what is there.  Virtual servers that no set of
ours names, and rules and sets of others, stay; so do settings, modules and conntrack entries, on which others may have
come to rely.  What can't be removed is told, and all else goes.
"""

import logging
from collections.abc import Iterable
from errno import ENOENT
from typing import TYPE_CHECKING

from kubeproxy_py.commands.app import host_facts, linux_kernel
from kubeproxy_py.commands.exit_status import DONE, FAILED
from kubeproxy_py.compile.base import Machine
from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.iptables.other_modes import cut_off, find_leftovers, remove
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.plan.ownership import filter_owned, filter_removable
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.reconcile.report import changes

if TYPE_CHECKING:
    from kubeproxy_py.config.load import LoadedConfig
    from kubeproxy_py.kernel.iptables.backend import IptablesCommands

log = logging.getLogger(__name__)


def cleanup(loaded: "LoadedConfig") -> int:
    """Remove all that is ours, and what kube-proxy's other modes left; return the exit status."""
    return DONE if clean_up(loaded) else FAILED


def clean_up(loaded: "LoadedConfig") -> bool:
    """Whether all could be removed.  Raises KernelError if the host can't even be asked for its addresses."""
    facts = host_facts(loaded)
    kernel = linux_kernel(loaded, facts, Machine())
    leftovers = find_leftovers(facts.programs)
    if leftovers:
        log.info(f"removes what another mode of kube-proxy left: {leftovers}")
    troubles = [
        *_told(cut_off(facts.programs, leftovers)),
        *_remove_ours(kernel, loaded),
        *_told(remove(facts.programs, leftovers)),
    ]
    kernel.close()
    return bool(facts.programs) and not troubles


def warn_of_leftovers(programs: "Iterable[IptablesCommands]") -> None:
    """One line in the log if another mode of kube-proxy left something; never raises KernelError."""
    try:
        leftovers = find_leftovers(programs)
    except KernelError as error:
        log.warning(f"can't look for what other modes of kube-proxy left: {error}")
        return
    if leftovers:
        log.warning(
            f"another mode of kube-proxy left {leftovers}, which may refuse or lead astray packets (stop this agent, "
            "run `kubeproxy-py cleanup`, start it again)"
        )


def _remove_ours(kernel: Kernel, loaded: "LoadedConfig") -> list[str]:
    """Remove every row that is ours; what could not be read or removed."""
    rows, troubles = _read(kernel)
    addresses = [host.address for host in kernel.host_addresses()]
    plan = make_plan({}, filter_removable(filter_owned(rows, loaded.config.ipvs.exclude_cidrs), addresses))
    failed = kernel.apply(plan).failed if plan.steps else ()
    for failure in failed:
        log.error(f"failed: {failure}")
    log.info(f"cleaned up: {changes(plan, failed)}")
    return [*troubles, *map(str, failed)]


def _read(kernel: Kernel) -> tuple[Rows, list[str]]:
    """All that can be read; what of it could not be, each told.  A kernel without IPVS has nothing of it."""
    rows: Rows = {}
    troubles: list[str] = []
    for scope in kernel.scopes():
        try:
            rows.update(kernel.read(scope))
        except KernelError as error:
            if scope != VIRTUAL_SERVERS or error.errno != ENOENT:
                troubles += _told([error])
    return rows, troubles


def _told(errors: Iterable[KernelError]) -> list[str]:
    """The errors as text, each a line of the log as it comes."""
    troubles = []
    for error in errors:
        log.error(f"failed: {error}")
        troubles.append(str(error))
    return troubles
