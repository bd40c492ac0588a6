"""TimeoutKeeper: set the IPVS timeouts of the configuration again when another program has changed them.

Invariants:
- Timeouts that are not configured (0, the default) are left to others, and without any nothing is read.
- Packets do not need them at once: while another program changes them again and again the pauses grow.
"""

import logging
from collections.abc import Callable
from time import monotonic

from kubeproxy_py.commands.startup import ipvs_timeouts
from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.kernel.ipvs.constants import Timeouts
from kubeproxy_py.logging_setup import values
from kubeproxy_py.reconcile.drift import DISPUTED_WINDOW_S, PAUSE

log = logging.getLogger(__name__)


class TimeoutKeeper:
    """Keeps the timeouts of *config*; used by the loop's thread.

    Args:
        config: Returns the configuration in use.
        ipvs: Reads and sets the timeouts.
        clock: Returns seconds that only increase.
    """

    def __init__(
        self, config: Callable[[], LoadedConfig], ipvs: IpvsAdapter, clock: Callable[[], float] = monotonic
    ) -> None:
        self._config = config
        self._ipvs = ipvs
        self._clock = clock
        self._times = 0  # that they were set again, in a row
        self._changed_s = self._due_s = -float("inf")

    def check(self) -> None:
        """Set the timeouts again if they have changed."""
        wanted, now_s = ipvs_timeouts(self._config().config), self._clock()
        if wanted == Timeouts() or now_s < self._due_s:
            return
        try:
            found = self._ipvs.timeouts()
            if has_changed(wanted, found):
                self._set_again(wanted, found, now_s)
        except KernelError as error:
            self._due_s = now_s + PAUSE.longest_s
            log.warning("Failed to check the IPVS timeouts", extra=values(err=error))

    def _set_again(self, wanted: Timeouts, found: Timeouts, now_s: float) -> None:
        """Set the timeouts.  Raises KernelError."""
        self._times = self._times + 1 if now_s - self._changed_s < DISPUTED_WINDOW_S else 1
        self._changed_s, self._due_s = now_s, now_s + PAUSE.delay_s(self._times)
        self._ipvs.set_timeouts(wanted)
        message = "Another program changed the IPVS timeouts; they were set again (tcp, tcpfin, udp, in seconds)"
        log.warning(message, extra=values(found=_text(found), configured=_text(wanted)))


def has_changed(wanted: Timeouts, found: Timeouts) -> bool:
    """Return whether a timeout that is *wanted* (not 0) is another one now."""
    pairs = ((wanted.tcp_s, found.tcp_s), (wanted.tcp_fin_s, found.tcp_fin_s), (wanted.udp_s, found.udp_s))
    return any(one and other and one != other for one, other in pairs)  # 0 is found where the kernel lacks the protocol


def _text(timeouts: Timeouts) -> str:
    return f"{timeouts.tcp_s} {timeouts.tcp_fin_s} {timeouts.udp_s}"
