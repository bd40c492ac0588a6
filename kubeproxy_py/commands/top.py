"""top: show the traffic of each Service and real server now, from the kernel's counters.

Invariants:
- The kernel changes the counters of an object every 2 s, whenever they are read. Rates over a shorter time would be 0
  or too large, so what is shown live are averages of some seconds.
- Rates are read from the kernel by this command; the agent is asked for names only, and not again while all are known.
- The real servers of a virtual server are read when it has traffic or connections, the others in turn.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import TYPE_CHECKING, Protocol

import msgspec

from kubeproxy_py.commands.agent_client import NoAgentError, RefusedError, ask, socket_path
from kubeproxy_py.commands.exit_status import FAILED, SUCCESS, UNUSABLE
from kubeproxy_py.commands.output import print_lines, print_note, print_usage_error
from kubeproxy_py.commands.status import Load, encoded, own_state
from kubeproxy_py.diagnose.document import VERSION, State, Top
from kubeproxy_py.diagnose.rates import Names, Sample, arranged, names_of, services_between
from kubeproxy_py.diagnose.top_text import top_text
from kubeproxy_py.model.rows import RealServer, RealServerCounters, Traffic, VirtualServer

if TYPE_CHECKING:
    from argparse import Namespace

    from kubeproxy_py.config.load import ConfigInput

COUNTER_PERIOD_S = 2.0
"""How often the kernel changes the counters of an object (net/netfilter/ipvs/ip_vs_est.c)."""

WINDOW_S = 6.0  # over which rates are averaged
_ONCE_S = 6.0
_LIVE_S = 2.0
_IDLE_BATCH = 500  # virtual servers without traffic whose real servers are read with each sample
_ASK_AGAIN_S = 5.0  # for the names of what is not known
_REFRESH_TIMEOUT_S = 2.0  # while names are known: keys are not read meanwhile
_REFRESH_S = 60.0  # a Service may have got the address of another
_NAMES_ONLY = {"realServers": "true", "connections": "false"}


class CounterReader(Protocol):
    """Reads counters from the kernel; every method raises KernelError if it cannot."""

    def traffic(self) -> dict[VirtualServer, Traffic]:
        """Return the counters of every virtual server."""

    def real_server_counters(self, virtual_servers: Iterable[VirtualServer]) -> dict[RealServer, RealServerCounters]:
        """Return the counters of every real server of *virtual_servers*."""


class Sampler:
    """Takes samples of what *reader* reads."""

    def __init__(self, reader: CounterReader, clock: Callable[[], float] = monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._last = Sample(0.0)
        self._idle: list[VirtualServer] = []  # those that are still to be read in turn

    def sample(self) -> Sample:
        """Return a sample.  Raises KernelError."""
        last = self._last
        at_s, traffic = self._clock(), self._reader.traffic()
        connected = {key.virtual_server for key, one in last.real_servers.items() if one.connections.total}
        busy = {
            server
            for server, counters in traffic.items()
            if server in connected or last.servers.get(server) != counters
        }
        read = busy | self._next_idle(traffic, busy)
        reals = {
            key: one
            for key, one in last.real_servers.items()
            if key.virtual_server in traffic and key.virtual_server not in read
        }
        reals.update(self._reader.real_server_counters(read))
        self._last = Sample(at_s, traffic, reals)
        return self._last

    def _next_idle(self, traffic: Iterable[VirtualServer], busy: set[VirtualServer]) -> set[VirtualServer]:
        if not self._idle:
            self._idle = list(traffic)
        chosen, self._idle = self._idle[:_IDLE_BATCH], self._idle[_IDLE_BATCH:]
        return set(traffic).intersection(chosen) - busy


class NameSource:
    """Names of the agent; without one, of what this command sees itself, once."""

    def __init__(self, config_input: "ConfigInput", load: Load, clock: Callable[[], float] = monotonic) -> None:
        self._path = socket_path(config_input.flags)
        self._load = load
        self._clock = clock
        self._asked_s = -_REFRESH_S
        self._names = Names()
        self._is_own = False
        self.problem = ""

    def names(self, sample: Sample) -> Names:
        """Return the names, which are asked for again if one in *sample* is not known."""
        if self._is_own:
            return self._names
        age_s = self._clock() - self._asked_s
        if age_s >= _REFRESH_S or (age_s >= _ASK_AGAIN_S and self._lacks(sample)):
            self._asked_s = self._clock()
            self._refresh()
        return self._names

    def _lacks(self, sample: Sample) -> bool:
        return not (
            sample.servers.keys() <= self._names.servers.keys()
            and sample.real_servers.keys() <= self._names.pods.keys()
        )

    def _refresh(self) -> None:
        if self._path:
            try:
                timeout = (_REFRESH_TIMEOUT_S,) if self._names.servers else ()
                state = msgspec.json.decode(ask(self._path, "/v1/status", _NAMES_ONLY, *timeout), type=State)
            except (NoAgentError, RefusedError) as error:
                if self._names.servers:
                    self.problem = f"{error}; names are those that were known before"
                    return
            else:
                self._names, self.problem = names_of(state), state.agent.problem
                return
        self._is_own = True
        state = own_state(self._load(), _NAMES_ONLY)
        self._names, self.problem = names_of(state), state.agent.problem


def top(config_input: "ConfigInput", arguments: "Namespace", load: Load) -> int:
    """Show the traffic until the operator quits, or print it once; return the exit status."""
    from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter

    if arguments.output != "text" and not arguments.once:
        return _unusable("-o json needs --once")
    if not arguments.once and not (sys.stdout.isatty() and sys.stdin.isatty()):
        return _unusable("this is not a terminal; use --once")
    taker = Taker(Sampler(IpvsAdapter()), NameSource(config_input, load))
    taker.take()  # before the terminal is changed: errors are printed, and names looked for
    if not arguments.once:
        return _interactive(taker, arguments)
    if arguments.interval and arguments.interval < COUNTER_PERIOD_S:
        print_note(f"the kernel counts every {COUNTER_PERIOD_S:g} s; rates over a shorter time are 0 or too large")
    sleep(arguments.interval or _ONCE_S)
    taken = taker.take()
    assert taken is not None
    found = msgspec.structs.replace(taken, services=tuple(arranged(taken.services, arguments.sort, arguments.filter)))
    text = encoded(found, arguments.output) or top_text(found, real_servers=arguments.real_servers)
    print_lines(text)
    return FAILED if found.problem else SUCCESS


class Taker:
    """Makes documents of the samples of the last WINDOW_S."""

    def __init__(self, sampler: Sampler, names: NameSource) -> None:
        self._sampler = sampler
        self._names = names
        self._kept: deque[Sample] = deque()  # no closer than the kernel's counters change

    def take(self) -> Top | None:
        """Take a sample; return what happened since an earlier one, None for the first.  Raises KernelError."""
        after = self._sampler.sample()
        names = self._names.names(after)
        before = self._before(after)
        if before is None:
            return None
        time = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        services = tuple(services_between(before, after, names))
        return Top(VERSION, "Top", time, round(after.at_s - before.at_s, 3), self._names.problem, services)

    def _before(self, after: Sample) -> Sample | None:
        """Return the sample to compare *after* with, and keep *after*."""
        kept = self._kept
        while len(kept) > 1 and after.at_s - kept[1].at_s >= WINDOW_S:
            kept.popleft()
        before = kept[0] if kept else None
        if not kept or after.at_s - kept[-1].at_s >= COUNTER_PERIOD_S:
            kept.append(after)
        return before


def _interactive(taker: Taker, arguments: "Namespace") -> int:
    from kubeproxy_py.commands.top_screen import TerminalError, show
    from kubeproxy_py.commands.top_view import TopView

    view = TopView(arguments.sort, arguments.filter, real_servers=arguments.real_servers)
    try:
        show(view, taker.take, arguments.interval or _LIVE_S)
    except TerminalError as error:
        return _unusable(f"the terminal cannot be used ({error}); set TERM, or use --once")
    return SUCCESS


def _unusable(message: str) -> int:
    print_usage_error(message, "kubeproxy-py top --help")
    return UNUSABLE
