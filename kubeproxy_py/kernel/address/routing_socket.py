"""The rtnetlink socket of an adapter, and what the kernel refuses there."""

from functools import cached_property
from typing import ClassVar

from kubeproxy_py.kernel.netlink.socket import NETLINK_ROUTE, NetlinkError, Socket
from kubeproxy_py.model.steps import Step, StepFailure


class RoutingSocket:
    """Opens an rtnetlink socket when it is first used, in the network namespace of that moment; a base class."""

    filters: ClassVar[bool] = False  # whether the kernel is asked to list only what a request names

    def close(self) -> None:
        """Close the socket; a later use opens another."""
        if "_netlink" in self.__dict__:
            self.__dict__.pop("_netlink").close()

    @cached_property
    def _netlink(self) -> Socket:
        netlink = Socket(NETLINK_ROUTE)
        if self.filters:
            netlink.request_filtering()
        return netlink


def step_failure(step: Step, error: NetlinkError) -> StepFailure:
    """Return *step* as one that the kernel refused with *error*."""
    return StepFailure(step, error.errno, error.text)
