"""node: node A, which is this process's own namespace: the agent as a real process there, and an admin's tools."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from tests.demo.say import NotSo, command, spoken

# klog's line: severity, date, time, process, place] "sentence" key=value ...
_SENTENCE = re.compile(r'^(?P<severity>[IWE])\d{4} \S+ +\d+ \S+\] "(?P<sentence>.*)"(?: \w+=\S+)*$')
_AGENT = str(Path(sys.executable).with_name("kubeproxy-py"))
_END_S = 10.0


class Agent:
    """`kubeproxy-py run` with *flags*, as a process; its log is passed on line by line, without place and time."""

    def __init__(self, flags: list[str]) -> None:
        self._heard: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen([_AGENT, "run", *flags], stderr=subprocess.PIPE, text=True, cwd="/")
        assert self._process.stderr is not None
        self._relay = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._relay.start()

    def heard(self) -> int:
        """How many lines it has logged."""
        return len(self._heard)

    def wait_for(self, word: str, since: int = 0, timeout_s: float = 20.0) -> str:
        """The first sentence with *word* in it, from line *since* on.  Raises NotSo if none comes."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            while True:
                found = next((line for line in self._heard[since:] if word in line), None)
                if found is not None:
                    return found
                self.check()
                if not self._news.wait(deadline - time.monotonic()):
                    raise NotSo(f"the agent says {word!r} within {timeout_s:.0f} s")

    def check(self) -> None:
        """Raises NotSo if it no longer runs."""
        status = self._process.poll()
        if status is not None:
            raise NotSo(f"the agent keeps running; it ended with status {status}")

    def end(self) -> int:
        """SIGTERM; its exit status."""
        self._process.terminate()
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._relay.join(_END_S)
        return status

    def _listen(self, log: IO[str]) -> None:
        for line in log:
            with self._news:
                spoken("agent", sentence(line))
                self._heard.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


def sentence(line: str) -> str:
    """What a line of the log says, without place, time and values; warnings and errors keep their letter."""
    match = _SENTENCE.match(line.strip())
    if not match:
        return line.strip()
    mark = "" if match["severity"] == "I" else f"{match['severity']} "
    return mark + match["sentence"]


def verb(name: str, flags: list[str]) -> tuple[str, list[str]]:
    """Show and run `kubeproxy-py NAME` with *flags*: what it printed, and the sentences that it logged.

    Raises NotSo if it fails.
    """
    command("kubeproxy-py", name, "...")
    ended = subprocess.run([_AGENT, name, *flags], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise NotSo(f"kubeproxy-py {name} succeeds; it ended with {ended.returncode}: {ended.stderr}")
    return ended.stdout, [sentence(line) for line in ended.stderr.splitlines()]


def tool(*argv: str) -> str:
    """What a tool of the system prints.  Raises CalledProcessError."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
