"""Whether the kernel can balance by a scheduler, found out before it matters.

Law: a virtual server that has the scheduler already is proof enough.  Else one is made with it and removed at once,
at an address that no host has: making it has the kernel load ``ip_vs_<scheduler>``, and nothing else would tell.

Source: kube-proxy's CanUseIPVSProxier, which takes the same address and port.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Protocol

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.rows import Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.steps import Step, StepFailure

PROBE = VirtualServer("198.51.100.0", 20000, "TCP")  # TEST-NET-2, RFC 5737


class VirtualServers(Protocol):
    """What is needed of IPVS; kept by IpvsAdapter."""

    def virtual_servers(self) -> Iterable[Rows]: ...

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]: ...


def check_scheduler(ipvs: VirtualServers, scheduler: str) -> None:
    """Raises KernelError unless virtual servers can have *scheduler*; the kernel's state is as it was."""
    there = chain.from_iterable(part.items() for part in ipvs.virtual_servers())
    if any(isinstance(spec, VirtualServerSpec) and spec.scheduler == scheduler for key, spec in there if key != PROBE):
        return
    for step in (Step("add", PROBE, VirtualServerSpec(scheduler)), Step("delete", PROBE)):
        for failed in ipvs.apply([step]):
            raise KernelError(
                f"can't use IPVS with the scheduler {scheduler}: {failed.message}",
                errno=failed.errno,
                hint="install your distribution's kernel modules, or choose another ipvs.scheduler, such as rr",
            )
