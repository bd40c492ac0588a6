"""RealServerChecks: what no mark shows is found within a round, at bounded cost, and our changes are no drift."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from kubeproxy_py.kernel import REAL_SERVERS, VIRTUAL_SERVERS, Mark, MarkReader, Readable, RealServerListing, Snapshot
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import NOT_LISTED, RealServer, RealServerSpec, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.settings import ServiceSettings
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.agent import Timing
from kubeproxy_py.reconcile.real_server_checks import CHECKS_SHARE, FIRST_SHARE, SERVER_SHARE, SLICE_S
from kubeproxy_py.reconcile.report import Trigger
from tests.builders import endpoint_slice, service
from tests.reconcile.harness import POD, SERVER, AgentHarness, serving

MARKS_S = 2.0
TIMING = Timing(sync_period_s=NEVER, marks_period_s=MARKS_S)
OTHER_POD = RealServer(SERVER, "10.244.9.9", 8080)


class UnmarkedKernel(MemoryKernel):
    """A kernel without marks that calls `advance` whenever it reads real servers, and records of which server."""

    def __init__(self) -> None:
        super().__init__()
        self.advance: Callable[[], None] = lambda: None
        self.read_servers: list[Readable] = []
        self.fingerprints_read: list[Readable] = []

    def fingerprint(self, readable: Readable) -> int:
        self.fingerprints_read.append(readable)
        return super().fingerprint(readable)

    def mark_readers(self) -> Sequence[MarkReader]:
        return []

    def snapshot(self, readable: Readable) -> Snapshot:
        self.advance()
        self.read_servers.append(readable)
        return super().snapshot(readable)


class MarkedServersKernel(UnmarkedKernel):
    """One whose only mark is the number of IPv4 virtual servers."""

    def mark_readers(self) -> Sequence[MarkReader]:
        return [MarkReader("servers", self._read)]

    def _read(self) -> Mapping[str, Mark]:
        return {"servers": Mark(VIRTUAL_SERVERS, sum(isinstance(key, VirtualServer) for key in self.rows))}


class ListingKernel(UnmarkedKernel):
    """One that lists all real servers in pieces, each of one virtual server."""

    def __init__(self) -> None:
        super().__init__()
        self.agreed: dict[VirtualServer, Rows] = {}
        self.asked: list[VirtualServer] = []
        self.error: KernelError | None = None

    def real_server_listing(self) -> RealServerListing:
        return self

    def pieces(self, agrees: Callable[[VirtualServer, Rows], bool]) -> Iterator[None]:
        if self.error:
            raise self.error
        for server in [key for key in self.rows if isinstance(key, VirtualServer)]:
            self.advance()
            rows = self.rows_behind(server)
            if self.agreed.get(server) != rows:
                self.asked.append(server)
                if agrees(server, rows):
                    self.agreed[server] = rows
            yield

    def rows_behind(self, server: VirtualServer) -> Rows:
        rows = self.rows.items()
        return {key: spec for key, spec in rows if isinstance(key, RealServer) and key.virtual_server == server}

    def forget(self, servers: Iterable[VirtualServer]) -> None:
        for server in servers:
            self.agreed.pop(server, None)

    def forget_all(self) -> None:
        self.agreed.clear()


class ListingWithoutThresholds(ListingKernel):
    """One whose listing shows no thresholds, as /proc/net/ip_vs."""

    def rows_behind(self, server: VirtualServer) -> Rows:
        return without_thresholds(super().rows_behind(server))


class MarkedRealServersKernel(UnmarkedKernel):
    """One whose only mark is that of all real servers, without thresholds."""

    def mark_readers(self) -> Sequence[MarkReader]:
        return [MarkReader("listing", self._read)]

    def _read(self) -> Mapping[str, Mark]:
        shown = without_thresholds({key: spec for key, spec in self.rows.items() if isinstance(key, RealServer)})
        return {REAL_SERVERS: Mark(VIRTUAL_SERVERS, hash(frozenset(shown.items())))}


def without_thresholds(rows: Rows) -> Rows:
    specs = ((key, spec.weight if isinstance(spec, RealServerSpec) else 0) for key, spec in rows.items())
    return {key: RealServerSpec(weight, NOT_LISTED, NOT_LISTED) for key, weight in specs}


def watched(kernel: UnmarkedKernel | None = None, **options: Any) -> AgentHarness:
    """Return a harness that serves shop/web on a kernel without marks; full compares never run."""
    harness = serving(timing=TIMING, kernel=kernel or UnmarkedKernel(), **options)
    harness.advance(MARKS_S)
    harness.run_all_due()
    return harness


def change_weight(harness: AgentHarness) -> None:
    harness.kernel.rows[POD] = RealServerSpec(7)


def replace_by_another(harness: AgentHarness) -> None:
    del harness.kernel.rows[POD]
    harness.kernel.rows[OTHER_POD] = RealServerSpec(1)


def add_another(harness: AgentHarness) -> None:
    harness.kernel.rows[OTHER_POD] = RealServerSpec(1)


@pytest.mark.parametrize("change", [change_weight, replace_by_another, add_another])
@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("make_kernel", [UnmarkedKernel, ListingKernel])
def test_a_change_of_another_program_is_repaired_by_the_next_round(
    change: Callable[[AgentHarness], None], rounds: int, make_kernel: type[UnmarkedKernel]
) -> None:
    harness = watched(make_kernel())
    for _ in range(rounds):
        harness.advance(MARKS_S)
    before = dict(harness.kernel.rows)
    change(harness)
    harness.advance(MARKS_S)
    harness.advance(60.0)  # a real server that is not wanted drains before it is deleted
    harness.run_all_due()
    assert harness.kernel.rows == before
    assert harness.agent.status().drift_found


@pytest.mark.parametrize("make_kernel", [UnmarkedKernel, ListingWithoutThresholds, MarkedRealServersKernel])
@pytest.mark.parametrize("changed", [RealServerSpec(1, 9, 9), RealServerSpec(1)])
def test_thresholds_of_a_service_that_another_program_changed_are_repaired_by_the_next_round(
    make_kernel: type[UnmarkedKernel], changed: RealServerSpec
) -> None:
    harness = watched(kernel := make_kernel())
    harness.handle(ServiceUpserted(service(settings=ServiceSettings(max_connections=7))))
    assert kernel.rows[POD] == RealServerSpec(1, 7, 7)
    for _ in range(3):
        harness.advance(MARKS_S)
    kernel.rows[POD] = changed
    harness.advance(MARKS_S)
    harness.run_all_due()
    assert kernel.rows[POD] == RealServerSpec(1, 7, 7)


def test_only_virtual_servers_with_thresholds_are_read_besides_the_listing() -> None:
    harness = watched(kernel := ListingWithoutThresholds())
    limited = service("api", ["10.96.0.11"], settings=ServiceSettings(max_connections=7))
    harness.handle(ServiceUpserted(limited), SliceUpserted(endpoint_slice("api")))
    harness.advance(MARKS_S)
    kernel.read_servers.clear()
    kernel.fingerprints_read.clear()
    harness.advance(MARKS_S)
    assert kernel.fingerprints_read == [VirtualServer("10.96.0.11", 80, "TCP")]
    harness.handle(ServiceUpserted(service("api", ["10.96.0.11"])))
    harness.advance(MARKS_S)
    kernel.fingerprints_read.clear()
    harness.advance(MARKS_S)
    assert kernel.fingerprints_read == []


@pytest.mark.parametrize("make_kernel", [UnmarkedKernel, ListingKernel])
def test_a_change_of_another_program_to_what_we_changed_just_now_is_repaired_too(
    make_kernel: type[UnmarkedKernel],
) -> None:
    harness = watched(make_kernel())
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.5", "10.244.1.6"])))
    before = dict(harness.kernel.rows)
    change_weight(harness)
    harness.advance(MARKS_S)
    assert harness.kernel.rows == before


def test_real_servers_deleted_with_their_virtual_server_come_back_with_it() -> None:
    harness = watched(MarkedServersKernel())
    before = dict(harness.kernel.rows)
    del harness.kernel.rows[POD], harness.kernel.rows[SERVER]
    harness.advance(MARKS_S)
    harness.run_all_due()
    assert harness.kernel.rows == before


def test_all_real_servers_deleted_come_back_although_no_mark_shows_it() -> None:
    harness = watched(MarkedServersKernel())
    before = dict(harness.kernel.rows)
    del harness.kernel.rows[POD]
    harness.advance(MARKS_S)
    harness.run_all_due()
    assert harness.kernel.rows == before


def test_what_another_program_undoes_at_once_is_repaired_although_the_listing_is_as_before() -> None:
    harness = watched(kernel := ListingKernel())
    harness.advance(MARKS_S)
    before = kernel.rows_behind(SERVER)
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.5", "10.244.1.6"])))
    after = kernel.rows_behind(SERVER)
    del kernel.rows[RealServer(SERVER, "10.244.1.6", 8080)]
    assert kernel.rows_behind(SERVER) == before == kernel.agreed[SERVER]
    harness.advance(MARKS_S)
    assert kernel.rows_behind(SERVER) == after


def test_what_has_not_changed_is_not_decoded_again() -> None:
    harness = watched(kernel := ListingKernel())
    kernel.asked.clear()
    for _ in range(5):
        harness.advance(MARKS_S)
    assert (kernel.asked, kernel.read_servers) == ([], [])


def test_a_listing_that_fails_is_replaced_by_checks_of_each_virtual_server() -> None:
    harness = watched(kernel := ListingKernel())
    kernel.error = KernelError("no such file")
    before = dict(kernel.rows)
    change_weight(harness)
    harness.advance(MARKS_S)
    assert kernel.rows == before


def test_a_round_that_takes_longer_than_the_marks_is_followed_by_the_next_one_at_once() -> None:
    kernel = ListingKernel()
    harness = watched(kernel)
    for number in range(300):
        address = f"10.97.{number // 250}.{number % 250}"
        harness.agent.handle_event(ServiceUpserted(service(f"web-{number}", [address])), 0)
    harness.run_all_due()
    read = 0

    def take_long() -> None:
        nonlocal read
        read += 1
        harness.now_s += 0.0001

    kernel.advance = take_long
    cost_s, share = 0.0001, 301 * SERVER_SHARE  # a round takes 5 s, two and a half times MARKS_S
    began_s = harness.now_s
    while harness.now_s < began_s + 100.0:
        harness.now_s = max(harness.now_s, harness.agent.due_s())
        harness.agent.run_due(harness.now_s)
    assert 0.8 * 100.0 * share < read * cost_s < 1.1 * 100.0 * share


def test_the_first_round_takes_a_larger_share_because_it_decodes_everything() -> None:
    cost_s, services = 0.0005, 300
    kernel = ListingKernel()
    harness = serving(timing=TIMING, kernel=kernel)
    for number in range(services):
        address = f"10.97.{number // 250}.{number % 250}"
        harness.agent.handle_event(ServiceUpserted(service(f"web-{number}", [address])), 0)
    harness.run_all_due()
    kernel.advance = lambda: setattr(harness, "now_s", harness.now_s + cost_s)
    began_s = harness.now_s
    while len(kernel.agreed) < services + 1:
        harness.now_s = max(harness.now_s, harness.agent.due_s())
        harness.agent.run_due(harness.now_s)
    assert harness.now_s - began_s < MARKS_S + 1.1 * services * cost_s / FIRST_SHARE


@pytest.mark.parametrize("make_kernel", [UnmarkedKernel, ListingKernel])
def test_our_changes_are_no_drift(make_kernel: type[UnmarkedKernel]) -> None:
    harness = watched(make_kernel())
    for number in range(20):
        pods = [f"10.244.1.{pod}" for pod in range(5, 5 + number % 4)]
        harness.handle(ServiceUpserted(service(f"web-{number}", [f"10.96.1.{number}"])))
        harness.handle(SliceUpserted(endpoint_slice(endpoints=pods)))
        harness.advance(MARKS_S)
        harness.run_all_due()
    status = harness.agent.status()
    assert (status.drift_found, status.partial_compares) == ({}, 0)


def test_servers_that_are_not_ours_are_not_read() -> None:
    foreign = VirtualServer("198.51.100.7", 80, "TCP")
    kernel = UnmarkedKernel()
    harness = watched(kernel, exclude=("198.51.100.0/24",))
    kernel.rows[foreign] = VirtualServerSpec()
    kernel.read_servers.clear()
    for _ in range(3):
        harness.advance(MARKS_S)
    assert set(kernel.read_servers) == {SERVER}


def test_checks_take_a_bounded_share_of_the_time_and_reach_every_server() -> None:
    cost_s = 0.0005
    kernel = UnmarkedKernel()
    harness = watched(kernel)
    for number in range(300):
        harness.agent.handle_event(
            ServiceUpserted(service(f"web-{number}", [f"10.97.{number // 250}.{number % 250}"])), 0
        )
    harness.run_all_due()
    kernel.read_servers.clear()
    kernel.advance = lambda: setattr(harness, "now_s", harness.now_s + cost_s)
    began_s, longest_s = harness.now_s, 0.0
    while harness.now_s < began_s + 100.0:
        harness.now_s = max(harness.now_s, harness.agent.due_s())
        slice_began_s = harness.now_s
        harness.agent.run_due(harness.now_s)
        longest_s = max(longest_s, harness.now_s - slice_began_s)
    assert len(kernel.read_servers) * cost_s < 100.0 * min(CHECKS_SHARE, 301 * SERVER_SHARE) + 0.1
    assert set(kernel.read_servers) >= {key for key in kernel.rows if isinstance(key, VirtualServer)}
    assert longest_s < SLICE_S + 20 * cost_s


def test_an_event_is_handled_before_checks_that_are_due() -> None:
    harness = watched(kernel := UnmarkedKernel())
    harness.now_s += MARKS_S
    kernel.read_servers.clear()
    (report,) = harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.5", "10.244.1.99"])))
    assert (report.trigger, kernel.read_servers) == (Trigger.EVENT, [])
    harness.advance(0.0)
    assert kernel.read_servers == [SERVER]


def test_a_changed_weight_is_repaired_although_events_never_end() -> None:
    harness = watched()
    other = "shop/other"
    harness.handle(ServiceUpserted(service(other, ["10.96.0.11"])))
    for number in range(200):
        if number % 50 == 0:
            change_weight(harness)
        harness.now_s += 0.05
        harness.handle(SliceUpserted(endpoint_slice(other, [f"10.244.2.{number}"])))
        if number % 50 == 49:
            assert harness.kernel.rows[POD] == RealServerSpec(1)


def test_checks_on_a_busy_machine_are_not_delayed_by_other_programs() -> None:
    kernel, cpu_s = UnmarkedKernel(), 0.0
    harness = watched(kernel, cpu_clock=lambda: cpu_s)

    def take_long() -> None:
        nonlocal cpu_s
        harness.now_s += 0.5
        cpu_s += 0.0001

    kernel.advance = take_long
    for _ in range(10):
        change_weight(harness)
        harness.advance(MARKS_S)
        harness.run_all_due()
        assert kernel.rows[POD] == RealServerSpec(1)
