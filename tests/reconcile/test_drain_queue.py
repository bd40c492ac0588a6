"""DrainQueue: when connections are counted, and which real servers are deleted."""

from collections.abc import Collection

from kubeproxy_py.model.rows import DRAINING, RealServer, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.reconcile.drain_queue import CHECK_BATCH, FIRST_CHECK_S, MIN_DRAIN_S, DrainQueue

NUMBER = 2 * CHECK_BATCH + 1
SERVERS = [VirtualServer(f"10.96.{number >> 8}.{number & 255}", 80, "TCP") for number in range(NUMBER)]
REMOVED = [RealServer(server, "10.244.1.5", 8080) for server in SERVERS]
DESIRED: Rows = dict.fromkeys(SERVERS, VirtualServerSpec())
ACTUAL: Rows = {**DESIRED, **dict.fromkeys(REMOVED, DRAINING)}


class Counter:
    """An idle query for which each real server has *total* connections; stores its queries."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.queries: list[list[RealServer]] = []

    def __call__(self, keys: Collection[RealServer]) -> Collection[RealServer]:
        self.queries.append(list(keys))
        return () if self.total else keys


def draining() -> DrainQueue:
    """Return a queue in which NUMBER real servers drain since second 0."""
    drain_queue = DrainQueue()
    for key in REMOVED:
        drain_queue.track(key, ACTUAL, DESIRED, 0.0)
    return drain_queue


def collect_all(drain_queue: DrainQueue, idle: Counter, now_s: float) -> list[int]:
    """Return the number of deletions of each call, until nothing is due."""
    counts = []
    while drain_queue.due_s <= now_s:
        plan = drain_queue.collect_finished(idle, now_s)
        counts.append(len(plan))
        for step in plan:
            drain_queue.track(step.key, {}, DESIRED, now_s)
    return counts


def test_connections_are_counted_in_batches_once_for_each_virtual_server() -> None:
    drain_queue, idle = draining(), Counter(0)
    assert collect_all(drain_queue, idle, FIRST_CHECK_S) == [CHECK_BATCH, CHECK_BATCH, 1]
    assert sorted(key for keys in idle.queries for key in map(str, keys)) == sorted(map(str, REMOVED))
    assert len(drain_queue) == 0


def test_busy_real_servers_are_counted_again_after_a_longer_wait() -> None:
    drain_queue, idle = draining(), Counter(1)
    assert collect_all(drain_queue, idle, FIRST_CHECK_S) == [0, 0, 0]
    assert drain_queue.due_s == FIRST_CHECK_S + 2 * FIRST_CHECK_S
    idle.total = 0
    assert sum(collect_all(drain_queue, idle, drain_queue.due_s)) == NUMBER


def test_nothing_is_counted_while_nothing_drains() -> None:
    drain_queue, idle = draining(), Counter(0)
    collect_all(drain_queue, idle, FIRST_CHECK_S)
    collect_all(drain_queue, idle, 1000.0)
    assert len(idle.queries) == 3


def test_failed_deletion_after_the_deadline_is_retried_with_the_next_count() -> None:
    drain_queue, idle = DrainQueue(lambda _key: 0.5), Counter(1)
    drain_queue.track(REMOVED[0], ACTUAL, DESIRED, 0.0)
    assert [step.key for step in drain_queue.collect_finished(idle, 0.5)] == REMOVED[:1]
    assert drain_queue.due_s == FIRST_CHECK_S  # it still drains
    assert [step.key for step in drain_queue.collect_finished(idle, FIRST_CHECK_S)] == REMOVED[:1]


def test_draining_real_servers_are_found_by_their_virtual_server() -> None:
    drain_queue = draining()
    other = RealServer(SERVERS[0], "10.244.1.6", 8080)
    drain_queue.track(other, {**ACTUAL, other: DRAINING}, DESIRED, 0.0)
    assert drain_queue.draining_behind(SERVERS[:2]) == [REMOVED[0], other, REMOVED[1]]
    drain_queue.track(REMOVED[0], {}, DESIRED, 0.0)
    drain_queue.track(REMOVED[0], {}, DESIRED, 0.0)
    assert (drain_queue.draining_behind(SERVERS[:2]), len(drain_queue)) == ([other, REMOVED[1]], NUMBER)


def test_only_idle_real_servers_are_deleted() -> None:
    drain_queue = draining()
    assert [
        step.key for step in drain_queue.collect_finished(lambda keys: [key for key in keys if key == REMOVED[1]], 1.0)
    ] == REMOVED[1:2]


def begin_to_drain(drain_queue: DrainQueue, *times_s: float) -> DrainQueue:
    """Have one real server begin to drain at each of *times_s*; return *drain_queue*."""
    for key, now_s in zip(REMOVED, times_s, strict=False):
        drain_queue.track(key, ACTUAL, DESIRED, now_s)
    return drain_queue


def test_first_check_is_delayed_while_others_begin_to_drain() -> None:
    drain_queue, idle = begin_to_drain(DrainQueue(), *(0.5 * number for number in range(21))), Counter(0)
    assert drain_queue.due_s == MIN_DRAIN_S
    assert [step.key for step in drain_queue.collect_finished(idle, MIN_DRAIN_S)] == REMOVED[:1]
    assert drain_queue.due_s == 0.5 + MIN_DRAIN_S
    assert [step.key for step in drain_queue.collect_finished(idle, 0.5 + MIN_DRAIN_S)] == REMOVED[1:2]


def test_all_are_deleted_a_second_after_the_last_began_to_drain() -> None:
    drain_queue, idle = begin_to_drain(DrainQueue(), 0.0, 0.7, 1.4), Counter(0)
    assert drain_queue.due_s == 1.4 + FIRST_CHECK_S
    assert [step.key for step in drain_queue.collect_finished(idle, drain_queue.due_s)] == REMOVED[:3]


def test_real_server_that_is_desired_again_is_not_counted() -> None:
    drain_queue, idle = begin_to_drain(DrainQueue(), 0.0), Counter(0)
    drain_queue.track(REMOVED[0], {REMOVED[0]: DRAINING}, {**DESIRED, REMOVED[0]: DRAINING}, 0.5)
    assert collect_all(drain_queue, idle, 100.0) == [0]
    assert not idle.queries


def test_busy_real_servers_are_counted_again_while_others_keep_beginning_to_drain() -> None:
    drain_queue, busy = DrainQueue(), REMOVED[0]
    busy_queries = []

    def idle(keys: Collection[RealServer]) -> Collection[RealServer]:
        busy_queries.append(busy in keys)
        return [key for key in keys if key != busy]

    for number, key in enumerate(REMOVED):
        drain_queue.track(key, ACTUAL, DESIRED, 0.5 * number)
        for step in drain_queue.collect_finished(idle, 0.5 * number):
            drain_queue.track(step.key, {}, DESIRED, 0.5 * number)
    assert sum(busy_queries) > 3  # at 10 s, and after 2, 2, 4, ...
