"""All checks; the resident process and commands run the same ones."""

from collections.abc import Callable, Iterator

from kubeproxy_py.checks.bridges import check_bridges
from kubeproxy_py.checks.conntrack import check_conntrack
from kubeproxy_py.checks.identity import check_identity
from kubeproxy_py.checks.kernel import check_kernel
from kubeproxy_py.checks.rules import check_forward, check_input, check_nat_order
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding

Check = Callable[[Situation], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    check_identity,
    check_bridges,
    check_conntrack,
    check_input,
    check_forward,
    check_nat_order,
    check_kernel,
)

REASONS: tuple[str, ...] = (
    "NodeAddressesNotOnHost",
    "BridgeNetfilterOff",
    "ConntrackTableFull",
    "ConntrackDrops",
    "InputDropsServices",
    "ForwardDropsServices",
    "NatRuleBeforeServices",
    "SourcePortReuse",
    "EstimationStalls",
    "EstimationOff",
    "ConnectionTableSmall",
    "LegacyTablesDeprecated",
)
"""Every reason of a Finding, so that a metric shows 0 before the first one."""


def run_checks(situation: Situation) -> tuple[Finding, ...]:
    """Return what all checks find."""
    return tuple(finding for check in CHECKS for finding in check(situation))
