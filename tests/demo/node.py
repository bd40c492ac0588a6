"""Node A, the namespace of this process: the agent as a process, and the tools of an administrator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from typing import IO

from lab.job import REPOSITORY
from tests.demo.output import CheckFailedError, command, show_log_line

# A line of klog: severity, date, time, process, source] "message" key=value ...
_LINE = re.compile(r'^(?P<severity>[IWE])\d{4} \S+ +\d+ \S+\] "(?P<message>(?:[^"\\]|\\.)*)"(?P<values>.*)$')
_TEXT_VALUE = re.compile(r' \w+="(?:[^"\\]|\\.)*"')
# Of the checkout: the environment of `make run` has its libraries only.
_AGENT = (sys.executable, "-m", "kubeproxy_py")
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
_STOP_TIMEOUT_S = 10.0


class Agent:
    """`kubeproxy-py run` with *flags*, as a process; its log is printed line by line, without source and time."""

    def __init__(self, flags: list[str]) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        argv = [*_AGENT, "run", *flags]
        self._process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd="/", env=_ENVIRONMENT)
        assert self._process.stderr is not None
        self._relay = threading.Thread(target=self._relay_log, args=(self._process.stderr,), daemon=True)
        self._relay.start()

    def line_count(self) -> int:
        """Return the number of lines logged so far."""
        return len(self._lines)

    def lines(self) -> list[str]:
        """Return the lines logged so far."""
        return list(self._lines)

    def wait_for(self, word: str, since: int = 0, timeout_s: float = 20.0) -> str:
        """Wait for a line with *word*, from line *since* on, and return it.  Raises CheckFailedError on timeout."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                match = next((line for line in self._lines[since:] if word in line), None)
                if match is not None:
                    return match
                self.check()
                if not self._changed.wait(deadline - time.monotonic()):
                    raise CheckFailedError(f"the agent logs {word!r} within {timeout_s:.0f} s")

    def check(self) -> None:
        """Raise CheckFailedError if the agent has exited."""
        status = self._process.poll()
        if status is not None:
            raise CheckFailedError(f"the agent is running; it exited with status {status}")

    def stop(self) -> int:
        """Send SIGTERM, wait and return the exit status."""
        self._process.terminate()
        try:
            status = self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._relay.join(_STOP_TIMEOUT_S)
        return status

    def _relay_log(self, log: IO[str]) -> None:
        for line in log:
            with self._changed:
                show_log_line("agent", sentence(line))
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def sentence(line: str) -> str:
    """Return message and texts of a log line, without source, time, numbers; warnings and errors keep their letter."""
    match = _LINE.match(line.strip())
    if not match:
        return line.strip()
    mark = "" if match["severity"] == "I" else f"{match['severity']} "
    return mark + match["message"] + "".join(_TEXT_VALUE.findall(match["values"]))


def run_command(*words: str, status: int = 0) -> tuple[str, list[str]]:
    """Print and run `kubeproxy-py` with *words*; return its output and its log messages.

    Raises:
        CheckFailedError: Its exit status is not *status*.
    """
    command("kubeproxy-py", *words)
    ended = subprocess.run([*_AGENT, *words], capture_output=True, text=True, check=False, env=_ENVIRONMENT)
    if ended.returncode != status:
        found = f"it exited with {ended.returncode}: {ended.stderr or ended.stdout}"
        raise CheckFailedError(f"kubeproxy-py {words[0]} exits with {status}; {found}")
    return ended.stdout, [sentence(line) for line in ended.stderr.splitlines()]


def tool(*argv: str) -> str:
    """Return the output of a tool of the system.  Raises CalledProcessError."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
