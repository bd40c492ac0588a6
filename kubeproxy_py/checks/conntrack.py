"""Check the table of tracked connections: while it is full, every new connection to a Service is lost."""

from collections.abc import Iterator

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding

FULL_SHARE = 0.9
"""From this share of nf_conntrack_max on the table counts as full: a burst fills the rest."""

_HINT = "sysctl -w net.netfilter.nf_conntrack_max=N, with a larger N; or raise conntrack.min or conntrack.maxPerCore"


def check_conntrack(situation: Situation) -> Iterator[Finding]:
    """Find a table that is nearly full, and one from which the kernel drops."""
    now = situation.facts.conntrack
    if now is None:
        return
    if now.maximum and now.count > FULL_SHARE * now.maximum:
        cause = f"{now.count} of {now.maximum} connections are tracked"
        message = "when the table is full, new connections to Services and to this node are dropped"
        yield Finding("ConntrackTableFull", "conntrack", message, _HINT, cause)
    before = situation.before.conntrack if situation.before else None
    if before and now.drops > before.drops:
        cause = f"the kernel dropped {now.drops - before.drops} packets or connections since the last check"
        yield Finding("ConntrackDrops", "conntrack", "connections to Services fail or hang", _HINT, cause)


def conntrack_seen(situation: Situation) -> str:
    """Return how full the table is."""
    now = situation.facts.conntrack
    if now is None:
        return "connections are not tracked"
    return f"{now.count} of {now.maximum or 'any number of'} connections are tracked"
