"""The readers: name, function of bytes, what it may raise, and inputs to begin with.

A reader that raises anything else has a fault: a traceback in the log, or the end of a thread, where the operator
should be told what cannot be read.  So has one that contains an internal error: what is logged with a traceback is
raised.
"""

import gzip
import hashlib
import json
import logging
import tempfile
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from kubeproxy_py.checks.rivals import HEALTH_PORT, METRICS_PORT, Facts, find_rivals, service_proxy
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.flags import FLAGS
from kubeproxy_py.config.load import load
from kubeproxy_py.diagnose.snapshot import About
from kubeproxy_py.diagnose.trace.path import trace
from kubeproxy_py.diagnose.trace.request import Request as TraceRequest
from kubeproxy_py.diagnose.trace.ruleset import ruleset_of_save
from kubeproxy_py.kernel.address.bridges import parse_bridges
from kubeproxy_py.kernel.address.decode import decode_addresses, decode_index, decode_local_targets, decode_names
from kubeproxy_py.kernel.address.ipv6_switch import is_off_for_device
from kubeproxy_py.kernel.address.loopback import decode_source
from kubeproxy_py.kernel.address.monitor import NOTHING, parse_notification
from kubeproxy_py.kernel.address.neighbours import decode_neighbours
from kubeproxy_py.kernel.address.routes import decode_gateways, decode_route
from kubeproxy_py.kernel.address.routing_rules import decode_rules
from kubeproxy_py.kernel.conntrack.wire import encode_delete, flows_in, index_servers
from kubeproxy_py.kernel.errors import MALFORMED, KernelError, decoding
from kubeproxy_py.kernel.host.listening import decode_sockets
from kubeproxy_py.kernel.host.processes import processes
from kubeproxy_py.kernel.host.reserved_ports import ReservedPorts, local_port_range
from kubeproxy_py.kernel.host.sysctl import read_sysctl
from kubeproxy_py.kernel.host_facts import parse_saved, read_conntrack
from kubeproxy_py.kernel.host_probe import count_cpus, parse_version
from kubeproxy_py.kernel.ipset.command import parse_list, parse_save
from kubeproxy_py.kernel.ipset.decode import decode_header, decode_revisions, decode_set, failed_line
from kubeproxy_py.kernel.ipset.errors import tool_errno, tool_text
from kubeproxy_py.kernel.iptables.backend import legacy_tables
from kubeproxy_py.kernel.iptables.errors import errno_and_hint, lock_error
from kubeproxy_py.kernel.iptables.fingerprint import LAYOUTS, zero_counters
from kubeproxy_py.kernel.iptables.nf_tables import content_hash, decode_hooked_tables
from kubeproxy_py.kernel.iptables.other_modes import chain_users, deletion_text, detach_text, stale_rules_in
from kubeproxy_py.kernel.iptables.rule_parser import parse_restore
from kubeproxy_py.kernel.iptables.text import TABLES, count_jumps, our_lines, saved_rows
from kubeproxy_py.kernel.ipvs.decode import (
    decode_all_traffic,
    decode_dest_counters,
    decode_dests,
    decode_services,
    decode_timeouts,
)
from kubeproxy_py.kernel.ipvs.listing import mark_of, records_of
from kubeproxy_py.kernel.ipvs.marks import Ipv6Marks
from kubeproxy_py.kernel.kernel_state import decode as decode_kernel_state
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6
from kubeproxy_py.kernel.netlink.messages import decode_answers, decode_error, split_messages
from kubeproxy_py.kernel.netlink.socket import decode_family_id
from kubeproxy_py.metrics.process import collect_process_metrics
from kubeproxy_py.model.kube_names import MARK_MASQ_CHAIN
from kubeproxy_py.model.rows import Connections, RealServer, RealServerCounters, Traffic, VirtualServer
from kubeproxy_py.net import FAMILIES
from kubeproxy_py.plan.ownership import filter_owned, is_foreign
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.server.documents import Documents
from kubeproxy_py.server.http_messages import NOT_FOUND, BadRequestError, Request, encode_response, parse_head
from kubeproxy_py.server.snapshots import Snapshots
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.decode.objects import decode
from kubeproxy_py.sources.decode.settings import PREFIX, SETTINGS, read_settings
from kubeproxy_py.sources.kubernetes.certificates import validity_periods
from kubeproxy_py.sources.kubernetes.kubeconfig import parse_kubeconfig
from kubeproxy_py.sources.kubernetes.reflector import ListWatch
from kubeproxy_py.sources.kubernetes.removal_guard import RemovalGuard
from kubeproxy_py.sources.kubernetes.resources import SERVICES, SLICES, Resource, node_resource
from kubeproxy_py.sources.manifests.parse import parse_manifest
from kubeproxy_py.sources.saved.content import UnusableError, require_usable
from kubeproxy_py.sources.saved.content import decode as decode_saved
from kubeproxy_py.sources.saved.content import encode as encode_saved
from tests.builders import endpoint_slice, port, service
from tests.diagnose.view import snapshot_with
from tests.fuzz import seeds

_SERVERS = (VirtualServer("10.96.0.10", 80, "TCP"), VirtualServer("fd00:96::10", 53, "UDP"))
_INDEX = 7  # of kube-ipvs0
_RESOURCES: tuple[Resource, ...] = (SERVICES, SLICES, node_resource("node-a"))
_FLAG_NAMES = [flag.name for flag in FLAGS if flag.name != "config"]


class Reader(Struct, frozen=True):
    """One reader; *allowed* are the exceptions with which it says that it cannot read its input."""

    name: str
    read: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...] = ()
    seeds: Callable[[], Iterable[bytes]] = tuple

    def run(self, data: bytes) -> bool:
        """Return whether *data* could be read.  Raises what is not allowed."""
        try:
            with _internal_errors_raised():
                self.read(data)
        except self.allowed:
            return False
        return True


class _Raising(logging.Handler):
    """Raises the exception of a record that has one."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            raise record.exc_info[1]


_raising = _Raising()


@contextmanager
def _internal_errors_raised() -> Any:
    log = logging.getLogger("kubeproxy_py")
    log.addHandler(_raising)
    try:
        yield
    finally:
        log.removeHandler(_raising)


# Netlink


def _messages(data: bytes) -> None:
    list(decode_answers(data))
    for _, _, flags, body in split_messages(data):
        decode_error(flags, body)


def _services(data: bytes) -> None:
    for marks in (False, True):
        rows = decode_services([data], marks=marks)
        assert decode_all_traffic([data], marks=marks).keys() == rows.keys()


def _dests(data: bytes) -> None:
    for server in _SERVERS:
        decode_dests([data], server)
        decode_dest_counters([data], server)


def _ipvs_listing(data: bytes) -> None:
    with decoding("a listing"):
        mark_of(records_of(data.split(b"\n")), {})
        mark_of(records_of(data.split(b"\n"), marks=True), {})


def _sets(data: bytes) -> None:
    failed_line(data)
    for name in ("KUBE-CLUSTER-IP", "KUBE-PY-INSIDE"):
        rows = decode_set(name, [data])
        assert decode_header([data]) in rows.values()


def _links(data: bytes) -> None:
    assert list(decode_names([data])) == [decode_index(data)]
    parse_bridges([data])


def _routes(data: bytes) -> None:
    decode_local_targets([data])
    decode_gateways([data])
    with suppress(KernelError):  # of another family
        decode_route(data)


def _routing_rules(data: bytes) -> None:
    for family in (AF_INET, AF_INET6):
        for read in (decode_rules, decode_source):
            with suppress(KernelError):  # of another family
                read([data], family)


def _neighbours(data: bytes) -> None:
    decode_neighbours([data], {_INDEX: "eth0"})


def _notifications(data: bytes) -> None:
    parse_notification(data, _INDEX, NOTHING)


def _flows(data: bytes) -> None:
    for family in FAMILIES:
        for flow in flows_in([data], index_servers(seeds.FLOW_SERVERS, family)):
            with decoding("a UDP flow"):
                encode_delete(flow)


def _sockets(data: bytes) -> None:
    decode_sockets("TCP", [data])


# Programs, and older interfaces of the kernel


def _ipset_save(data: bytes) -> None:
    parse_save("KUBE-CLUSTER-IP", data)


def _trace(data: bytes) -> None:
    """Rules of any program can be traced."""
    ruleset = ruleset_of_save(data.decode("utf-8", "surrogateescape").split("\n"))
    for source, destination in (("10.244.1.5", "10.96.0.10"), ("fd00::5", "fd00:10:96::10"), ("node", "10.96.0.10")):
        packet = TraceRequest(source, destination, 80, "TCP")
        assert trace(seeds.TRACED_ROWS, seeds.TRACED_HOST, packet, ruleset=ruleset).outcomes


def _iptables_save(data: bytes) -> None:
    for table in TABLES:
        ours = our_lines(data, table)
        for family in FAMILIES:
            rows = saved_rows(data, family, table)
            assert rows == saved_rows(ours, family, table)
    count_jumps(data)
    _trace(data)
    dict(parse_saved(data))
    chain_users(data, MARK_MASQ_CHAIN)
    for is_other in (False, True):
        stale = stale_rules_in(data, is_other_backend=is_other)
        text = detach_text(stale) + deletion_text(stale)
        assert text.count(b"\n*") <= 2 * len(stale)


def _restore_text(data: bytes) -> None:
    for family in FAMILIES:
        parse_restore(data, family)


def _nft_chains(data: bytes) -> None:
    decode_hooked_tables([data])


def _program_errors(data: bytes) -> None:
    text = " ".join(data.decode("utf-8", "replace").split())
    tool_errno(text)
    tool_text(text, "hash:ip,port")
    lock_error(text)
    for family in FAMILIES:
        errno_and_hint(text, family, 0)


def _legacy_entries(data: bytes) -> None:
    for layout in LAYOUTS.values():
        entries = bytearray(data)
        zero_counters(entries, layout)
        assert len(entries) == len(data)


_MEMORY = Path("/dev/shm")
_PROC_FILES = (
    *("proc/sys/kernel/osrelease", "proc/sys/net/netfilter/nf_conntrack_count"),
    *("proc/sys/net/netfilter/nf_conntrack_max", "proc/net/stat/nf_conntrack", "proc/net/ip_tables_names"),
    *("proc/sys/net/ipv4/ip_local_reserved_ports", "proc/sys/net/ipv4/ip_local_port_range"),
    *("proc/sys/net/ipv6/conf/kube-ipvs0/disable_ipv6", "proc/self/stat", "proc/self/net/netstat", "proc/stat"),
    *("proc/1/cmdline", "proc/1/stat", "sys/devices/system/cpu/cpu0/online"),
    "sys/devices/system/cpu/cpu0/topology/core_id",
)


@cache
def _root() -> tuple[tempfile.TemporaryDirectory[str], Path, Path]:
    """Return a folder, which exists until the process ends, its path, and the file that each of _PROC_FILES is there.

    It is in memory where possible: elsewhere, to truncate a file may take milliseconds.
    """
    folder = tempfile.TemporaryDirectory(prefix="kubeproxy-py-proc-", dir=_MEMORY if _MEMORY.is_dir() else None)
    root = Path(folder.name)
    for name in _PROC_FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(root / "data")
    return folder, root, root / "data"


def _proc(data: bytes) -> None:
    """Read every file of /proc and /sys that the agent reads, each with the content *data*."""
    _, root, file = _root()
    file.write_bytes(data)
    parse_version(read_sysctl("kernel/osrelease", root=root) or "")
    read_conntrack(root)
    legacy_tables("IPv4", root=root)
    local_port_range(root)
    is_off_for_device(root)
    count_cpus(root)
    for _, words in processes(root / "proc"):
        service_proxy(words)
    list(collect_process_metrics(root / "proc"))
    text = data.decode(errors="replace")
    find_rivals(Facts(answers=((METRICS_PORT, text), (HEALTH_PORT, text))))
    ReservedPorts([30080], root=root).update([30081], [])  # writes, so it is last


# Files of the operator


def _manifest(suffix: str) -> Callable[[bytes], object]:
    return lambda data: parse_manifest(f"shop{suffix}", data, "node-a", ("pool", "kubernetes.io/hostname"))


def _service_settings(data: bytes) -> None:
    """Read the text as the value of each annotation, and as the name of one."""
    text = data.decode(errors="replace")
    for name in (*SETTINGS, text):
        read_settings({PREFIX + name: text})


def _configuration(data: bytes) -> None:
    load({"config": "config.yaml"}, data)


def _flags(data: bytes) -> None:
    """Read the lines of *data*, ``NAME=VALUE``, as flags; a name that there is not means any of them."""
    lines = (line.partition("=") for line in data.decode("utf-8", "replace").split("\n") if line)
    load({_flag_name(name): value for name, _, value in lines})


def _flag_name(name: str) -> str:
    return name if name in _FLAG_NAMES else _FLAG_NAMES[sum(name.encode()) % len(_FLAG_NAMES)]


def _kubeconfig(data: bytes) -> None:
    parse_kubeconfig("kubeconfig.yaml", data)


def _certificates(data: bytes) -> None:
    """Read *data* as a file of certificates, and as the content of one."""
    list(validity_periods(data))
    pem = b"-----BEGIN CERTIFICATE-----\n" + b64encode(data) + b"\n-----END CERTIFICATE-----\n"
    list(validity_periods(pem))


# The API server and HTTP clients


def _list_watch(resource: Resource) -> ListWatch:
    return ListWatch(resource, lambda: 0.0, RemovalGuard())


def _api_objects(data: bytes) -> None:
    for kind in ("Service", "EndpointSlice", "Endpoints", "Node"):
        decode(kind, data, origin="API", labels=("pool", "kubernetes.io/hostname"))


def _lists(data: bytes) -> None:
    for resource in _RESOURCES:
        list_watch = _list_watch(resource)
        for status in (200, 200, 410, 500):
            list_watch.on_response(status, data)
            list_watch.next_request()


def _watch_lines(data: bytes) -> None:
    for resource in _RESOURCES:
        list_watch = _list_watch(resource)
        empty = {"kind": f"{resource.kind}List", "metadata": {"resourceVersion": "10"}, "items": []}
        list_watch.on_response(200, json.dumps(empty).encode())
        list_watch.next_request()
        for line in data.split(b"\n"):
            if line and list_watch.is_watching:
                list_watch.on_line(line)
        list_watch.on_watch_end(60.0)
        list_watch.next_request()


def _saved_lines(data: bytes) -> None:
    """Read *data* as the lines of a file of saved objects whose checksum is right, and write them again."""
    lines = data.rstrip(b"\n") + b"\n"
    end = {"kind": "end", "sha256": hashlib.sha256(lines).hexdigest()}
    saved = decode_saved(gzip.compress(lines + json.dumps(end).encode() + b"\n", 1))
    require_usable(saved.origin, saved.origin.cluster, saved.origin.written_s, 1.0)
    assert decode_saved(encode_saved(saved)) == saved


def _http_head(data: bytes) -> None:
    request = parse_head(data)
    encode_response(NOT_FOUND, request, 0.0)


def _kernel_state(data: bytes) -> object:
    state = decode_kernel_state(data, "fuzz")
    rows = state.rows()
    addresses = [address.address for address in state.addresses()]
    owned = filter_owned(rows, ("10.0.0.0/8",), excepts=lambda server: is_foreign(server, rows, addresses))
    make_plan({}, owned)
    return state.host.info("node-a")


@cache
def _documents() -> Documents:
    snapshot = snapshot_with(service(type="NodePort", ports=(port(node_port=30_080),)), endpoint_slice())
    return Documents(Snapshots(lambda reply: reply(snapshot), About), _NoCounts)


class _NoCounts:
    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        return dict.fromkeys((), Connections())

    def real_server_counters(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, RealServerCounters]:
        return dict.fromkeys((), RealServerCounters(0, Connections(), Traffic()))


def _state_request(data: bytes) -> None:
    path, _, query = data.decode("latin-1").partition("?")
    assert _documents().answer(Request("GET", path, query)).status in {200, 400, 404}


READERS = (
    Reader("netlink-messages", _messages, (), seeds.netlink_messages),
    Reader("generic-family", lambda data: decode_family_id(data), (KernelError,)),
    Reader("ipvs-services", _services, (KernelError,), seeds.golden("ipvs")),
    Reader("ipvs-dests", _dests, (KernelError,), seeds.golden("ipvs")),
    Reader("ipvs-timeouts", lambda data: decode_timeouts(data), (KernelError,), seeds.golden("ipvs")),
    Reader("ipvs-listing", _ipvs_listing, (KernelError,), seeds.ipvs_listings),
    Reader("ipset-sets", _sets, (KernelError,), seeds.golden("ipset")),
    Reader("ipset-revisions", lambda data: decode_revisions(data), (KernelError,), seeds.golden("ipset")),
    Reader("nft tables", lambda data: content_hash([data], [data], "nat"), (KernelError,), seeds.golden("ipvs")),
    Reader("marks of IPv6", lambda data: Ipv6Marks().mark([data]), (KernelError,), seeds.golden("ipvs")),
    Reader("addresses", lambda data: decode_addresses([data]), (KernelError,), seeds.golden("address")),
    Reader("links", _links, (KernelError,), seeds.golden("address")),
    Reader("routes", _routes, (KernelError,), seeds.golden("address")),
    Reader("routing-rules", _routing_rules, (KernelError,), seeds.golden("address")),
    Reader("neighbours", _neighbours, (KernelError,), seeds.golden("address")),
    Reader("address-notifications", _notifications, MALFORMED, seeds.netlink_messages),
    Reader("udp-flows", _flows, (KernelError,)),
    Reader("sockets", _sockets, (KernelError,)),
    Reader("ipset-save", _ipset_save, (KernelError,), seeds.saved_sets),
    Reader("ipset-list", lambda data: parse_list(data), (KernelError,)),
    Reader("iptables-save", _iptables_save, (), seeds.saved_tables),
    Reader("iptables-restore", _restore_text, (ValueError,), seeds.restore_texts),
    Reader("nft-chains", _nft_chains, (KernelError,), seeds.nft_chains),
    Reader("program-errors", _program_errors),
    Reader("legacy-entries", _legacy_entries),
    Reader("proc", _proc),
    Reader("manifests-yaml", _manifest(".yaml"), (), seeds.manifests),
    Reader("manifests-json", _manifest(".json"), (), seeds.manifests_in_json),
    Reader("service-settings", _service_settings),
    Reader("configuration", _configuration, (ConfigError,), seeds.configurations),
    Reader("flags", _flags, (ConfigError,)),
    Reader("kubeconfig", _kubeconfig, (SourceError,)),
    Reader("certificates", _certificates, (ValueError,), seeds.certificates),
    Reader("api-objects", _api_objects, (), seeds.objects),
    Reader("api-lists", _lists, (), seeds.lists),
    Reader("watch-lines", _watch_lines, (), seeds.watch_lines),
    Reader("saved-objects", lambda data: decode_saved(data), (UnusableError,), seeds.saved_files),
    Reader("saved-lines", _saved_lines, (UnusableError,), seeds.saved_lines),
    Reader("kernel-state", _kernel_state, (KernelError,), seeds.kernel_states),
    Reader("http-heads", _http_head, (BadRequestError,)),
    Reader("state-requests", _state_request, (), seeds.state_requests),
)
