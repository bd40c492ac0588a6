"""What this node itself has observed of endpoints, in words: that they are set aside, fail, or start slowly."""

from kubeproxy_py.compile.conditions import set_aside_in
from kubeproxy_py.diagnose.rows import moment_text
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.model.conditions import FULL_STEP, NO_CONDITIONS
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.rows import RealServer
from kubeproxy_py.model.services import ServiceName


def set_aside(snapshot: Snapshot, name: ServiceName) -> dict[RealServer, None]:
    """Return the real servers of the Service *name* that are set aside."""
    return set_aside_in(snapshot.parts.get(name, ()), snapshot.conditions.get(name, NO_CONDITIONS))


def all_set_aside(snapshot: Snapshot) -> dict[RealServer, None]:
    """Return all real servers that are set aside."""
    return {key: None for name in snapshot.conditions for key in set_aside(snapshot, name)}


def condition_text(snapshot: Snapshot, name: ServiceName, place: Destination, *, is_aside: bool) -> str:
    """Return what was observed of the endpoint *place* of the Service *name*; "" if nothing was."""
    conditions = snapshot.conditions.get(name, NO_CONDITIONS)
    failure = conditions.failures.get(place)
    if failure:
        since = f"{failure.reason}, since {moment_text(snapshot, failure.since_s)}"
        if is_aside:
            return f"set aside: {since}"
        return f"fails ({since}), and serves: at most half are set aside, and none if all fail"
    step = conditions.steps.get(place)
    return f"starts slowly: step {step} of {FULL_STEP}" if step else ""
