"""hold: print a plan with a one-line summary at the end, then wait for SIGTERM: `plan --hold`, the preflight's pods.

Invariants:
- The summary is the last line of the output, begins with the name of the node, and is printed after an error, too.
- A pod that ended would be restarted, so the process goes on until it is told to end.
"""

import logging
import signal
from collections.abc import Mapping
from socket import gethostname
from typing import TYPE_CHECKING

from kubeproxy_py import logging_setup
from kubeproxy_py.commands import output
from kubeproxy_py.commands.exit_status import FAILED
from kubeproxy_py.commands.interactive import load_interactive
from kubeproxy_py.commands.plan import Planned, PlanOptions, print_plan, status_of
from kubeproxy_py.config.errors import ConfigError, error_text
from kubeproxy_py.config.load import node_name
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.plan.render import to_do_text
from kubeproxy_py.signals import block
from kubeproxy_py.sources import SourceError

if TYPE_CHECKING:
    from kubeproxy_py.config.load import ConfigInput

_TERMINATION = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


def plan_and_hold(config_input: "ConfigInput", options: PlanOptions) -> int:
    """Print the plan of a sync and its summary, wait for SIGTERM or SIGINT, and return the exit status of the plan."""
    block(_TERMINATION)  # the first process of a container is not ended by a signal that it does not handle
    name, summary, status = _plan(config_input, options)
    logging_setup.flush()  # standard error and output are one log in a pod
    output.print_lines(f"{name}: {summary}\n")
    output.flush()
    signal.sigwait(_TERMINATION)
    return status


def _plan(config_input: "ConfigInput", options: PlanOptions) -> tuple[str, str, int]:
    """Print the plan, and return the node's name, the summary and the exit status."""
    name = _assumed_name(config_input.flags)
    try:
        loaded = load_interactive(config_input)
        name = node_name(loaded.config, gethostname())
        planned = print_plan(loaded, options)
    except ConfigError as error:
        output.print_to_stderr(f"{error_text(error)}\n")
        return name, _error(str(error)), FAILED
    except (KernelError, SourceError) as error:
        log.error("%s", error)  # noqa: TRY400 - the message names the remedy, not the code
        return name, _error(str(error)), FAILED
    return name, summary_of(planned), status_of(planned)


def summary_of(planned: Planned) -> str:
    """Return *planned* in a line: ``12 to add, 3 to change, 0 to delete``."""
    if planned.errors:
        rejected = f"{planned.errors} error{'' if planned.errors == 1 else 's'} of objects, named above"
        return f"{to_do_text(planned.steps)}; {rejected}"
    return to_do_text(planned.steps)


def _error(text: str) -> str:
    return f"error: {text.partition(chr(10))[0]}"


def _assumed_name(flags: Mapping[str, str]) -> str:
    """Return the name of the node while the configuration is not known."""
    return (flags.get("hostname-override") or gethostname()).strip().lower()
