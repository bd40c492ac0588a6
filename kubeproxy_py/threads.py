"""Threads: every thread of the agent but the main one is started here, and none ends unnoticed.

Invariants:
- What leaves a thread's function is logged with its traceback, and the function is called again after a delay.
- A thread that fails FAILURES_MAX times in a row ends the process with status 1. Its supervisor restarts it, and kernel
  state stays in place meanwhile; a process that lacks a thread would look healthy and miss changes for good.
- What one object, client or Event triggers is handled where it occurs, so that it never counts as a failure here.
"""

import logging
import os
import threading
from collections.abc import Callable
from time import monotonic
from typing import NoReturn

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.logging_setup import values

FAILURES_MAX = 10  # in a row; with RESTART some 20 s
STEADY_S = 60.0  # a thread that has run for so long begins a new row of failures
RESTART = Backoff(first_s=0.1, longest_s=5.0)
FAILED = 1  # the exit status of a failure that a restart may solve

_WATCHED_LIBRARIES = ("watchdog",)
"""Libraries whose own threads may end: sources/manifests/source.py notices it, and polls meanwhile."""

log = logging.getLogger(__name__)

_restarts: dict[str, int] = {}  # by the name of the thread, which alone writes its entry


class ThreadEndedError(Exception):
    """A thread's function returned although nobody had asked it to stop."""


def start(name: str, run: Callable[[], None], stopping: threading.Event | None = None) -> threading.Thread:
    """Start the thread *name*, which calls *run*, and calls it again if it fails.

    Args:
        name: The name of the thread in the log and in metrics.
        run: Works until *stopping* is set.
        stopping: Set to stop the thread; None: it ends with the process.
    """
    _restarts.setdefault(name, 0)
    arguments = (name, run, stopping or threading.Event())
    thread = threading.Thread(target=_supervise, args=arguments, name=name, daemon=True)
    thread.start()
    return thread


def start_task(name: str, run: Callable[[], None]) -> threading.Thread:
    """Start a thread that calls *run* once; a failure is logged, and the agent goes on without what it would do."""

    def run_once() -> None:
        try:
            run()
        except Exception:  # the outermost level of the thread
            log.exception("Internal error in a task (please report); continuing without it", extra=values(task=name))

    thread = threading.Thread(target=run_once, name=name, daemon=True)
    thread.start()
    return thread


def restarts() -> dict[str, int]:
    """Return how often each thread that was started has been restarted, by its name."""
    return _restarts.copy()


def end_process(status: int) -> NoReturn:
    """End the process at once with *status*, from any thread, after the log was written (for a limited time)."""
    try:
        logging.shutdown()
    finally:
        os._exit(status)  # without finalizing the interpreter, which takes up to 0.4 s


def end_process_on_thread_death() -> None:
    """Have an exception that ends any thread end the process: the last resort, after every other one."""
    log_it = threading.excepthook

    def on_death(args: threading.ExceptHookArgs) -> None:
        log_it(args)
        if not _is_watched(args.thread):
            end_process(FAILED)

    threading.excepthook = on_death


def _is_watched(thread: threading.Thread | None) -> bool:
    return type(thread).__module__.partition(".")[0] in _WATCHED_LIBRARIES


def _supervise(name: str, run: Callable[[], None], stopping: threading.Event) -> None:
    failures = 0
    while True:
        started_s = monotonic()
        try:
            _run_until_stopped(run, stopping)
        except BaseException as error:  # SystemExit too: without the thread the agent is not complete
            failures = failures + 1 if monotonic() - started_s < STEADY_S else 1
            _log_failure(name, failures, error)
            if failures >= FAILURES_MAX:
                end_process(FAILED)
            if stopping.wait(RESTART.delay_s(failures)):
                return
            _restarts[name] = _restarts.get(name, 0) + 1
        else:
            return


def _run_until_stopped(run: Callable[[], None], stopping: threading.Event) -> None:
    """Call *run*.

    Raises:
        ThreadEndedError: It returned, but *stopping* is not set.
    """
    run()
    if not stopping.is_set():
        raise ThreadEndedError("the thread's function returned")


def _log_failure(name: str, failures: int, error: BaseException) -> None:
    details = values(thread=name, failures=failures)
    if failures >= FAILURES_MAX:
        message = "Internal error in a thread (please report); it cannot go on, exiting. Kernel state is left in place"
        log.critical(message, extra=details, exc_info=error)
    else:
        message = "Internal error in a thread (please report); restarting it in %.1f s"
        log.error(message, RESTART.delay_s(failures), extra=details, exc_info=error)
