"""Counting the connections of what drains: in turns, each virtual server once."""

from collections.abc import Collection

from kubeproxy_py.model.rows import DRAINING, RealServer, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.reconcile.drain_queue import CHECK_BATCH, FIRST_CHECK_S, MIN_DRAIN_S, DrainQueue

NUMBER = 2 * CHECK_BATCH + 1
SERVERS = [VirtualServer(f"10.96.{number >> 8}.{number & 255}", 80, "TCP") for number in range(NUMBER)]
LEFT = [RealServer(server, "10.244.1.5", 8080) for server in SERVERS]
DESIRED: Rows = dict.fromkeys(SERVERS, VirtualServerSpec())
ACTUAL: Rows = {**DESIRED, **dict.fromkeys(LEFT, DRAINING)}


class Counter:
    """Answers that each real server has as many connections as *total*, and knows what it was asked."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.asked: list[list[RealServer]] = []

    def __call__(self, keys: Collection[RealServer]) -> Collection[RealServer]:
        self.asked.append(list(keys))
        return () if self.total else keys


def draining() -> DrainQueue:
    """NUMBER real servers that drain since second 0."""
    made = DrainQueue()
    for key in LEFT:
        made.track(key, ACTUAL, DESIRED, 0.0)
    return made


def turns(made: DrainQueue, count: Counter, now_s: float) -> list[int]:
    """How many went at each turn, until no more is due."""
    gone = []
    while made.due_s <= now_s:
        plan = made.collect_finished(count, now_s)
        gone.append(len(plan))
        for step in plan:
            made.track(step.key, {}, DESIRED, now_s)
    return gone


def test_a_count_goes_in_turns_and_asks_of_each_once() -> None:
    made, count = draining(), Counter(0)
    assert turns(made, count, FIRST_CHECK_S) == [CHECK_BATCH, CHECK_BATCH, 1]
    assert sorted(key for asked in count.asked for key in map(str, asked)) == sorted(map(str, LEFT))
    assert len(made) == 0


def test_what_is_busy_is_counted_again_only_after_the_next_wait() -> None:
    made, count = draining(), Counter(1)
    assert turns(made, count, FIRST_CHECK_S) == [0, 0, 0]
    assert made.due_s == FIRST_CHECK_S + 2 * FIRST_CHECK_S
    count.total = 0
    assert sum(turns(made, count, made.due_s)) == NUMBER


def test_nothing_is_counted_while_nothing_drains() -> None:
    made, count = draining(), Counter(0)
    turns(made, count, FIRST_CHECK_S)
    turns(made, count, 1000.0)
    assert len(count.asked) == 3


def test_what_the_kernel_would_not_let_go_after_its_time_is_tried_again_at_the_next_count() -> None:
    made, count = DrainQueue(lambda _key: 0.5), Counter(1)
    made.track(LEFT[0], ACTUAL, DESIRED, 0.0)
    assert [step.key for step in made.collect_finished(count, 0.5)] == LEFT[:1]
    assert made.due_s == FIRST_CHECK_S  # and it still drains, for nobody noted otherwise
    assert [step.key for step in made.collect_finished(count, FIRST_CHECK_S)] == LEFT[:1]


def test_what_drains_is_found_by_its_virtual_server() -> None:
    made = draining()
    other = RealServer(SERVERS[0], "10.244.1.6", 8080)
    made.track(other, {**ACTUAL, other: DRAINING}, DESIRED, 0.0)
    assert made.draining_behind(SERVERS[:2]) == [LEFT[0], other, LEFT[1]]
    made.track(LEFT[0], {}, DESIRED, 0.0)
    made.track(LEFT[0], {}, DESIRED, 0.0)
    assert (made.draining_behind(SERVERS[:2]), len(made)) == ([other, LEFT[1]], NUMBER)


def test_what_is_not_told_as_idle_stays() -> None:
    made = draining()
    assert [
        step.key for step in made.collect_finished(lambda keys: [key for key in keys if key == LEFT[1]], 1.0)
    ] == LEFT[1:2]


def began(made: DrainQueue, *each_s: float) -> DrainQueue:
    """Let one begin to drain at each of these seconds."""
    for key, now_s in zip(LEFT, each_s, strict=False):
        made.track(key, ACTUAL, DESIRED, now_s)
    return made


def test_while_others_begin_to_drain_each_stays_for_longer() -> None:
    made, count = began(DrainQueue(), *(0.5 * number for number in range(21))), Counter(0)
    assert made.due_s == MIN_DRAIN_S
    assert [step.key for step in made.collect_finished(count, MIN_DRAIN_S)] == LEFT[:1]
    assert made.due_s == 0.5 + MIN_DRAIN_S
    assert [step.key for step in made.collect_finished(count, 0.5 + MIN_DRAIN_S)] == LEFT[1:2]


def test_when_no_more_begin_to_drain_all_go_a_second_later() -> None:
    made, count = began(DrainQueue(), 0.0, 0.7, 1.4), Counter(0)
    assert made.due_s == 1.4 + FIRST_CHECK_S
    assert [step.key for step in made.collect_finished(count, made.due_s)] == LEFT[:3]


def test_one_that_is_wanted_again_is_not_counted() -> None:
    made, count = began(DrainQueue(), 0.0), Counter(0)
    made.track(LEFT[0], {LEFT[0]: DRAINING}, {**DESIRED, LEFT[0]: DRAINING}, 0.5)
    assert turns(made, count, 100.0) == [0]
    assert not count.asked


def test_those_with_connections_are_counted_again_though_others_begin_all_the_time() -> None:
    made, busy = DrainQueue(), LEFT[0]
    asked = []

    def count(keys: Collection[RealServer]) -> Collection[RealServer]:
        asked.append(busy in keys)
        return [key for key in keys if key != busy]

    for number, key in enumerate(LEFT):
        made.track(key, ACTUAL, DESIRED, 0.5 * number)
        for step in made.collect_finished(count, 0.5 * number):
            made.track(step.key, {}, DESIRED, 0.5 * number)
    assert sum(asked) > 3  # at 10 s, and after 2, 2, 4, ...
