"""The switch that turns IPv6 off on an interface, as far as it concerns kube-ipvs0.

A new interface starts with net.ipv6.conf.default.disable_ipv6, which hardened hosts set to 1; then the kernel refuses
every IPv6 address on kube-ipvs0.  The device is ours, so its own switch is set to 0.  A host that turns IPv6 off as a
whole (net.ipv6.conf.all.disable_ipv6) is left as it is.
"""

from pathlib import Path

from kubeproxy_py.kernel.host.sysctl import read_sysctl, write_sysctl
from kubeproxy_py.model.rows import IPVS_DEVICE

_DEVICE, _DEFAULT, _ALL = (f"net/ipv6/conf/{name}/disable_ipv6" for name in (IPVS_DEVICE, "default", "all"))


def is_off_for_device(root: Path = Path("/")) -> bool:
    """Return whether kube-ipvs0 has IPv6 switched off, or would have if it were created now."""
    value = read_sysctl(_DEVICE, root=root)
    return (read_sysctl(_DEFAULT, root=root) if value is None else value) == "1"


def enable_ipv6(root: Path = Path("/")) -> str:
    """Enable IPv6 on kube-ipvs0, and return "", or why that is not possible and what the operator can do."""
    if read_sysctl(_ALL, root=root) == "1":
        return "IPv6 is disabled on this host (sysctl -w net.ipv6.conf.all.disable_ipv6=0)"
    failure = write_sysctl(_DEVICE, "0", root=root)
    return f"IPv6 is disabled on {IPVS_DEVICE}: {failure.text}" if failure else ""
