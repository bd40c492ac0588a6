"""The netlink adapters on a real kernel, compared with the output of ipvsadm, ipset and ip."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from errno import ENODEV, ENOENT, EPERM, ESRCH
from pathlib import Path

import pytest

from kubeproxy_py.kernel import LINK, VIRTUAL_SERVERS, ipset_scope
from kubeproxy_py.kernel.address.adapter import AddressAdapter
from kubeproxy_py.kernel.address.monitor import AddressMonitor
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.ipset.adapter import IpsetAdapter
from kubeproxy_py.kernel.ipset.command import IpsetCommandAdapter
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.kernel.ipvs.constants import FAMILY_NAME, SVC_PROTOCOL, Timeouts
from kubeproxy_py.kernel.ipvs.decode import FOREIGN_FORWARDING
from kubeproxy_py.kernel.ipvs.encode import encode_steps
from kubeproxy_py.kernel.netlink.attributes import u16
from kubeproxy_py.kernel.netlink.socket import NETLINK_GENERIC, Message, NetlinkError, Socket, generic_family_id
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.events import AddressesChanged
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import (
    DRAINING,
    FLAG_PERSISTENT,
    FLAG_SCHED_1,
    FLAG_SCHED_2,
    IPVS_DEVICE,
    SERVING,
    Address,
    Connections,
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Key,
    Link,
    RealServer,
    RealServerSpec,
    Rows,
    Spec,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.net import FAMILIES
from lab import linux
from tests import wire
from tests.e2e.agent_process import wait_until

pytestmark = pytest.mark.kernel

WEB = VirtualServer("10.96.0.10", 80, "TCP")
DNS = VirtualServer("fd00:96::10", 53, "UDP")
SIGNAL = VirtualServer("203.0.113.7", 2905, "SCTP")
POD = RealServer(WEB, "10.244.1.5", 8080)
CLUSTER_IP = "KUBE-CLUSTER-IP"
NOTIFIED_WITHIN_S = 20.0  # a debounce of 50 ms, and time for a busy machine


@pytest.fixture(autouse=True)
def _own_network_namespace() -> Iterator[None]:
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    linux.unshare(linux.CLONE_NEWNET)
    linux.raise_loopback()
    yield
    linux.setns(before, linux.CLONE_NEWNET)
    os.close(before)


@pytest.fixture(params=["getsockopt", "netlink"])
def ipvs(request: pytest.FixtureRequest) -> Iterator[IpvsAdapter]:
    """An adapter that reads IPv4 real servers in this way; IPv6 ones are read by netlink in either case."""
    adapter = IpvsAdapter(use_getsockopt=request.param == "getsockopt")
    yield adapter
    adapter.close()


@pytest.fixture(params=[IpsetAdapter, IpsetCommandAdapter])
def ipset(request: pytest.FixtureRequest) -> Iterator[IpsetAdapter | IpsetCommandAdapter]:
    adapter: IpsetAdapter | IpsetCommandAdapter = request.param(FAMILIES)
    yield adapter
    adapter.close()


@pytest.fixture
def address() -> Iterator[AddressAdapter]:
    adapter = AddressAdapter()
    yield adapter
    adapter.close()


def add(key: Key, spec: Spec = None) -> Step:
    return Step("add", key, spec)


def update(key: Key, spec: Spec = None, before: Spec = None) -> Step:
    return Step("update", key, spec, before)


def delete(key: Key) -> Step:
    return Step("delete", key)


def adding(rows: Rows) -> list[Step]:
    return [add(key, spec) for key, spec in rows.items()]


def output_of(*argv: str) -> list[str]:
    """Run a command and return the lines of its output, sorted."""
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{argv}: {result.stderr}"
    return sorted(line.strip() for line in result.stdout.splitlines())


def errnos(failures: list[StepFailure]) -> dict[Key, int]:
    return {failure.step.key: failure.errno for failure in failures}


def real_servers(ipvs: IpvsAdapter, *virtual_servers: VirtualServer) -> Rows:
    """Return the real servers of *virtual_servers*."""
    return {key: spec for server in virtual_servers for key, spec in ipvs.real_servers(server).rows().items()}


def pods(virtual_server: VirtualServer, count: int) -> list[RealServer]:
    return [RealServer(virtual_server, f"10.244.{i >> 8}.{i & 255}", 8080) for i in range(1, count + 1)]


@contextmanager
def without_privileges() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class CountingSocket:
    """Counts the messages and passes them to the real socket."""

    def __init__(self, real: Socket) -> None:
        self._real = real
        self.sent = 0

    def execute(self, messages: Iterable[Message]) -> dict[int, NetlinkError]:
        batch = list(messages)
        self.sent += len(batch)
        return self._real.execute(batch)

    def close(self) -> None:
        self._real.close()


# IPVS


SERVERS: Rows = {
    WEB: VirtualServerSpec(),
    DNS: VirtualServerSpec("wlc", FLAG_PERSISTENT, 600),
    SIGNAL: VirtualServerSpec("mh", FLAG_SCHED_2),
    POD: SERVING,
    RealServer(WEB, "127.0.0.1", 8080): SERVING,
    RealServer(DNS, "fd00:10:244:1::5", 5353): DRAINING,
    RealServer(SIGNAL, "10.244.2.6", 9000): SERVING,
}


def test_ipvsadm_shows_the_servers_that_were_added(ipvs: IpvsAdapter) -> None:
    assert ipvs.apply(adding(SERVERS)) == []
    assert output_of("ipvsadm", "-Sn") == sorted(
        [
            "-A -t 10.96.0.10:80 -s rr",
            "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1",
            "-a -t 10.96.0.10:80 -r 127.0.0.1:8080 -m -w 1",
            "-A -u [fd00:96::10]:53 -s wlc -p 600",
            "-a -u [fd00:96::10]:53 -r [fd00:10:244:1::5]:5353 -m -w 0",
            "-A --sctp-service 203.0.113.7:2905 -s mh -b mh-port",
            "-a --sctp-service 203.0.113.7:2905 -r 10.244.2.6:9000 -m -w 1",
        ]
    )


def test_servers_read_back_as_written(ipvs: IpvsAdapter) -> None:
    ipvs.apply(adding(SERVERS))
    assert ipvs.read(VIRTUAL_SERVERS) == SERVERS


def test_servers_that_ipvsadm_added_are_read(ipvs: IpvsAdapter) -> None:
    output_of("ipvsadm", "-A", "-u", "[fd00:96::10]:53", "-s", "wlc", "-p", "600")
    output_of("ipvsadm", "-a", "-u", "[fd00:96::10]:53", "-r", "[fd00:10:244:1::5]:5353", "-m", "-w", "0")
    assert ipvs.read(VIRTUAL_SERVERS) == {
        DNS: SERVERS[DNS],
        RealServer(DNS, "fd00:10:244:1::5", 5353): DRAINING,
    }


LIMITED: Rows = {
    WEB: VirtualServerSpec("wrr", FLAG_PERSISTENT, 600, "255.255.255.0"),
    DNS: VirtualServerSpec("sh", FLAG_PERSISTENT | FLAG_SCHED_1 | FLAG_SCHED_2, 172800, "64"),
    POD: RealServerSpec(65535, 2**31 - 1, 2**31 - 1),
    RealServer(WEB, "10.244.1.6", 8080): RealServerSpec(1, 9, 7),
    RealServer(DNS, "fd00:10:244:1::5", 5353): RealServerSpec(0, 9, 3),
}


def test_thresholds_masks_and_flags_read_back_as_written(ipvs: IpvsAdapter) -> None:
    assert ipvs.apply(adding(LIMITED)) == []
    assert ipvs.read(VIRTUAL_SERVERS) == LIMITED
    listed = output_of("ipvsadm", "-Sn")
    assert "-A -t 10.96.0.10:80 -s wrr -p 600 -M 255.255.255.0" in listed
    assert any(line.startswith("-A -u [fd00:96::10]:53 -s sh -p 172800 -M 64") for line in listed)
    for rows in (SERVERS, LIMITED):
        present = {key: rows[key] for key in (WEB, DNS, POD)}
        assert ipvs.apply([update(key, spec) for key, spec in present.items()]) == []
        read = ipvs.read(VIRTUAL_SERVERS)
        assert {key: read[key] for key in present} == present


def test_a_fingerprint_changes_with_a_threshold(ipvs: IpvsAdapter) -> None:
    for server, pod in ((WEB, POD), (DNS, RealServer(DNS, "fd00:10:244:1::5", 5353))):
        assert ipvs.apply(adding({server: VirtualServerSpec(), pod: SERVING})) == []
        prints = [ipvs.fingerprint(server)]
        for spec in (RealServerSpec(1, 5, 0), RealServerSpec(1, 5, 5), RealServerSpec(1, 7, 5), SERVING):
            assert ipvs.apply([update(pod, spec)]) == []
            prints.append(ipvs.fingerprint(server))
            assert prints[-1] == ipvs.real_servers(server).fingerprint()
        assert len(set(prints)) == 4
        assert prints[0] == prints[-1]


def test_an_updated_virtual_server_keeps_its_real_servers(ipvs: IpvsAdapter) -> None:
    ipvs.apply(adding({WEB: VirtualServerSpec("rr", FLAG_PERSISTENT, 600), POD: SERVING}))
    assert ipvs.apply([update(WEB, VirtualServerSpec("lc"))]) == []
    assert ipvs.read(VIRTUAL_SERVERS) == {WEB: VirtualServerSpec("lc"), POD: SERVING}


def test_a_weight_is_updated_in_place(ipvs: IpvsAdapter) -> None:
    ipvs.apply(adding({WEB: VirtualServerSpec(), POD: SERVING}))
    assert ipvs.apply([update(POD, DRAINING)]) == []
    assert ipvs.read(VIRTUAL_SERVERS)[POD] == DRAINING


def test_adding_existing_servers_updates_them(ipvs: IpvsAdapter) -> None:
    ipvs.apply(adding({WEB: VirtualServerSpec("wlc"), POD: DRAINING}))
    assert ipvs.apply(adding({WEB: VirtualServerSpec("rr"), POD: SERVING})) == []
    assert ipvs.read(VIRTUAL_SERVERS) == {WEB: VirtualServerSpec("rr"), POD: SERVING}


def test_deleting_missing_servers_succeeds(ipvs: IpvsAdapter) -> None:
    ipvs.apply(adding({WEB: VirtualServerSpec()}))
    assert ipvs.apply([delete(POD), delete(DNS), delete(RealServer(DNS, "fd00::1", 53))]) == []


def test_each_ipvs_failure_has_the_errno_of_the_kernel(ipvs: IpvsAdapter) -> None:
    ipvs.apply(adding({WEB: VirtualServerSpec()}))
    orphan = RealServer(SIGNAL, "10.244.1.5", 9000)
    failures = ipvs.apply([add(orphan, SERVING), update(DNS, VirtualServerSpec()), update(POD, SERVING)])
    assert errnos(failures) == {orphan: ESRCH, DNS: ESRCH, POD: ENOENT}


def test_the_failure_for_an_unknown_scheduler_names_it(ipvs: IpvsAdapter) -> None:
    (failure,) = ipvs.apply([add(WEB, VirtualServerSpec("nonesuch"))])
    assert (failure.errno, "nonesuch" in failure.message) == (ENOENT, True)


def test_one_bad_real_server_in_a_batch_does_not_affect_others(ipvs: IpvsAdapter) -> None:
    good = pods(WEB, 1000)
    bad = RealServer(SIGNAL, "10.244.1.5", 9000)
    steps = [add(WEB, VirtualServerSpec()), *(add(pod, SERVING) for pod in good)]
    assert errnos(ipvs.apply([*steps[:500], add(bad, SERVING), *steps[500:]])) == {bad: ESRCH}
    assert set(ipvs.read(VIRTUAL_SERVERS)) == {WEB, *good}


def test_ipvs_errors_are_complete_when_the_receive_buffer_overflows(ipvs: IpvsAdapter) -> None:
    ipvs._netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    good, bad = pods(WEB, 600), pods(SIGNAL, 600)
    mixed = [add(server, SERVING) for pair in zip(good, bad, strict=True) for server in pair]
    failures = ipvs.apply([add(WEB, VirtualServerSpec()), *mixed])
    assert errnos(failures) == dict.fromkeys(bad, ESRCH)
    assert set(ipvs.read(VIRTUAL_SERVERS)) == {WEB, *good}


def test_deleting_a_virtual_server_with_its_real_servers_takes_one_message(
    ipvs: IpvsAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ipvs.apply(adding({WEB: VirtualServerSpec(), DNS: VirtualServerSpec(), **dict.fromkeys(pods(WEB, 9), SERVING)}))
    counted = CountingSocket(ipvs._netlink)
    monkeypatch.setattr(ipvs, "_socket", counted)
    assert ipvs.apply([*(delete(pod) for pod in pods(WEB, 9)), delete(WEB)]) == []
    assert counted.sent == 1
    monkeypatch.undo()
    assert set(ipvs.read(VIRTUAL_SERVERS)) == {DNS}


def test_deletes_of_real_servers_fail_with_that_of_their_virtual_server(ipvs: IpvsAdapter) -> None:
    ipvs.apply(adding({WEB: VirtualServerSpec(), POD: SERVING}))
    with without_privileges():
        failures = ipvs.apply([delete(POD), delete(WEB)])
    assert errnos(failures) == {POD: EPERM, WEB: EPERM}


def test_services_by_firewall_mark_are_ignored(ipvs: IpvsAdapter) -> None:
    output_of("ipvsadm", "-A", "-f", "7", "-s", "rr")
    ipvs.apply(adding({WEB: VirtualServerSpec()}))
    assert ipvs.read(VIRTUAL_SERVERS) == {WEB: VirtualServerSpec()}


def test_a_virtual_server_of_a_protocol_that_no_service_has_is_ignored(ipvs: IpvsAdapter) -> None:
    ipvs.apply(adding({WEB: VirtualServerSpec()}))
    with closing(Socket(NETLINK_GENERIC)) as netlink:
        (new,) = encode_steps([add(WEB, VirtualServerSpec())], generic_family_id(netlink, FAMILY_NAME))
        esp = new.replace(u16(SVC_PROTOCOL, socket.IPPROTO_TCP), u16(SVC_PROTOCOL, socket.IPPROTO_ESP))
        assert netlink.execute([esp]) == {}
    assert ipvs.read(VIRTUAL_SERVERS) == {WEB: VirtualServerSpec()}
    assert list(ipvs.traffic()) == [WEB]


def test_updating_a_direct_routing_real_server_makes_it_masquerade(ipvs: IpvsAdapter) -> None:
    ipvs.apply(adding({WEB: VirtualServerSpec()}))
    same_port = RealServer(WEB, "10.244.1.5", 80)
    output_of("ipvsadm", "-a", "-t", "10.96.0.10:80", "-r", "10.244.1.5:80", "-g")
    assert ipvs.read(VIRTUAL_SERVERS)[same_port] == FOREIGN_FORWARDING
    assert ipvs.apply([update(same_port, SERVING)]) == []
    assert "-a -t 10.96.0.10:80 -r 10.244.1.5:80 -m -w 1" in output_of("ipvsadm", "-Sn")


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 500, 2])
def test_any_number_of_real_servers_is_read(ipvs: IpvsAdapter, count: int) -> None:
    wanted: Rows = dict.fromkeys(pods(WEB, count), SERVING)
    assert ipvs.apply(adding({WEB: VirtualServerSpec(), **wanted})) == []
    assert real_servers(ipvs, WEB, VirtualServer("10.96.0.99", 80, "TCP")) == wanted


def test_reading_few_real_servers_after_many_returns_few(ipvs: IpvsAdapter) -> None:
    other = VirtualServer("10.96.0.11", 80, "TCP")
    many: Rows = dict.fromkeys(pods(WEB, 100), SERVING)
    few: Rows = {RealServer(other, "10.244.9.9", 1): DRAINING}
    assert ipvs.apply(adding({WEB: VirtualServerSpec(), other: VirtualServerSpec(), **many, **few})) == []
    for _ in range(2):
        assert real_servers(ipvs, WEB, other) == {**many, **few}
    assert real_servers(ipvs, other, VirtualServer("10.96.0.99", 80, "TCP"), other) == few


def test_netlink_is_used_where_getsockopt_fails(ipvs: IpvsAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(EPERM, "refused by the test")

    monkeypatch.setattr(SocketOptions, "get", refuse)
    assert ipvs.apply(adding({WEB: VirtualServerSpec(), POD: SERVING})) == []
    assert real_servers(ipvs, WEB) == {POD: SERVING}
    assert ipvs.connections([WEB]) == {POD: Connections()}
    assert ipvs.idle([POD, RealServer(WEB, POD.address, 1)]) == {POD}


def test_connections_are_counted_for_each_real_server(ipvs: IpvsAdapter) -> None:
    output_of("ip", "addr", "add", "10.96.0.10/32", "dev", "lo")
    with socket.create_server(("127.0.0.1", 0)) as server:
        pod, idle = (RealServer(WEB, "127.0.0.1", server.getsockname()[1]), RealServer(WEB, "127.0.0.2", 1))
        ipvs.apply(adding({WEB: VirtualServerSpec(), pod: SERVING, idle: DRAINING}))
        with socket.create_connection(("10.96.0.10", 80), timeout=3):
            assert ipvs.connections([WEB]) == {pod: Connections(active=1), idle: Connections()}
            assert ipvs.idle([pod, idle]) == {idle}


def test_the_error_for_a_kernel_without_ipvs_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeproxy_py.kernel.ipvs.adapter.FAMILY_NAME", "NO_SUCH_FAMILY")
    with pytest.raises(KernelError, match="modprobe ip_vs") as caught:
        IpvsAdapter().read(VIRTUAL_SERVERS)
    assert caught.value.errno == ENOENT


def test_ipvsadm_shows_the_timeouts_that_were_set(ipvs: IpvsAdapter) -> None:
    ipvs.set_timeouts(Timeouts(tcp_s=1000, udp_s=77))
    assert output_of("ipvsadm", "-Ln", "--timeout") == ["Timeout (tcp tcpfin udp): 1000 120 77"]
    assert ipvs.timeouts() == Timeouts(1000, 120, 77)


def test_ten_thousand_real_servers_read_back_as_written(ipvs: IpvsAdapter) -> None:
    rows: Rows = {}
    for number in range(1000):
        server = VirtualServer(f"10.{96 + (number >> 8)}.0.{number & 255}", 80, "TCP")
        rows[server] = VirtualServerSpec()
        rows |= {RealServer(server, f"10.244.{number & 255}.{pod}", 8080): SERVING for pod in range(10)}
    assert ipvs.apply(adding(rows)) == []
    assert ipvs.read(VIRTUAL_SERVERS) == rows


LOAD_FACTOR = Path("/proc/sys/net/ipv4/vs/svc_lfactor")  # of the table of virtual servers, which has a new size at once
RESIZES, RESIZE_PAUSE_S = 20, 0.1  # several listings long, so that not all of one's repetitions meet a resize


def resize_table_of_virtual_servers() -> None:
    """Have the kernel move all virtual servers to a table of another size, and back, again and again."""
    for factor in itertools.islice(itertools.cycle(("-8", "8")), RESIZES):
        time.sleep(RESIZE_PAUSE_S)
        LOAD_FACTOR.write_text(factor)


def test_a_listing_is_complete_while_the_kernel_moves_virtual_servers_to_another_table(ipvs: IpvsAdapter) -> None:
    rows: Rows = {VirtualServer(f"10.96.{n >> 8}.{n & 255}", 80, "TCP"): VirtualServerSpec() for n in range(2000)}
    assert ipvs.apply(adding(rows)) == []
    if not LOAD_FACTOR.exists():
        pytest.skip("the table of this kernel has one size")
    resizes = threading.Thread(target=resize_table_of_virtual_servers)
    resizes.start()
    while resizes.is_alive():
        assert ipvs.traffic().keys() == rows.keys()
    resizes.join()


# ipset

Sets = IpsetAdapter | IpsetCommandAdapter

ENTRIES = {
    "KUBE-CLUSTER-IP": ("10.96.0.10,tcp:80", "10.96.0.10,udp:53", "10.96.0.10,sctp:2905"),
    "KUBE-6-CLUSTER-IP": ("fd00:96::10,tcp:80", "::ffff:10.0.0.1,udp:53"),
    "KUBE-LOOP-BACK": ("10.244.1.5,tcp:8080,10.244.1.5",),
    "KUBE-6-LOOP-BACK": ("fd00:10:244:1::5,sctp:9000,fd00:10:244:1::5",),
    "KUBE-LOAD-BALANCER-SOURCE-CIDR": ("203.0.113.4,tcp:80,192.0.2.0/24", "203.0.113.4,tcp:80,192.0.2.7"),
    "KUBE-6-LOAD-BALANCER-SOURCE-CID": ("fd00::4,tcp:80,2001:db8::/32", "fd00::4,tcp:80,2001:db8::7"),
    "KUBE-NODE-PORT-TCP": ("30080", "0", "65535"),
    "KUBE-6-NODE-PORT-TCP": ("30080",),
    "KUBE-IPVS-IPS": ("10.96.0.10",),
    "KUBE-6-IPVS-IPS": ("fd00:96::10",),
}
ENTRY_ROWS: Rows = {IpsetEntry(name, entry): None for name, entries in ENTRIES.items() for entry in entries}


def all_sets() -> Rows:
    return {key: spec for family in FAMILIES for key, spec in kube_names.ipsets(family).items()}


def read_sets(ipset: Sets) -> Rows:
    rows: Rows = {}
    for scope in ipset.scopes():
        rows.update(ipset.read(scope))
    return rows


def headers(*argv: str) -> list[str]:
    """Return the create lines of ``ipset save``, without options that the kernel chose."""
    return [line.split(" bucketsize")[0] for line in output_of("ipset", "save", *argv) if line.startswith("create")]


def test_all_sets_equal_those_of_kube_proxy(ipset: Sets) -> None:
    assert ipset.apply(adding(all_sets())) == []
    recorded = Path(wire.__file__).with_name("sets_of_kube_proxy.txt")  # of kube-proxy 1.36.2
    assert headers() == sorted(recorded.read_text().splitlines())


def test_ipset_saves_the_entries_of_each_type_that_were_added(ipset: Sets) -> None:
    assert ipset.apply(adding({**all_sets(), **ENTRY_ROWS})) == []
    saved = [line for line in output_of("ipset", "save") if line.startswith("add")]
    assert saved == sorted(f"add {name} {entry}" for name, entries in ENTRIES.items() for entry in entries)


def test_sets_read_back_as_written(ipset: Sets) -> None:
    rows = {**all_sets(), **ENTRY_ROWS}
    ipset.apply(adding(rows))
    assert read_sets(ipset) == rows


def test_missing_sets_have_no_rows(ipset: Sets) -> None:
    assert read_sets(ipset) == {}


def test_adding_sets_and_entries_twice_succeeds(ipset: Sets) -> None:
    steps = adding({**all_sets(), **ENTRY_ROWS})
    ipset.apply(steps)
    assert ipset.apply(steps) == []


def test_deleting_entries_and_sets_twice_succeeds_and_leaves_none(ipset: Sets) -> None:
    rows = {**all_sets(), **ENTRY_ROWS}
    ipset.apply(adding(rows))
    assert ipset.apply([delete(key) for key in ENTRY_ROWS]) == []
    assert ipset.apply([delete(key) for key in ENTRY_ROWS]) == []
    assert read_sets(ipset) == all_sets()
    assert ipset.apply([delete(key) for key in all_sets()]) == []
    assert ipset.apply([delete(key) for key in rows]) == []
    assert output_of("ipset", "save") == []


def test_bad_entries_in_a_batch_do_not_affect_others(ipset: Sets) -> None:
    ipset.apply(adding(all_sets()))
    good = [IpsetEntry(CLUSTER_IP, f"10.96.{i >> 8}.{i & 255},tcp:80") for i in range(600)]
    bad = [
        IpsetEntry(CLUSTER_IP, "fd00::1,tcp:80"),
        IpsetEntry(CLUSTER_IP, "junk"),
        IpsetEntry("KUBE-NO-SUCH-SET", "10.0.0.1"),
        IpsetEntry("KUBE-LOAD-BALANCER-SOURCE-CIDR", "10.0.0.1,tcp:80,0.0.0.0/0"),
    ]
    keys: list[Key] = [*good[:100], bad[0], *good[100:300], bad[1], bad[2], *good[300:], bad[3]]
    assert set(errnos(ipset.apply([add(key) for key in keys]))) == set(bad)
    assert set(ipset.read(ipset_scope(CLUSTER_IP))) == {Ipset(CLUSTER_IP), *good}


def test_each_ipset_failure_has_the_errno_of_the_kernel() -> None:
    ipset = IpsetAdapter(FAMILIES)
    ipset.apply(adding(all_sets()))
    wrong_family = IpsetEntry(CLUSTER_IP, "fd00::1,tcp:80")
    no_set = IpsetEntry("KUBE-NO-SUCH-SET", "10.0.0.1")
    everything = IpsetEntry("KUBE-LOAD-BALANCER-SOURCE-CIDR", "10.0.0.1,tcp:80,0.0.0.0/0")
    failures = ipset.apply([add(wrong_family), add(no_set), add(everything)])
    ipset.close()
    assert errnos(failures) == {wrong_family: 4097, no_set: ENOENT, everything: 4104}


def test_a_set_is_filled_up_to_its_size(ipset: Sets) -> None:
    ipset.apply([add(Ipset(CLUSTER_IP), IpsetSpec("hash:ip,port", "IPv4", maxelem=100))])
    keys = [IpsetEntry(CLUSTER_IP, f"10.96.0.{i},tcp:80") for i in range(250)]
    failed = errnos(ipset.apply([add(key) for key in keys]))
    assert (len(failed), set(failed.values())) == (150, {4352})
    assert set(ipset.read(ipset_scope(CLUSTER_IP))) == {Ipset(CLUSTER_IP), *keys} - set(failed)


def test_destroying_a_set_in_use_fails(ipset: Sets) -> None:
    ipset.apply(adding(all_sets()))
    output_of("ipset", "create", "user", "list:set")
    output_of("ipset", "add", "user", CLUSTER_IP)
    assert errnos(ipset.apply([delete(Ipset("KUBE-LOOP-BACK")), delete(Ipset(CLUSTER_IP))])) == {
        Ipset(CLUSTER_IP): 4100
    }


def test_creating_a_set_replaces_one_of_the_other_family(ipset: Sets) -> None:
    output_of("ipset", "create", CLUSTER_IP, "hash:ip,port", "family", "inet6")
    assert ipset.apply(adding(all_sets())) == []
    assert read_sets(ipset) == all_sets()


def test_creating_a_set_replaces_one_of_another_type(ipset: Sets) -> None:
    output_of("ipset", "create", CLUSTER_IP, "bitmap:port", "range", "1-1000")
    assert ipset.apply(adding(all_sets())) == []
    assert read_sets(ipset) == all_sets()


def test_an_updated_set_keeps_its_entries_and_references(ipset: Sets) -> None:
    old, new = (IpsetSpec("hash:ip,port", "IPv4", maxelem=size) for size in (1000, 65536))
    entries: Rows = {IpsetEntry(CLUSTER_IP, f"10.96.0.{i},tcp:80"): None for i in range(200)}
    ipset.apply(adding({Ipset(CLUSTER_IP): old, **entries}))
    output_of("ipset", "create", "user", "list:set")
    output_of("ipset", "add", "user", CLUSTER_IP)
    assert ipset.read(ipset_scope(CLUSTER_IP))[Ipset(CLUSTER_IP)] == old
    assert ipset.apply([update(Ipset(CLUSTER_IP), new, old)]) == []
    assert ipset.read(ipset_scope(CLUSTER_IP)) == {Ipset(CLUSTER_IP): new, **entries}
    assert "add user KUBE-CLUSTER-IP" in output_of("ipset", "save")
    assert output_of("ipset", "list", "-n") == sorted([CLUSTER_IP, "user"])


def test_a_set_that_would_lose_entries_is_left_unchanged(ipset: Sets) -> None:
    old, new = (IpsetSpec("hash:ip,port", "IPv4", maxelem=size) for size in (1000, 100))
    rows: Rows = {Ipset(CLUSTER_IP): old}
    rows |= {IpsetEntry(CLUSTER_IP, f"10.96.0.{i},tcp:80"): None for i in range(250)}
    ipset.apply(adding(rows))
    assert errnos(ipset.apply([update(Ipset(CLUSTER_IP), new, old)])) == {Ipset(CLUSTER_IP): 4352}
    assert ipset.read(ipset_scope(CLUSTER_IP)) == rows
    assert output_of("ipset", "list", "-n") == [CLUSTER_IP]


def test_the_failure_for_a_set_of_another_type_in_use_says_so(ipset: Sets) -> None:
    output_of("ipset", "create", CLUSTER_IP, "bitmap:port", "range", "0-65535")
    output_of("ipset", "create", "user", "list:set")
    output_of("ipset", "add", "user", CLUSTER_IP)
    (failure,) = ipset.apply([add(Ipset(CLUSTER_IP), IpsetSpec("hash:ip,port", "IPv4"))])
    assert (failure.errno, "in use" in failure.message) == (4100, True)
    assert output_of("ipset", "list", "-n") == sorted([CLUSTER_IP, "user"])


@pytest.mark.parametrize(
    "words",
    [
        ("hash:ip,port", "timeout", "60"),
        ("bitmap:port", "range", "1-1000"),
        ("hash:ip", "netmask", "24"),
        ("hash:ip,port", "family", "inet6"),
        ("hash:ip,port", "maxelem", "7"),
        ("list:set",),
    ],
    ids=" ".join,
)
def test_a_set_that_behaves_differently_reads_back_with_another_spec(ipset: Sets, words: tuple[str, ...]) -> None:
    output_of("ipset", "create", CLUSTER_IP, *words)
    assert ipset.read(ipset_scope(CLUSTER_IP))[Ipset(CLUSTER_IP)] not in kube_names.ipsets("IPv4").values()


@pytest.mark.parametrize("words", [("counters",), ("comment",), ("hashsize", "64"), ("bucketsize", "4")], ids=" ".join)
def test_a_set_that_behaves_the_same_reads_back_with_the_desired_spec(ipset: Sets, words: tuple[str, ...]) -> None:
    output_of("ipset", "create", CLUSTER_IP, "hash:ip,port", *words)
    output_of("ipset", "add", CLUSTER_IP, "10.96.0.10,tcp:80")
    assert ipset.read(ipset_scope(CLUSTER_IP)) == {
        Ipset(CLUSTER_IP): IpsetSpec("hash:ip,port", "IPv4"),
        IpsetEntry(CLUSTER_IP, "10.96.0.10,tcp:80"): None,
    }


def test_foreign_sets_are_ignored(ipset: Sets) -> None:
    output_of("ipset", "create", "KUBE-SOMEBODY-ELSE", "hash:ip")
    ipset.apply(adding(all_sets()))
    assert read_sets(ipset) == all_sets()


def test_twenty_thousand_entries_read_back_as_written_after_the_set_grew() -> None:
    ipset = IpsetAdapter(FAMILIES)
    rows: Rows = {Ipset(CLUSTER_IP): IpsetSpec("hash:ip,port", "IPv4")}
    rows |= {IpsetEntry(CLUSTER_IP, f"10.{96 + (i >> 16)}.{i >> 8 & 255}.{i & 255},tcp:80"): None for i in range(20000)}
    assert ipset.apply(adding(rows)) == []
    assert ipset.read(ipset_scope(CLUSTER_IP)) == rows
    assert "Number of entries: 20000" in (listing := output_of("ipset", "list", "-t", CLUSTER_IP))
    assert not [line for line in listing if "hashsize 1024 " in line]
    ipset.close()


def test_ipset_errors_are_complete_when_the_receive_buffer_overflows() -> None:
    ipset = IpsetAdapter(FAMILIES)
    ipset.apply(adding(all_sets()))
    ipset._netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    good = [IpsetEntry(CLUSTER_IP, f"10.96.0.{i},tcp:80") for i in range(200)]
    bad = [IpsetEntry(f"KUBE-NONE-{i}", "10.0.0.1") for i in range(200)]
    mixed = [add(key) for pair in zip(good, bad, strict=True) for key in pair]
    assert errnos(ipset.apply(mixed)) == dict.fromkeys(bad, ENOENT)
    assert set(ipset.read(ipset_scope(CLUSTER_IP))) == {Ipset(CLUSTER_IP), *good}
    ipset.close()


# addresses

DEVICE = Link(IPVS_DEVICE)
LINK_ROWS: Rows = {DEVICE: None, Address("10.96.0.10"): None, Address("fd00:96::10"): None}


def shown_addresses(device: str = IPVS_DEVICE) -> list[str]:
    """Return family and address with prefix of each address that ``ip`` shows on *device*."""
    return sorted(" ".join(line.split()[2:4]) for line in output_of("ip", "-o", "addr", "show", "dev", device))


def test_ip_shows_the_addresses_on_a_dummy_that_is_down(address: AddressAdapter) -> None:
    assert address.apply(adding(LINK_ROWS)) == []
    assert shown_addresses() == ["inet 10.96.0.10/32", "inet6 fd00:96::10/128"]
    (link, *_) = output_of("ip", "-o", "-d", "link", "show", "dev", IPVS_DEVICE)
    assert ("state DOWN" in link, " dummy " in link) == (True, True)


def test_addresses_of_both_families_are_local_although_the_device_is_down(address: AddressAdapter) -> None:
    address.apply(adding(LINK_ROWS))
    for family, ip in ((socket.AF_INET, "10.96.0.10"), (socket.AF_INET6, "fd00:96::10")):
        with socket.socket(family, socket.SOCK_STREAM) as bound:
            bound.bind((ip, 0))
            assert bound.getsockname()[0] == ip


def test_no_address_is_tentative(address: AddressAdapter) -> None:
    address.apply(adding(LINK_ROWS))
    assert not [line for line in output_of("ip", "addr", "show", "dev", IPVS_DEVICE) if "tentative" in line]


@pytest.mark.parametrize("batch_size", [1, 150], ids=["one by one", "listed"])
def test_ipv6_addresses_are_local_once_applied_even_on_a_busy_machine(address: AddressAdapter, batch_size: int) -> None:
    address.apply([add(DEVICE)])
    rows = [Address(f"fd00:96::{number:x}") for number in range(1, 301)]
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(4)]
    try:
        for start in range(0, len(rows) if batch_size > 1 else 30, batch_size):
            added = rows[start : start + batch_size]
            assert address.apply([add(key) for key in added]) == []
            assert [key.address for key in added if not is_reachable(key.address)] == []
    finally:
        for process in busy:
            process.kill()
            process.wait()


def is_reachable(address: str) -> bool:
    """Return whether there is a route to an IPv6 *address*; in this namespace it can only be local."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        return sock.connect_ex((address, 9)) == 0


def test_addresses_read_back_as_written(address: AddressAdapter) -> None:
    address.apply(adding(LINK_ROWS))
    assert address.read(LINK) == LINK_ROWS


def test_a_missing_device_has_no_row(address: AddressAdapter) -> None:
    assert address.read(LINK) == {}


def test_adding_and_deleting_addresses_twice_succeeds(address: AddressAdapter) -> None:
    assert address.apply(adding(LINK_ROWS) + adding(LINK_ROWS)) == []
    addresses = [delete(key) for key in LINK_ROWS if key != DEVICE]
    assert address.apply(addresses + addresses) == []
    assert address.read(LINK) == {DEVICE: None}
    assert address.apply([delete(DEVICE), delete(DEVICE), *addresses]) == []
    assert address.read(LINK) == {}


def test_a_device_of_another_type_is_used(address: AddressAdapter) -> None:
    output_of("ip", "link", "add", IPVS_DEVICE, "type", "bridge")
    assert address.apply(adding(LINK_ROWS)) == []
    assert address.read(LINK) == LINK_ROWS


def test_adding_addresses_without_the_device_fails(address: AddressAdapter) -> None:
    assert errnos(address.apply([add(Address("10.96.0.10"))])) == {Address("10.96.0.10"): ENODEV}


def test_addresses_of_other_devices_are_ignored(address: AddressAdapter) -> None:
    output_of("ip", "link", "add", "eth7", "type", "dummy")
    output_of("ip", "addr", "add", "10.96.0.10/32", "dev", "eth7")
    address.apply(adding(LINK_ROWS))
    address.apply([delete(key) for key in LINK_ROWS if key != DEVICE])
    assert (address.read(LINK), shown_addresses("eth7")) == ({DEVICE: None}, ["inet 10.96.0.10/32"])


def test_foreign_addresses_with_a_wider_prefix_can_be_deleted(address: AddressAdapter) -> None:
    address.apply([add(DEVICE)])
    output_of("ip", "addr", "add", "192.0.2.1/24", "dev", IPVS_DEVICE)
    output_of("ip", "addr", "add", "2001:db8::1/64", "dev", IPVS_DEVICE)
    foreign = [key for key in address.read(LINK) if isinstance(key, Address)]
    assert foreign == [Address("192.0.2.1"), Address("2001:db8::1")]
    assert address.apply([delete(key) for key in foreign]) == []
    assert shown_addresses() == []


def test_the_link_local_address_of_a_device_that_is_up_is_ignored(address: AddressAdapter) -> None:
    address.apply([add(DEVICE)])
    output_of("ip", "link", "set", IPVS_DEVICE, "up")
    assert any("fe80::" in line for line in shown_addresses())
    assert address.read(LINK) == {DEVICE: None}


def test_host_addresses_include_all_interfaces(address: AddressAdapter) -> None:
    output_of("ip", "link", "add", "eth7", "type", "dummy")
    output_of("ip", "addr", "add", "192.0.2.1/24", "dev", "eth7")
    output_of("ip", "addr", "add", "10.0.0.1", "peer", "10.0.0.2/32", "dev", "eth7")
    address.apply(adding(LINK_ROWS))
    assert address.host_addresses() == (
        HostAddress("eth7", "10.0.0.1", 32),
        HostAddress("eth7", "192.0.2.1", 24),
        HostAddress(IPVS_DEVICE, "10.96.0.10", 32),
        HostAddress(IPVS_DEVICE, "fd00:96::10", 128),
        HostAddress("lo", "127.0.0.1", 8),
        HostAddress("lo", "::1", 128),
    )


def test_five_thousand_addresses_are_added_and_deleted(address: AddressAdapter) -> None:
    rows: Rows = {DEVICE: None}
    rows |= {Address(f"10.96.{i >> 8}.{i & 255}"): None for i in range(4500)}
    rows |= {Address(f"fd00:96::{i:x}"): None for i in range(1, 500)}
    assert address.apply(adding(rows)) == []
    assert address.read(LINK) == rows
    assert address.apply([delete(key) for key in rows if key != DEVICE]) == []
    assert address.read(LINK) == {DEVICE: None}


# notifications


class ChangeRecorder:
    """Records the changes that a monitor reports, and waits for one."""

    def __init__(self) -> None:
        self.count = 0
        self.changes: list[AddressesChanged] = []
        self._called = threading.Event()

    def __call__(self, change: AddressesChanged) -> None:
        self.count += 1
        self.changes.append(change)
        self._called.set()

    def device_addresses(self) -> dict[str, bool]:
        """Return, for each address of kube-ipvs0 that changed, whether it exists now."""
        return {address: exists for change in self.changes for address, exists in change.service_addresses.items()}

    def is_called_within(self, timeout_s: float) -> bool:
        is_called = self._called.wait(timeout_s)
        self._called.clear()
        return is_called


@contextmanager
def monitored(on_change: Callable[[AddressesChanged], None]) -> Iterator[AddressMonitor]:
    monitor = AddressMonitor(on_change, debounce_s=0.05)
    monitor.start()
    try:
        yield monitor
    finally:
        monitor.stop()


def test_the_monitor_reports_addresses_and_links_that_are_added_and_deleted(address: AddressAdapter) -> None:
    recorder = ChangeRecorder()
    with monitored(recorder):
        for step in [*adding(LINK_ROWS), *(delete(key) for key in reversed(LINK_ROWS))]:
            address.apply([step])
            assert recorder.is_called_within(NOTIFIED_WITHIN_S), f"no notification of {step}"


def test_the_monitor_reports_which_addresses_of_the_device_exist_now(address: AddressAdapter) -> None:
    address.apply([add(DEVICE)])
    recorder = ChangeRecorder()
    with monitored(recorder):
        address.apply([add(Address("10.96.0.1")), add(Address("fd00::1")), delete(Address("10.96.0.1"))])
        wait_until(lambda: recorder.device_addresses() == {"10.96.0.1": False, "fd00::1": True})
    assert not any(change.other_interfaces or change.device for change in recorder.changes)


def test_the_monitor_ignores_other_links_and_reports_their_addresses(address: AddressAdapter) -> None:
    recorder = ChangeRecorder()
    with monitored(recorder):
        output_of("ip", "link", "add", "other0", "type", "dummy")
        assert not recorder.is_called_within(0.3)
        output_of("ip", "addr", "add", "192.0.2.1/24", "dev", "other0")
        assert recorder.is_called_within(NOTIFIED_WITHIN_S)
    assert recorder.changes == [AddressesChanged(other_interfaces=True)]


def test_the_monitor_reports_nothing_while_nothing_changes(address: AddressAdapter) -> None:
    address.apply(adding(LINK_ROWS))
    recorder = ChangeRecorder()
    with monitored(recorder):
        address.read(LINK)
        address.host_addresses()
        assert not recorder.is_called_within(0.3)


def test_a_burst_is_reported_few_times_and_once_after_its_end(address: AddressAdapter) -> None:
    counts: list[int] = []
    reader = AddressAdapter()
    reader.host_addresses()  # opens its socket here, for the monitor's thread
    address.apply([add(DEVICE)])
    with monitored(lambda _: counts.append(len(reader.host_addresses()))):
        address.apply([add(Address(f"10.96.{i >> 8}.{i & 255}")) for i in range(3000)])
        wait_until(lambda: counts[-1:] == [3002])
    reader.close()
    assert len(counts) < 20


def test_a_stopped_monitor_reports_nothing_and_leaves_no_thread(address: AddressAdapter) -> None:
    recorder = ChangeRecorder()
    with monitored(recorder):
        pass
    address.apply(adding(LINK_ROWS))
    assert (recorder.is_called_within(0.2), "address-monitor" in {thread.name for thread in threading.enumerate()}) == (
        False,
        False,
    )


def test_a_device_that_was_recreated_gets_its_addresses(address: AddressAdapter) -> None:
    assert address.apply(adding({Link(IPVS_DEVICE): None, Address("10.96.0.10"): None})) == []
    subprocess.run(["ip", "link", "delete", IPVS_DEVICE], check=True)
    subprocess.run(["ip", "link", "add", IPVS_DEVICE, "type", "dummy"], check=True)
    assert address.apply([add(Address("10.96.0.11")), delete(Address("10.96.0.10"))]) == []
    assert address.read(LINK) == {Link(IPVS_DEVICE): None, Address("10.96.0.11"): None}


def test_adding_addresses_to_a_deleted_device_fails_and_deleting_succeeds(address: AddressAdapter) -> None:
    assert address.apply(adding({Link(IPVS_DEVICE): None, Address("10.96.0.10"): None})) == []
    subprocess.run(["ip", "link", "delete", IPVS_DEVICE], check=True)
    failures = address.apply([add(Address("10.96.0.11")), delete(Address("10.96.0.10"))])
    assert errnos(failures) == {Address("10.96.0.11"): ENODEV}
