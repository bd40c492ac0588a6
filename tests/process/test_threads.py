"""Threads: a failure restarts a thread, failures in a row end the process, and no thread ends silently."""

import logging
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from kubeproxy_py import threads
from kubeproxy_py.backoff import Backoff

PATIENCE_S = 60.0
PACKAGE = Path(threads.__file__).parent


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "RESTART", Backoff(first_s=0.0, longest_s=0.0))


class Failing:
    """Fails *times*, then waits for *stopping*."""

    def __init__(self, times: int, error: BaseException) -> None:
        self.stopping = threading.Event()
        self.works = threading.Event()
        self.calls = 0
        self._times = times
        self._error = error

    def run(self) -> None:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        self.works.set()
        self.stopping.wait(PATIENCE_S)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("EIO"), SystemExit(0), MemoryError()])
def test_a_thread_that_fails_is_logged_with_its_traceback_and_started_again(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing(3, error)
    thread = threads.start("failing-thread", failing.run, failing.stopping)
    assert failing.works.wait(PATIENCE_S)
    failing.stopping.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    records = [record for record in caplog.records if record.name == threads.__name__]
    assert [record.values["failures"] for record in records] == [1, 2, 3]  # type: ignore[attr-defined]
    assert all(record.exc_info and record.exc_info[1] is error for record in records)
    assert threads.restarts()["failing-thread"] >= 3


def test_a_thread_that_returns_unasked_is_started_again() -> None:
    stopping, returned = threading.Event(), threading.Semaphore(0)

    def run() -> None:
        if len(calls) > 2:
            stopping.set()
        calls.append(1)
        returned.release()

    calls: list[int] = []
    thread = threads.start("returning-thread", run, stopping)
    thread.join(PATIENCE_S)
    assert (thread.is_alive(), len(calls)) == (False, 4)


def test_a_thread_that_is_stopped_while_it_waits_to_be_started_again_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "RESTART", Backoff(first_s=10 * PATIENCE_S, longest_s=10 * PATIENCE_S))
    failing = Failing(1, RuntimeError("a bug"))
    thread = threads.start("waiting-thread", failing.run, failing.stopping)
    failing.stopping.set()
    thread.join(PATIENCE_S)
    assert (thread.is_alive(), failing.calls) == (False, 1)


def test_a_task_that_fails_is_logged_and_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing(1, RuntimeError("a bug"))
    threads.start_task("a-task", failing.run).join(PATIENCE_S)
    assert failing.calls == 1
    assert [record.levelno for record in caplog.records if "Internal error in a task" in record.message] == [
        logging.ERROR
    ]


def run_program(body: str) -> subprocess.CompletedProcess[str]:
    """Run *body* in a process whose threads are set up as in `run`."""
    setup = """
        import logging, threading, time
        from kubeproxy_py import logging_setup, threads
        from kubeproxy_py.backoff import Backoff
        logging_setup.setup()
        threads.RESTART = Backoff(first_s=0.0, longest_s=0.0)
        threads.end_process_on_thread_death()
        threads.start("log", logging_setup.write_in_background())
    """
    program = textwrap.dedent(setup) + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


def test_a_thread_that_fails_again_and_again_ends_the_process_with_status_1() -> None:
    completed = run_program("""
        threads.start("address-monitor", lambda: 1 / 0)
        time.sleep(600)
    """)
    assert completed.returncode == 1
    lines = completed.stderr.splitlines()
    assert len(lines) == threads.FAILURES_MAX
    assert all('thread="address-monitor"' in line and "ZeroDivisionError" in line for line in lines)
    assert "it cannot go on, exiting" in lines[-1]


def test_an_exception_that_ends_any_other_thread_ends_the_process_with_status_1() -> None:
    completed = run_program("""
        threading.Thread(target=lambda: 1 / 0, name="foreign").start()
        time.sleep(600)
    """)
    assert completed.returncode == 1
    assert 'thread="foreign"' in completed.stderr


def test_a_changed_log_format_does_not_disable_the_last_resort() -> None:
    completed = run_program("""
        logging_setup.reconfigure("json", 2)
        threading.Thread(target=lambda: 1 / 0, name="foreign").start()
        time.sleep(600)
    """)
    assert completed.returncode == 1
    assert '"thread": "foreign"' in completed.stderr


def test_a_thread_of_watchdog_may_end_because_the_folder_is_polled() -> None:
    completed = run_program("""
        from watchdog.utils import BaseThread

        class Emitter(BaseThread):
            def run(self):
                raise OSError("inotify")

        Emitter.__module__ = "watchdog.observers.inotify"
        emitter = Emitter()
        emitter.start()
        emitter.join()
        logging_setup.flush()
        print("alive")
    """)
    assert (completed.returncode, completed.stdout) == (0, "alive\n")
    assert "inotify" in completed.stderr


def test_every_thread_is_started_by_this_module() -> None:
    found = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\bThread\(|ThreadPoolExecutor\(|start_new_thread\(", path.read_text())
    ]
    assert sorted(found) == ["threads.py"]
