"""RetryQueue: rows that wait for others."""

from kubeproxy_py.model.rows import Address, Chain, Ipset, RealServer, VirtualServer
from kubeproxy_py.model.steps import Step
from kubeproxy_py.reconcile.retry_queue import LOOP_TIMEOUT_RETRY_S, WAIT_S, RetryQueue

CHAIN = Chain("IPv4", "nat", "KUBE-SERVICES")
SERVER = VirtualServer("192.168.3.10", 30080, "TCP")
POD = RealServer(SERVER, "10.244.1.5", 8080)
OTHER = Address("10.96.0.9")
SET = Ipset("KUBE-CLUSTER-IP")


def failed_queue() -> RetryQueue:
    """Return a queue in which a chain failed, a virtual server waits for it, and a real server for that."""
    queue = RetryQueue()
    queue.record_outcome((), {CHAIN: None, SERVER: CHAIN, POD: SERVER, OTHER: None}, 100.0)
    return queue


def test_rows_that_wait_are_due_with_all_that_wait_for_them_when_the_first_is_done() -> None:
    queue = failed_queue()
    assert queue.due(100.6) == [CHAIN, OTHER]
    queue.record_outcome([CHAIN, OTHER], {OTHER: None}, 100.6)
    assert queue.due(100.6) == [SERVER, POD]
    assert queue.has_new


def test_rows_that_wait_are_not_tried_while_the_first_fails() -> None:
    queue = failed_queue()
    queue.record_outcome([CHAIN, OTHER], {CHAIN: None, OTHER: None}, 100.6)
    assert SERVER not in queue.due(110.0)
    assert SERVER in queue.due(100.0 + WAIT_S)


def test_others_are_the_pending_keys_that_are_not_due() -> None:
    queue = failed_queue()
    assert queue.others([CHAIN, OTHER]) == [SERVER, POD]
    assert queue.others(list(queue.keys)) == []


def test_waiting_are_the_keys_that_wait_without_having_failed() -> None:
    queue = failed_queue()
    assert queue.waiting == [SERVER, POD]
    assert queue.failed == [CHAIN, OTHER]
    queue.enqueue([SERVER])
    assert queue.waiting == [POD]


def test_a_rule_whose_program_hung_is_retried_after_a_time_that_grows_to_a_minute() -> None:
    queue, now_s = RetryQueue(), 100.0
    for delay_s in (5.0, 10.0, 20.0, 40.0, 60.0, 60.0):
        queue.record_outcome((), {CHAIN: None, OTHER: None}, now_s, timed_out={CHAIN})
        assert CHAIN not in queue.due(now_s + delay_s - 0.1)
        now_s += delay_s
        assert CHAIN in queue.due(now_s)


def test_a_row_for_whose_program_the_loop_waits_is_retried_after_a_minute() -> None:
    queue = RetryQueue()
    queue.record_outcome((), {SET: None, OTHER: None}, 100.0, timed_out={SET})
    assert queue.due(110.0) == [OTHER]
    assert queue.due(100.0 + LOOP_TIMEOUT_RETRY_S) == [SET, OTHER]


def test_a_row_whose_step_is_under_way_is_due_only_when_it_has_ended() -> None:
    queue = failed_queue()
    steps = [Step("add", SERVER), Step("add", OTHER)]
    queue.begin(steps)
    queue.enqueue([OTHER])  # it changed
    queue.record_outcome([CHAIN], {}, 100.6)  # SERVER waited for it before it was tried
    assert queue.due(10_000.0) == [POD]
    assert not {SERVER, OTHER} - set(queue.keys)
    queue.end([SERVER, OTHER])
    queue.record_outcome([SERVER, OTHER], {OTHER: None}, 101.0)
    assert OTHER not in queue.due(101.9)
    assert OTHER in queue.due(102.1), "after 1 s, because its earlier failure counts"
