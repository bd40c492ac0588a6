"""Signals: a separate thread waits for those that this process handles.

Invariants:
- A signal is handled immediately, no matter what the main thread does.  Python runs a signal handler only between two
  bytecodes of the main thread, so a signal that arrives just before a wait begins would be handled when that wait
  ends, which may be never.
- Programs that this process starts inherit the blocked signals, so a signal to the process group lets them finish.

Source: pthreads(7), sigwait(3).
"""

import signal
from collections.abc import Callable, Collection

from kubeproxy_py import threads


def block(signals: Collection[signal.Signals]) -> None:
    """Block *signals* in this thread and in all that it starts; call it before any thread is started."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)


def handle_in_thread(signals: Collection[signal.Signals], handle: Callable[[signal.Signals], None]) -> None:
    """Call *handle* with each of *signals*, in a new thread; they are blocked, and some may be pending already."""

    def wait_and_handle() -> None:
        while True:
            handle(signal.Signals(signal.sigwait(signals)))

    name = " and ".join(number.name for number in signals)
    threads.start(name, wait_and_handle)
