"""A check that the kernel has an IPVS scheduler, before virtual servers need it.

An existing virtual server with the scheduler is sufficient proof.  Otherwise one is created with it and deleted
immediately, at an address that no host has: creating it makes the kernel load ``ip_vs_<scheduler>``, and there is no
other way to find out.

Source: kube-proxy's CanUseIPVSProxier, which uses the same address and port.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Protocol

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.rows import Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.steps import Step, StepFailure

PROBE = VirtualServer("198.51.100.0", 20000, "TCP")  # TEST-NET-2, RFC 5737


class VirtualServers(Protocol):
    """The methods of IpvsAdapter that the check uses; tests replace it."""

    def virtual_servers(self) -> Iterable[Rows]:
        """Yield virtual servers."""
        ...

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]:
        """Carry out *steps* and return the failures."""
        ...


def check_scheduler(ipvs: VirtualServers, scheduler: str) -> None:
    """Check that virtual servers can use *scheduler*; kernel state is unchanged afterwards.

    Raises:
        KernelError: They cannot.
    """
    rows = chain.from_iterable(chunk.items() for chunk in ipvs.virtual_servers())
    if any(isinstance(spec, VirtualServerSpec) and spec.scheduler == scheduler for key, spec in rows if key != PROBE):
        return
    for step in (Step("add", PROBE, VirtualServerSpec(scheduler)), Step("delete", PROBE)):
        for failure in ipvs.apply([step]):
            raise KernelError(
                f"can't use IPVS with the scheduler {scheduler}: {failure.message}",
                errno=failure.errno,
                hint="install your distribution's kernel modules, or choose another ipvs.scheduler, such as rr",
            )
