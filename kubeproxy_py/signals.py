"""Signals: a thread of its own hears those that this process answers.

Law: a signal is answered at once, whatever the main thread is at.  Python runs a handler only between two bytecodes of
the main thread; there, one that comes just before a wait begins is heard when that wait ends, which may be never, and
one that interrupts ``SimpleQueue.get`` at the end of its time may leave it waiting for ever (CPython 3.11: the time
that is left becomes negative, which means none is set).

Programs that we start inherit what is held back, so a signal to our whole group lets them finish.

Source: pthreads(7), sigwait(3).
"""

import signal
import threading
from collections.abc import Callable, Collection


def block(signals: Collection[signal.Signals]) -> None:
    """Have *signals* wait until somebody hears them.  To be called before any thread is started: all inherit it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)


def handle_in_thread(signals: Collection[signal.Signals], answer: Callable[[signal.Signals], None]) -> None:
    """Have a thread call *answer* with each of *signals*, which are held, from now on and those that came before."""

    def listen() -> None:
        while True:
            answer(signal.Signals(signal.sigwait(signals)))

    threading.Thread(target=listen, name=" and ".join(each.name for each in signals), daemon=True).start()
