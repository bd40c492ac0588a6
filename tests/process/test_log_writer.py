"""LogWriter: whoever logs never waits for the reader, and dropped lines are counted at their place."""

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py.log_writer import BackgroundHandler, LogWriter

PATIENCE_S = 60.0
F_SETPIPE_SZ = 1031


class Slow:
    """Collects what is written, once it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.lines: list[str] = []

    def write(self, text: str) -> bool:
        assert self.released.wait(PATIENCE_S)
        self.lines.append(text)
        return True


def started(slow: Slow, limit: int) -> LogWriter:
    writer = LogWriter(slow.write, lambda lines: f"gap {lines}", limit)
    threading.Thread(target=writer.run, daemon=True).start()
    return writer


def test_lines_that_do_not_fit_are_dropped_and_counted_at_their_place() -> None:
    slow = Slow()
    writer = started(slow, limit=8)
    for number in range(10):
        writer.put(f"{number:04}")
    slow.released.set()
    assert writer.flush(PATIENCE_S)
    gaps = [line for line in slow.lines if line.startswith("gap")]
    written = [int(line) for line in slow.lines if not line.startswith("gap")]
    assert gaps == [f"gap {10 - len(written)}"] == slow.lines[-1:]
    assert written == sorted(written)
    assert writer.dropped == 10 - len(written) >= 7
    writer.put("next")
    assert writer.flush(PATIENCE_S)
    assert slow.lines[-1] == "next"


def test_after_a_gap_half_of_the_queue_is_written_before_lines_are_accepted_again() -> None:
    slow = Slow()
    writer = LogWriter(slow.write, lambda lines: f"gap {lines}", limit=40)
    slow.released.set()
    for number in range(12):
        writer.put(f"{number:04}")  # ten fit
    assert writer._next() == "0000"
    writer.put("drop")
    assert [writer._next() for _ in range(4)] == ["0001", "0002", "0003", "0004"]
    writer.put("kept")
    assert [writer._next() for _ in range(7)] == ["0005", "0006", "0007", "0008", "0009", "gap 3", "kept"]


def test_a_line_that_is_larger_than_the_queue_is_dropped_and_the_next_is_written() -> None:
    slow = Slow()
    slow.released.set()
    writer = started(slow, limit=8)
    writer.put("x" * 100)
    assert writer.flush(PATIENCE_S)
    writer.put("y")
    assert writer.flush(PATIENCE_S)
    assert slow.lines == ["gap 1", "y"]


def test_flushing_is_limited_in_time() -> None:
    slow = Slow()
    writer = started(slow, limit=100)
    writer.put("x")
    before_s = time.monotonic()
    assert not writer.flush(0.05)
    assert time.monotonic() - before_s < PATIENCE_S / 2
    slow.released.set()
    assert writer.flush(PATIENCE_S)
    assert slow.lines == ["x"]


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Yield a pipe of one page that is full."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * 4096)
        os.set_blocking(writer, True)
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def read_until(reader: int, text: bytes) -> bytes:
    os.set_blocking(reader, False)
    data, deadline_s = b"", time.monotonic() + PATIENCE_S
    while text not in data:
        assert time.monotonic() < deadline_s, data[-300:]
        with contextlib.suppress(BlockingIOError):
            data += os.read(reader, 1 << 16)
        time.sleep(0.001)
    return data


def test_logging_does_not_wait_for_a_reader_that_hangs_and_says_what_was_dropped() -> None:
    logger = logging.getLogger("kubeproxy_py.tests.pipe")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    with full_pipe() as (reader, writer), os.fdopen(writer, "w", closefd=False) as stream:
        handler = BackgroundHandler(stream)
        threading.Thread(target=handler.writer.run, daemon=True).start()
        logger.addHandler(handler)
        try:
            before_s = time.monotonic()
            for number in range(3000):
                logger.info("%d %s", number, "x" * 1000)
            assert time.monotonic() - before_s < PATIENCE_S / 2
            dropped = handler.writer.dropped
            assert dropped > 1500
            data = read_until(reader, b"because they were not read in time\n")
            assert f"Dropped {dropped} log lines, because".encode() in data
            assert os.get_blocking(writer)  # O_NONBLOCK would be set for every process that shares the file
        finally:
            logger.removeHandler(handler)


def test_a_value_that_cannot_be_formatted_is_reported_in_a_line() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("a bug")

    logger = logging.getLogger("kubeproxy_py.tests.broken")
    logger.propagate = False
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "w") as stream:
        handler = BackgroundHandler(stream)
        threading.Thread(target=handler.writer.run, daemon=True).start()
        logger.addHandler(handler)
        logger.warning("%s", Broken())
        logger.removeHandler(handler)
        assert b"Failed to format a log record of test_log_writer.py:" in read_until(reader, b"\n")


def start_program(body: str, stderr: int) -> "subprocess.Popen[bytes]":
    """Start *body* in a process that logs in the background to *stderr*, and prints a line once it has logged."""
    setup = """
        import logging, os, signal, sys, threading, time
        from functools import partial
        from kubeproxy_py import logging_setup, threads
        from kubeproxy_py.commands import run
        from kubeproxy_py.systemd import SystemdNotifier
        from kubeproxy_py.signals import block, handle_in_thread
        block((signal.SIGTERM,))
        logging_setup.setup()
        threads.start("log", logging_setup.write_in_background())
        handle_in_thread((signal.SIGTERM,), partial(run._exit, SystemdNotifier({})))
        log = logging.getLogger("kubeproxy_py.test")
    """
    program = textwrap.dedent(setup) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=stderr)


PATIENT = f"""
    from kubeproxy_py import log_writer
    log_writer.FLUSH_TIMEOUT_S = {PATIENCE_S}  # a busy machine may not write all lines within a second
"""
BURST = """
    for number in range(200):
        log.info("line %d", number)
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise ValueError('a bug')", 1),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(600)", 0),
    ],
)
def test_no_line_is_lost_when_the_process_ends(tmp_path: Path, end: str, status: int) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file, start_program(PATIENT + BURST + f"    {end}\n", file.fileno()) as process:
        assert process.wait(PATIENCE_S) == status
    lines = log.read_text().splitlines()
    assert [f"line {number}" in line for number, line in enumerate(lines[:200])] == [True] * 200
    assert [line for line in lines[200:] if "a bug" not in line and "exiting" not in line] == []
    assert ("a bug" in log.read_text()) == (status == 1)


def test_sigterm_ends_the_process_although_the_reader_of_its_log_hangs() -> None:
    with full_pipe() as (_reader, writer):
        process = start_program(BURST + "    print('logged', flush=True)\n    time.sleep(600)\n", writer)
        with process:
            assert process.stdout
            assert process.stdout.readline() == b"logged\n"
            before_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
            assert time.monotonic() - before_s < PATIENCE_S / 2


def test_a_normal_end_does_not_hang_although_the_reader_of_the_log_does() -> None:
    with full_pipe() as (_reader, writer), start_program(BURST, writer) as process:
        assert process.wait(PATIENCE_S) == 0


def test_a_log_without_a_reader_does_not_stop_the_process() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with start_program(BURST + "    print('logged', flush=True)\n", writer) as process:
        os.close(writer)
        assert process.wait(PATIENCE_S) == 0
