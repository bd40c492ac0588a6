"""`python -m bench.outages`: how soon the watches of an agent are back after outages of the API server.

The source of the product, with its own times, against the simulated API server, which sends no bookmarks.  In an outage
the server is killed, so that connections are refused, or stopped (SIGSTOP), so that it accepts connections and answers
nothing.  Measured from the moment at which the server is there again:

- until a Service that was created then is emitted (the watch of Services is back);
- of a stopped server, how long after the stop it was noticed.

It needs neither root nor the lab.  The outages are 20 +- 2.5 s long: by then the agent tries as rarely as it ever does.
"""

import argparse
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kubeproxy_py.model.events import Event, ServiceUpserted
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources.kubernetes.source import KubeSource
from tests.apiserver import ApiServer
from tests.apiserver.client import Client
from tests.apiserver.store import Json

_WAIT_S = 90.0
_SETTLE_S = 2.0


class Emitted:
    """The events of the source, each with the time at which it was emitted."""

    def __init__(self) -> None:
        self._events: list[tuple[float, Event]] = []
        self._changed = threading.Condition()

    def __call__(self, *events: Event) -> None:
        with self._changed:
            self._events += [(time.monotonic(), event) for event in events]
            self._changed.notify_all()

    def forget(self) -> None:
        with self._changed:
            self._events.clear()

    def wait_for(self, wanted: Callable[[Event], bool]) -> float:
        """Return when the first event that is *wanted* was emitted."""

        def found() -> float | None:
            return next((at_s for at_s, event in self._events if wanted(event)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None, _WAIT_S)
            at_s = found()
        if at_s is None:
            raise TimeoutError
        return at_s


class RefusingServer:
    """The simulated API server in this process; between ``kill`` and ``start`` connections are refused."""

    def __init__(self) -> None:
        self._server = ApiServer().start()
        self._server.faults.bookmark_period_s = None
        self.url = self._server.url

    def kill(self) -> None:
        self._server.stop()

    def start(self) -> None:
        again = ApiServer(self._server.server_address[1])
        again.faults, again.store = self._server.faults, self._server.store
        self._server = again.start()

    def create(self, body: Json) -> None:
        self._server.apply(body)


class StoppableServer:
    """The simulated API server in a process of its own, which can be stopped."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.apiserver", "--no-bookmarks"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.url = f"http://{self.process.stdout.readline().split()[-1]}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def create(self, body: Json) -> None:
        Client(self.url).apply(body)


def service(number: int) -> Json:
    spec = {"clusterIP": f"10.96.{number // 250}.{number % 250 + 1}", "ports": [{"port": 80}]}
    meta = {"name": f"new-{number}", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def is_service(name: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, ServiceUpserted) and event.service.name.name == name


@contextmanager
def running_source(url: str) -> Iterator[Emitted]:
    emitted = Emitted()
    source = KubeSource(None, url, "node-a")
    source.start(emitted)
    try:
        time.sleep(_SETTLE_S)
        yield emitted
    finally:
        source.stop()


def killed(server: RefusingServer, emitted: Emitted, number: int, down_s: float) -> float:
    """Return the time from the start of the server, after an outage of *down_s*, until the watch is back."""
    server.kill()
    time.sleep(down_s)
    server.start()
    started_s = time.monotonic()
    server.create(service(number))
    return emitted.wait_for(is_service(f"new-{number}")) - started_s


def stopped(server: StoppableServer, emitted: Emitted, number: int, down_s: float) -> tuple[float, float]:
    """Return the time until the stop was noticed, and from the continuation until the watch is back."""
    emitted.forget()
    server.process.send_signal(signal.SIGSTOP)
    stopped_s = time.monotonic()
    noticed_s = emitted.wait_for(lambda event: isinstance(event, Problem)) - stopped_s
    time.sleep(down_s)
    server.process.send_signal(signal.SIGCONT)
    continued_s = time.monotonic()
    server.create(service(number))
    return noticed_s, emitted.wait_for(is_service(f"new-{number}")) - continued_s


def figures(name: str, times_s: list[float]) -> str:
    ordered = sorted(times_s)
    return f"{name}: n={len(ordered)} p50={ordered[len(ordered) // 2]:.2f} s worst={ordered[-1]:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.outages", description=__doc__)
    parser.add_argument("--outages", type=int, default=20, help="server killed (default: %(default)s)")
    parser.add_argument("--stops", type=int, default=5, help="server stopped (default: %(default)s)")
    parser.add_argument("--down", type=float, default=20.0, metavar="SECONDS", help="length (default: %(default)s)")
    arguments = parser.parse_args()
    back_s, noticed_s, again_s = [], [], []
    refusing = RefusingServer()
    with running_source(refusing.url) as emitted:
        for number in range(arguments.outages):
            back_s.append(killed(refusing, emitted, number, arguments.down + random.uniform(-2.5, 2.5)))
            print(f"killed: back after {back_s[-1]:.2f} s", flush=True)
            time.sleep(_SETTLE_S)
    refusing.kill()
    stoppable = StoppableServer()
    try:
        with running_source(stoppable.url) as emitted:
            for number in range(arguments.stops):
                noticed, again = stopped(stoppable, emitted, number, random.uniform(0, 5))
                noticed_s.append(noticed)
                again_s.append(again)
                print(f"stopped: noticed after {noticed:.1f} s, back after {again:.2f} s", flush=True)
                time.sleep(_SETTLE_S)
    finally:
        stoppable.kill()
    for name, times_s in (("killed, back", back_s), ("stopped, noticed", noticed_s), ("stopped, back", again_s)):
        if times_s:
            print(figures(name, times_s))


if __name__ == "__main__":
    main()
