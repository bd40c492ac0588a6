"""What the errors of IPVS mean for a step: done all the same, or a failure with its text."""

from collections.abc import Mapping
from errno import EAFNOSUPPORT, EINVAL, ENOENT, EOVERFLOW, ESRCH

from kubeproxy_py.kernel.errors import errno_text
from kubeproxy_py.kernel.netlink.socket import NetlinkError
from kubeproxy_py.model.rows import RealServer, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.steps import Step, StepFailure

_NOT_FOUND = frozenset((ESRCH, ENOENT))

# (kind, errno) -> what the errno means there; observed on Linux 6.1
_TEXTS: Mapping[tuple[type, int], str] = {
    (VirtualServer, ENOENT): "the kernel has no scheduler '{scheduler}' (modprobe ip_vs_{scheduler})",
    (VirtualServer, ESRCH): "no such virtual server",
    (VirtualServer, EAFNOSUPPORT): "IPVS of this kernel has no IPv6 (CONFIG_IP_VS_IPV6)",
    (RealServer, ESRCH): "its virtual server does not exist",
    (RealServer, ENOENT): "no such real server",
    (RealServer, EINVAL): "refused as invalid; in a new network namespace, is the loopback interface up?",
    (RealServer, EOVERFLOW): "weight out of range",
}


def is_done(step: Step, error: NetlinkError) -> bool:
    """Return whether *error* says that nothing is left of what *step* deletes."""
    return step.verb == "delete" and error.errno in _NOT_FOUND


def failure_of(step: Step, error: NetlinkError) -> StepFailure:
    """Return the failure of *step*, with a text that names the remedy where there is one."""
    scheduler = step.spec.scheduler if isinstance(step.spec, VirtualServerSpec) else ""
    text = _TEXTS.get((type(step.key), error.errno), "").format(scheduler=scheduler)
    return StepFailure(step, error.errno, text or error.text or errno_text(error.errno))
