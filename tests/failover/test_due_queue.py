"""DueQueue: endpoints in the order in which they are due."""

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.failover.due_queue import DueQueue
from kubeproxy_py.model.time import NEVER

PLACES = [(f"10.244.1.{number}", 8080) for number in range(6)]
CHANGES = st.lists(st.tuples(st.sampled_from(PLACES), st.none() | st.integers(0, 9)), max_size=400)


@given(CHANGES)
def test_endpoints_come_in_the_order_of_their_last_times(changes: list[tuple[tuple[str, int], int | None]]) -> None:
    queue, expected = DueQueue(), dict[tuple[str, int], float]()
    for place, due_s in changes:
        if due_s is None:
            queue.discard(place)
            expected.pop(place, None)
        else:
            queue.add(place, due_s)
            expected[place] = due_s
    assert [place for place in PLACES if place in queue] == [place for place in PLACES if place in expected]
    for place in sorted(expected, key=lambda place: (expected[place], place)):
        assert queue.next_s() == expected[place]
        assert queue.pop() == place
    assert queue.next_s() == NEVER


def test_outdated_times_do_not_accumulate() -> None:
    queue = DueQueue()
    for number in range(1000):
        queue.add(PLACES[0], float(number))
    assert len(queue._heap) < 100
    assert (queue.next_s(), queue.pop()) == (999.0, PLACES[0])
