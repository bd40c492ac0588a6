"""Which Service port has which firewall mark, and when one may be given to another."""

from kubeproxy_py.compile.mark_numbers import MarkNumbers, MarkOwner
from kubeproxy_py.model.policy_marks import MarkRange, foreign_mark_servers
from kubeproxy_py.model.rows import (
    Ipset,
    IpsetSpec,
    MarkSpec,
    PolicyEntry,
    RealServer,
    RealServerSpec,
    Rows,
    VirtualServerSpec,
    mark_server,
)
from kubeproxy_py.model.services import ObjectName
from kubeproxy_py.net import Family, Protocol

SMALL = MarkRange(0b111)  # the numbers 1, 2 and 3
PLAIN = VirtualServerSpec()
SET: Rows = {Ipset("KUBE-PY-INSIDE"): IpsetSpec("hash:ip,port skbinfo", "IPv4")}


def owner(name: str, port: str = "http", protocol: Protocol = "TCP", family: Family = "IPv4") -> MarkOwner:
    return MarkOwner(ObjectName("shop", name), port, protocol, family)


def front(name: str) -> str:
    return f"203.0.113.{1 + ord(name[0]) % 200},tcp:80"


def numbers(mark_range: MarkRange = SMALL) -> MarkNumbers:
    made = MarkNumbers()
    made.use(mark_range)
    return made


def give(made: MarkNumbers, *names: str) -> list[int]:
    return [made.mark_of(owner(name), [front(name)]) for name in names]


def release(made: MarkNumbers, name: str) -> None:
    """Release the mark of *name*, which was desired."""
    mark = made.mark_of(owner(name), [])
    made.retain(ObjectName("shop", name), (), {mark_server("IPv4", mark): PLAIN})


def of_kernel(*marks: tuple[str, int]) -> Rows:
    """Return the rows of a kernel whose set has each front with its mark, and the virtual servers."""
    entries: Rows = {PolicyEntry("KUBE-PY-INSIDE", front(name)): MarkSpec(mark) for name, mark in marks}
    return SET | entries | {mark_server("IPv4", mark): PLAIN for _, mark in marks}


def test_a_mark_has_the_flag_and_a_number() -> None:
    usual = MarkRange()
    assert (usual.flag, usual.capacity, usual.mark(1), usual.mark(8191)) == (0x2000, 8191, 0x2001, 0x3FFF)
    shifted = MarkRange(0xFF0000)
    assert (shifted.flag, shifted.capacity, shifted.mark(1)) == (0x800000, 127, 0x810000)
    marks = [0x2001, 0x3FFF, 0x2000, 0x1FFF, 0x6001]
    assert [mark in usual for mark in marks] == [True, True, False, False, False]


def test_no_two_service_ports_have_one_mark_and_each_keeps_its_own() -> None:
    made = numbers()
    marks = give(made, "a", "b", "c")
    assert sorted(marks) == [0b101, 0b110, 0b111]
    assert give(made, "a", "b", "c") == marks


def test_families_have_numbers_of_their_own() -> None:
    made = numbers(MarkRange(0b11))
    marks = [made.mark_of(owner("a", family=family), []) for family in ("IPv4", "IPv6")]
    assert marks == [0b11, 0b11]
    assert made.is_exhausted("IPv4")


def test_a_service_port_beyond_the_last_number_has_none_until_one_is_free() -> None:
    made = numbers()
    give(made, "a", "b", "c")
    assert give(made, "d") == [0]
    assert made.without == {owner("d")}
    release(made, "a")
    assert give(made, "d") == [0]  # that of a rests
    assert made.end_rest(lambda _server: False)
    (mark,) = give(made, "d")
    assert mark
    assert made.without == set()


def test_a_mark_rests_while_its_virtual_server_has_real_servers() -> None:
    made = numbers()
    (mark,) = give(made, "a")
    release(made, "a")
    server = mark_server("IPv4", mark)
    assert made.resting == {server: PLAIN}
    assert not made.end_rest(lambda _server: True)
    assert mark not in give(made, "b", "c")
    assert made.end_rest(lambda _server: False)
    assert made.resting == {}
    assert give(made, "d") == [mark]


def test_a_service_port_that_needs_a_mark_again_gets_the_one_that_rests() -> None:
    made = numbers()
    marks = give(made, "a", "b", "c")
    release(made, "b")
    assert give(made, "b") == marks[1:2]
    assert made.resting == {}


def test_the_marks_of_the_kernels_set_are_kept_after_a_restart() -> None:
    made = numbers(MarkRange())
    made.adopt(of_kernel(("a", 0x2AAA), ("b", 0x2BBB)), MarkRange())
    assert give(made, "b", "a") == [0x2BBB, 0x2AAA]
    assert made.resting == {}


def test_a_mark_of_the_kernel_that_no_service_port_has_rests() -> None:
    made = numbers(MarkRange())
    made.adopt(of_kernel(("a", 0x2AAA)), MarkRange())
    made.forget_found()
    assert made.resting == {mark_server("IPv4", 0x2AAA): PLAIN}


def test_of_two_service_ports_at_one_frontend_the_first_keeps_its_mark() -> None:
    made = numbers(MarkRange())
    made.adopt(of_kernel(("a", 0x2AAA)), MarkRange())
    first, second = made.mark_of(owner("a"), [front("a")]), made.mark_of(owner("b"), [front("a")])
    assert first == 0x2AAA != second


def test_virtual_servers_by_mark_are_ours_while_the_set_exists_and_by_their_mark() -> None:
    ours, other = mark_server("IPv4", 0x2001), mark_server("IPv4", 7)
    rows: Rows = {ours: PLAIN, other: PLAIN, RealServer(other, "10.0.0.1", 80): RealServerSpec()}
    assert foreign_mark_servers(rows, {}, MarkRange()) == {ours, other}
    assert foreign_mark_servers(rows, SET, MarkRange()) == {other}
    assert foreign_mark_servers(rows, SET, MarkRange(0xF0)) == {ours, other}
    named = SET | {PolicyEntry("KUBE-PY-INSIDE", front("a")): MarkSpec(0x2001)}
    assert foreign_mark_servers(rows, named, MarkRange(0xF0)) == {other}
