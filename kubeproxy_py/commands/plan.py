"""plan: print what a sync would change, and change nothing."""

import logging
import sys
from typing import TYPE_CHECKING

from kubeproxy_py.commands.app import (
    Parts,
    imagined_parts,
    real_parts,
)
from kubeproxy_py.kernel import read_all
from kubeproxy_py.model.events import HostAddresses, ObjectProblem, Synced
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.plan.ownership import filter_owned
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.reconcile.report import changes
from kubeproxy_py.sources.initial_snapshot import collect

if TYPE_CHECKING:
    from kubeproxy_py.config.load import LoadedConfig

from kubeproxy_py.commands.app import log_problem
from kubeproxy_py.commands.exit_status import DONE

log = logging.getLogger(__name__)

_LIST_TIMEOUT_S = 60.0


def plan(loaded: "LoadedConfig", *, assume_empty: bool, as_json: bool) -> int:
    """Print the plan of a sync, and change nothing."""
    from kubeproxy_py.plan.render import plan_json, plan_text

    parts = imagined_parts(loaded) if assume_empty else real_parts(loaded)
    desired = desired_rows(parts)
    made = make_plan(desired, filter_owned(read_all(parts.kernel), loaded.config.ipvs.exclude_cidrs, desired))
    sys.stdout.write(plan_json(made).decode() + "\n" if as_json else plan_text(made))
    if not as_json:
        sys.stdout.write(f"{changes(made)}\n")
    return DONE


def desired_rows(parts: Parts) -> Rows:
    """The rows desired for all that the source lists now.  Raises KernelError, SourceError."""
    parts.compiler.handle_event(HostAddresses(parts.kernel.host_addresses()))
    for event in collect(parts.source, _LIST_TIMEOUT_S):
        if isinstance(event, ObjectProblem):
            log_problem(event)
        elif not isinstance(event, Synced):
            parts.compiler.handle_event(event)
    parts.compiler.compile()
    return parts.compiler.desired.rows
