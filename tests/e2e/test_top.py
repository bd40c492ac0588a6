"""top on a real kernel: rates of known traffic, and its keys in a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lab.client import QueryError, query
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.background import Background
from tests.e2e.manifests import Folder, Port, endpoint_slice, service, service_with_slice

pytestmark = pytest.mark.kernel

WEB, API, IDLE, SIX = "10.96.0.10", "10.96.0.11", "10.96.0.12", "fd00:10:96::10"
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[()][A-Z0-9]|[=>78])|[\x0e\x0f\r]")
_REDRAW = b"\x0c"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("services"))
    folder.write("web", service_with_slice("web", WEB, ["pod-a1", "pod-b1"]))
    folder.write("api", service_with_slice("api", API, ["pod-a1"]))
    folder.write("idle", service_with_slice("idle", IDLE, ["pod-b1"]))
    folder.write("six", [service("six", SIX, ipFamilies=["IPv6"]), endpoint_slice("six", ["pod-a1"], version=6)])
    return folder


@pytest.fixture(scope="module")
def path(cluster: Cluster, folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the debug socket of a running agent."""
    path = tmp_path_factory.mktemp("run") / "agent" / "debug.sock"
    with AgentProcess(cluster.node_a, folder.path, f"--debug-socket={path}") as agent:
        agent.wait_synced()
        wait_until(path.exists)
        yield path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "kubeproxy_py", "top", *words]


class Requests(Background):
    """Requests of a pod that is no endpoint, *per_web* times as many to WEB as to the others, within the `with`."""

    def __init__(self, cluster: Cluster, per_web: int = 4) -> None:
        super().__init__()
        self._cluster = cluster
        self._per_web = per_web
        self.rounds = 0

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            for address in (*[WEB] * self._per_web, API, SIX):
                query(self._cluster["pod-a2"], "tcp", address, 80)
            self.rounds += 1


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in document["services"]}


def test_rates_are_those_of_the_traffic_and_names_those_of_the_agent(cluster: Cluster, path: Path) -> None:
    argv = cluster.node_a.wrap(command("--once", "-o", "json", "--interval=12", f"--debug-socket={path}"))
    with Requests(cluster) as requests:
        wait_until(lambda: requests.rounds > 0)
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        made = requests.rounds
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    found = by_name(document)
    rates = {name: one["rates"] for name, one in found.items()}
    seconds = document["intervalSeconds"]
    connections = {name: one["connections"] * seconds for name, one in rates.items()}
    assert connections["idle"] == 0
    # The kernel changes each counter every 2 s, so a sixth of the traffic may be missing, or be too much.
    assert 0 < connections["api"] <= made + 2
    assert 2.5 < connections["web"] / connections["api"] < 6
    assert 0.6 < connections["six"] / connections["api"] < 1.6
    assert rates["web"]["receivedPackets"] >= 3 * rates["web"]["connections"]  # SYN, ACK, FIN
    assert rates["web"]["sentBytes"] > 60 * rates["web"]["connections"]
    reals = {real["address"]: real["rates"]["connections"] * seconds for real in found["web"]["realServers"]}
    assert len(reals) == 2
    assert 0.6 < sum(reals.values()) / connections["web"] < 1.6
    assert 0.6 < reals.popitem()[1] / reals.popitem()[1] < 1.6  # round robin
    assert document["services"][0]["name"] == "web"


def test_without_an_agent_addresses_are_shown_and_names_of_the_manifests(cluster: Cluster, folder: Folder) -> None:
    words = ("--once", "--interval=0.1", "-o", "json", f"--manifests={folder.path}", "--hostname-override=node-a")
    argv = cluster.node_a.wrap(command(*words))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Note: the kernel counts every 2 s; rates over a shorter time are 0 or too large" in done.stderr
    assert {"web", "api", "idle", "six"} <= by_name(json.loads(done.stdout)).keys()


def test_without_names_the_exit_status_and_a_line_say_so(cluster: Cluster, path: Path) -> None:
    words = ("--once", "--interval=0.1", "--debug-socket=", "--master=http://127.0.0.1:1")
    argv = cluster.node_a.wrap(command(*words))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert path.exists()
    assert (done.returncode, "INCOMPLETE: API server" in done.stdout) == (1, True), done.stdout + done.stderr
    assert f"{WEB}:80/TCP" in done.stdout


def test_without_a_terminal_it_is_refused(cluster: Cluster, path: Path) -> None:
    argv = cluster.node_a.wrap(command(f"--debug-socket={path}"))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, "use --once" in done.stderr) == (2, True)


class Terminal:
    """A process in a pseudo-terminal of *rows* lines."""

    def __init__(self, argv: list[str], rows: int = 24, columns: int = 100) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that the kernel tells it a changed size
            env={**os.environ, "TERM": "linux"},
        )
        os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def _read(self, seconds: float) -> str:
        data, until_s = b"", time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            if select.select([self._master], [], [], left_s)[0]:
                try:
                    data += os.read(self._master, 65536)
                except OSError:  # the process has ended
                    break
        return _ESCAPES.sub("\n", data.decode(errors="replace"))

    def wait_for(self, *texts: str, without: str = "\0") -> str:
        """Wait until a whole screen has all *texts* and not *without*; return it."""
        seen = ""

        def is_shown() -> bool:
            nonlocal seen
            self.press(_REDRAW)
            seen = self._read(1.0)
            return all(text in seen for text in texts) and without not in seen

        wait_until(is_shown, lambda: f"{texts} without {without!r}:\n{seen}", timeout_s=60.0)
        return seen

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@contextmanager
def terminal(argv: list[str]) -> Iterator[Terminal]:
    opened = Terminal(argv)
    try:
        yield opened
    finally:
        opened.close()


def is_sorted(screen: str) -> bool:
    """Return whether the Services are in the order of their connections."""
    return screen.index("shop/web") < screen.index("shop/api") < screen.index("shop/idle")


def test_keys_sort_filter_pause_scroll_and_quit_in_a_terminal(cluster: Cluster, path: Path) -> None:
    argv = cluster.node_a.wrap(command("--interval=0.5", f"--debug-socket={path}"))
    with Requests(cluster), terminal(argv) as shown:
        wait_until(lambda: is_sorted(shown.wait_for("sort: connections", "shop/web", "shop/api", "shop/idle")))
        shown.press(b"ss")
        shown.wait_for("sort: bytes")
        shown.press(b"/idle\n")
        shown.wait_for("filter: idle", "shop/idle", without="shop/web")
        shown.press(b"/\x1b")
        shown.wait_for("shop/web", without="filter: idle")
        shown.press(b"e")
        shown.wait_for("-> 10.244.")
        shown.press(b"p")
        first = re.findall(r"\d\d:\d\d:\d\dZ", shown.wait_for("PAUSED"))[0]
        time.sleep(1.5)
        assert first in shown.wait_for("PAUSED")
        shown.press(b"p")
        shown.wait_for("conn/s", without=first)
        shown.resize(8, 60)
        assert max(map(len, shown.wait_for("lines 1-4 of").split("\n"))) <= 60
        shown.press(b"\x1b[4~")  # End
        shown.wait_for("lines 6-9 of 9")
        shown.press(b"q")
        assert shown.process.wait(30) == 0


def test_terminal_that_is_not_known_is_refused(cluster: Cluster, path: Path) -> None:
    argv = cluster.node_a.wrap(["env", "TERM=none-such", *command(f"--debug-socket={path}")])
    with terminal(argv) as shown:
        text = ""

        def has_ended() -> bool:
            nonlocal text
            text += shown._read(0.5)
            return shown.process.poll() is not None

        wait_until(has_ended)
        assert (shown.process.returncode, "set TERM, or use --once" in text) == (2, True), text


def test_udp_is_counted_too(cluster: Cluster, path: Path, folder: Folder) -> None:
    port = Port(53, "UDP", 5353)
    folder.write("dns", [service("dns", "10.96.0.13", [port]), endpoint_slice("dns", ["pod-a1"], [port])])
    argv = cluster.node_a.wrap(command("--once", "-o", "json", "--interval=4", f"--debug-socket={path}"))

    def is_counted() -> bool:
        stop = threading.Event()

        def ask() -> None:
            while not stop.wait(0.05):
                with suppress(QueryError, OSError):  # before the Service is there
                    query(cluster["pod-a2"], "udp", "10.96.0.13", 53)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        stop.set()
        asking.join(20.0)
        found = by_name(json.loads(done.stdout)).get("dns")
        return bool(found and found["rates"] and found["rates"]["connections"] > 0)

    wait_until(is_counted)
