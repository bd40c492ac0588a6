"""The rtnetlink socket of an adapter, and what the kernel refuses there."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import ClassVar

from kubeproxy_py.kernel.netlink.socket import NETLINK_ROUTE, Message, NetlinkError, Socket
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


class StepwiseAdapter(RoutingSocket):
    """Applies steps one after the other, each by several messages; a base class."""

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Apply *steps* and return those that failed.  Raises KernelError if the kernel could not be asked."""
        return [failure for step in steps for failure in self._apply(step)]

    def _apply(self, step: Step) -> Iterator[StepFailure]:
        """Apply *step*; yield it if it failed."""
        raise NotImplementedError

    def _send(self, step: Step, messages: Iterable[Message], done: frozenset[int]) -> Iterator[StepFailure]:
        """Send *messages* one by one, so that none is sent after one that failed; yield *step* if one did.

        An error among *done* means that there was nothing to do.
        """
        for each in messages:
            error = self._netlink.execute([each]).get(0)
            if error and error.errno not in done:
                yield step_failure(step, error)
                return


def step_failure(step: Step, error: NetlinkError) -> StepFailure:
    """Return *step* as one that the kernel refused with *error*."""
    return StepFailure(step, error.errno, error.text)
