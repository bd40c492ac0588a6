"""Which rows may stay changed for a while if another program changes them again and again.

No packet to a Service needs the repair of these rows at once.  All others are repaired as often as they are changed.
"""

from kubeproxy_py.model.rows import JumpSpec, Key, RealServer, Rows, Spec, Sysctl, VirtualServer

_TUNING = ("net/netfilter/nf_conntrack_", "/sys/module/nf_conntrack/", "net/ipv4/vs/expire_")


def may_stay_changed(key: Key, found: Spec, desired: Rows) -> bool:
    """Return whether *key*, which another program changed to *found*, may stay so for a while.

    These are limits and timeouts, the place of a jump of ours that exists, and what another program added to IPVS.
    """
    match key:
        case Sysctl(path=path):
            return path.startswith(_TUNING)
        case VirtualServer():
            return key not in desired
        case RealServer(virtual_server=server):
            return server not in desired
    wanted = desired.get(key)
    return isinstance(found, JumpSpec) and isinstance(wanted, JumpSpec) and found.rule == wanted.rule
