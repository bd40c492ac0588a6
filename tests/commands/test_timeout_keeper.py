"""TimeoutKeeper: configured IPVS timeouts are set again, after growing pauses, and others are left alone."""

import logging

import pytest

from kubeproxy_py.commands.timeout_keeper import TimeoutKeeper
from kubeproxy_py.config.load import load
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.constants import Timeouts
from kubeproxy_py.reconcile.drift import PAUSE

OTHERS = Timeouts(900, 120, 300)


class Ipvs:
    """The timeouts of a kernel, and how often they were read and set."""

    def __init__(self) -> None:
        self.now = OTHERS
        self.reads = self.writes = 0
        self.error: KernelError | None = None

    def timeouts(self) -> Timeouts:
        self.reads += 1
        if self.error:
            raise self.error
        return self.now

    def set_timeouts(self, timeouts: Timeouts) -> None:
        self.writes += 1
        self.now = timeouts


class Keeper:
    """A keeper with the flags *flags*, at a time that the test sets."""

    def __init__(self, **flags: str) -> None:
        self.ipvs, self.now_s = Ipvs(), 0.0
        loaded = load({name.replace("_", "-"): value for name, value in flags.items()})
        self._keeper = TimeoutKeeper(lambda: loaded, self.ipvs, lambda: self.now_s)  # type: ignore[arg-type]

    def check_at(self, now_s: float) -> None:
        self.now_s = now_s
        self._keeper.check()


def test_timeouts_that_are_not_configured_are_not_even_read() -> None:
    keeper = Keeper()
    keeper.check_at(0.0)
    assert (keeper.ipvs.reads, keeper.ipvs.now) == (0, OTHERS)


def test_a_configured_timeout_is_set_again_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(ipvs_udp_timeout="30s")
    keeper.check_at(0.0)
    keeper.ipvs.now = Timeouts(900, 120, 30)
    keeper.check_at(10.0)
    assert (keeper.ipvs.writes, [record.levelno for record in caplog.records]) == (1, [logging.WARNING])


def test_pauses_grow_while_another_program_changes_it_again_and_again() -> None:
    keeper = Keeper(ipvs_udp_timeout="30s")
    writes_s = []
    for second in range(2000):
        keeper.ipvs.now = OTHERS
        before = keeper.ipvs.writes
        keeper.check_at(float(second))
        writes_s += [second] * (keeper.ipvs.writes - before)
    assert (writes_s[:3], writes_s[-1] - writes_s[-2]) == ([0, 5, 15], PAUSE.longest_s)


def test_a_kernel_that_does_not_answer_is_asked_again_later(caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(ipvs_udp_timeout="30s")
    keeper.ipvs.error = KernelError("no IPVS")
    for second in range(60):
        keeper.check_at(float(second))
    assert (keeper.ipvs.reads, len(caplog.records)) == (1, 1)
