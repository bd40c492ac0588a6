"""Counting the connections of what drains: in turns, each virtual server once."""

from collections.abc import Collection, Mapping

from kubeproxy_py.model.rows import DRAINING, Connections, RealServer, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.plan.drain import COUNTED_AT_ONCE, FIRST_CHECK_S, Draining

NUMBER = 2 * COUNTED_AT_ONCE + 1
SERVERS = [VirtualServer(f"10.96.{number >> 8}.{number & 255}", 80, "TCP") for number in range(NUMBER)]
LEFT = [RealServer(server, "10.244.1.5", 8080) for server in SERVERS]
DESIRED: Rows = dict.fromkeys(SERVERS, VirtualServerSpec())
ACTUAL: Rows = {**DESIRED, **dict.fromkeys(LEFT, DRAINING)}


class Counter:
    """Answers that each real server has as many connections as *total*, and knows what it was asked."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.asked: list[list[VirtualServer]] = []

    def __call__(self, servers: Collection[VirtualServer]) -> Mapping[RealServer, Connections]:
        self.asked.append(list(servers))
        return {RealServer(server, "10.244.1.5", 8080): Connections(self.total, 0) for server in servers}


def draining() -> Draining:
    """NUMBER real servers that drain since second 0."""
    made = Draining()
    for key in LEFT:
        made.note(key, ACTUAL, DESIRED, 0.0)
    return made


def turns(made: Draining, count: Counter, now_s: float) -> list[int]:
    """How many went at each turn, until no more is due."""
    gone = []
    while made.due_s <= now_s:
        plan = made.let_go(count, now_s)
        gone.append(len(plan))
        for step in plan:
            made.note(step.key, {}, DESIRED, now_s)
    return gone


def test_a_count_goes_in_turns_and_asks_of_each_once() -> None:
    made, count = draining(), Counter(0)
    assert turns(made, count, FIRST_CHECK_S) == [COUNTED_AT_ONCE, COUNTED_AT_ONCE, 1]
    assert sorted(key for asked in count.asked for key in map(str, asked)) == sorted(map(str, SERVERS))
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
    made, count = Draining(lambda _key: 0.5), Counter(1)
    made.note(LEFT[0], ACTUAL, DESIRED, 0.0)
    assert [step.key for step in made.let_go(count, 0.5)] == LEFT[:1]
    assert made.due_s == FIRST_CHECK_S  # and it still drains, for nobody noted otherwise
    assert [step.key for step in made.let_go(count, FIRST_CHECK_S)] == LEFT[:1]


def test_what_drains_is_found_by_its_virtual_server() -> None:
    made = draining()
    other = RealServer(SERVERS[0], "10.244.1.6", 8080)
    made.note(other, {**ACTUAL, other: DRAINING}, DESIRED, 0.0)
    assert made.behind(SERVERS[:2]) == [LEFT[0], other, LEFT[1]]
    made.note(LEFT[0], {}, DESIRED, 0.0)
    made.note(LEFT[0], {}, DESIRED, 0.0)
    assert (made.behind(SERVERS[:2]), len(made)) == ([other, LEFT[1]], NUMBER)
