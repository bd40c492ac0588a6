"""Virtual servers and their real servers, by batched generic netlink.

Invariants:
- An add makes its row true whether or not the row exists; a delete of a missing row succeeds.
- Deleting a virtual server deletes its real servers, so their deletes in the same group of steps are not sent; they
  fail only if that of their virtual server fails.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from errno import EEXIST
from functools import partial
from socket import htons, inet_ntop, inet_pton, ntohs
from typing import TypeVar

from kubeproxy_py.kernel import (
    IPV4_SERVERS,
    IPV6_SERVERS,
    REAL_SERVERS,
    VIRTUAL_SERVERS,
    Mark,
    MarkReader,
    Scope,
    Snapshot,
    snapshot_of,
)
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host import command
from kubeproxy_py.kernel.ipvs.constants import FAMILY_NAME, Timeouts
from kubeproxy_py.kernel.ipvs.decode import (
    RealServerState,
    decode_all_traffic,
    decode_dest_counters,
    decode_dests,
    decode_services,
    decode_timeouts,
    key_bytes,
    real_server_spec,
)
from kubeproxy_py.kernel.ipvs.encode import (
    encode_get_timeouts,
    encode_list_dests,
    encode_list_services,
    encode_set_timeouts,
    encode_steps,
)
from kubeproxy_py.kernel.ipvs.errors import failure_of, is_done
from kubeproxy_py.kernel.ipvs.listing import LISTED_MAX, ListingReader
from kubeproxy_py.kernel.ipvs.marks import Ipv6Marks, VirtualServerMarkReader
from kubeproxy_py.kernel.ipvs.piecewise_listing import PiecewiseListing
from kubeproxy_py.kernel.ipvs.sockopt import RealServerReader, entries, fingerprint_of
from kubeproxy_py.kernel.netlink.families import AF_INET, family_number
from kubeproxy_py.kernel.netlink.socket import (
    NETLINK_GENERIC,
    Message,
    NetlinkError,
    Socket,
    generic_family_id,
    message,
)
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.rows import (
    SERVING,
    Connections,
    Key,
    RealServer,
    RealServerCounters,
    Rows,
    Traffic,
    VirtualServer,
)
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.net import is_ipv6

_Answer = TypeVar("_Answer")

log = logging.getLogger(__name__)

_MODPROBE_TIMEOUT_S = 30.0
_CHUNK_SIZE = 1000  # virtual servers; decoding them takes some 5 ms


class IpvsAdapter:
    """VirtualServer and RealServer rows of the network namespace in which it is first used.

    Args:
        use_getsockopt: Read the real servers of IPv4 virtual servers by getsockopt(2) where possible, which is faster;
            all others are read by netlink.
        marks: Read virtual servers by firewall mark, too, those of other programs included.
    """

    def __init__(self, *, use_getsockopt: bool = True, marks: bool = False) -> None:
        self._has_marks = marks
        self._use_getsockopt = use_getsockopt
        self._socket: Socket | None = None
        self._family_id: int | None = None  # the message type that the kernel assigned to IPVS
        self._reader: RealServerReader | None = None
        self._mark_reader: VirtualServerMarkReader | None = None
        self._ipv6_marks = Ipv6Marks(marks=marks)
        self._listing = ListingReader(marks=marks)
        self.pieces = PiecewiseListing(marks=marks)
        # Of virtual servers, by the marks read last; without one of IPv4 they may be too many.
        self._counts = {IPV4_SERVERS: LISTED_MAX + 1, IPV6_SERVERS: 0}

    def scopes(self) -> list[Scope]:
        """Return one scope: a real server is only found through its virtual server."""
        return [VIRTUAL_SERVERS]

    def read(self, scope: Scope) -> Rows:
        """Return virtual servers, by firewall mark only if asked for, and their real servers.  Raises KernelError."""
        assert scope == VIRTUAL_SERVERS, scope
        rows: Rows = {}
        for chunk in self.virtual_servers():
            rows.update(chunk)
        for server in [key for key in rows if isinstance(key, VirtualServer)]:
            rows.update(self.real_servers(server).rows())
        return rows

    def virtual_servers(self) -> Iterator[Rows]:
        """Yield virtual servers, as ``read``, without their real servers, in chunks of one listing.

        The listing is complete before the first chunk, so that none is missed; each chunk is decoded when it is
        requested.

        Raises:
            KernelError: The kernel cannot list them.
        """
        bodies = self._list_services()
        for start in range(0, len(bodies), _CHUNK_SIZE):
            yield decode_services(bodies[start : start + _CHUNK_SIZE], marks=self._has_marks)

    def real_servers(self, server: VirtualServer) -> Snapshot:
        """Return the real servers of *server*; none if it is gone.  Raises KernelError."""
        if (data := self._read_by_sockopt(RealServerReader.real_servers, server)) is None:
            return snapshot_of({state.key: state.spec for state in self._list_dests(server)})
        return Snapshot(partial(fingerprint_of, data), partial(_rows, data, server))

    def fingerprint(self, server: VirtualServer) -> int:
        """Return ``real_servers(server).fingerprint()``.  Raises KernelError."""
        fingerprint = self._read_by_sockopt(RealServerReader.fingerprint, server)
        return self.real_servers(server).fingerprint() if fingerprint is None else fingerprint

    def mark_readers(self) -> list[MarkReader]:
        """Return one reader for the virtual servers of each family, and one for all real servers."""
        return [
            MarkReader(IPV4_SERVERS, self._read_ipv4_mark),
            MarkReader(IPV6_SERVERS, self._read_ipv6_mark, IPV6_SERVERS),
            MarkReader(REAL_SERVERS, self._read_real_servers_mark),
        ]

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Carry out *steps* and return the failures.  Raises KernelError if the kernel has no IPVS."""
        deleted: set[Key] = {
            step.key for step in steps if step.verb == "delete" and isinstance(step.key, VirtualServer)
        }
        sent, implied = _split_implied_deletes(steps, deleted) if deleted else (steps, [])
        failures = [failure_of(step, error) for step, error in self._carry_out(sent)]
        if implied and failures:
            by_key: dict[Key, StepFailure] = {failure.step.key: failure for failure in failures}
            failures += [
                StepFailure(step, failure.errno, f"its virtual server was not deleted: {failure.message}")
                for step, virtual_server in implied
                if (failure := by_key.get(virtual_server))
            ]
        return failures

    def connections(self, virtual_servers: Iterable[VirtualServer]) -> dict[RealServer, Connections]:
        """Return the connections of each real server of *virtual_servers*.  Raises KernelError."""
        connections: dict[RealServer, Connections] = {}
        for server in virtual_servers:
            if (data := self._read_by_sockopt(RealServerReader.real_servers, server)) is None:
                connections.update((state.key, state.connections) for state in self._list_dests(server))
            else:
                for address, port, *_, active, inactive in entries(data):
                    key = RealServer(server, inet_ntop(AF_INET, address), ntohs(port))
                    connections[key] = Connections(active, inactive)
        return connections

    def idle(self, real_servers: Iterable[RealServer]) -> set[RealServer]:
        """Return those of *real_servers* that exist and have no connections.  Raises KernelError."""
        by_server: dict[VirtualServer, list[RealServer]] = defaultdict(list)
        for key in real_servers:
            by_server[key.virtual_server].append(key)
        idle: set[RealServer] = set()
        for server, keys in by_server.items():
            if (data := self._read_by_sockopt(RealServerReader.real_servers, server)) is None:
                totals = {state.key: state.connections.total for state in self._list_dests(server)}
                idle.update(key for key in keys if totals.get(key) == 0)
            else:  # usually few of many: no keys are created for the others
                packed_totals = {entry[:2]: entry[6] + entry[7] for entry in entries(data)}
                idle.update(key for key in keys if packed_totals.get(_packed(key)) == 0)
        return idle

    def traffic(self) -> dict[VirtualServer, Traffic]:
        """Return the counters of each virtual server, from one listing.  Raises KernelError."""
        return decode_all_traffic(self._list_services(), marks=self._has_marks)

    def real_server_counters(self, virtual_servers: Iterable[VirtualServer]) -> dict[RealServer, RealServerCounters]:
        """Return the counters of each real server of *virtual_servers*; none of those that are gone.

        Raises:
            KernelError: The kernel cannot list them.
        """
        counters: dict[RealServer, RealServerCounters] = {}
        for server in virtual_servers:
            bodies = self._netlink.dump(self._message(encode_list_dests(server)))
            counters.update(decode_dest_counters(bodies, server))
        return counters

    def timeouts(self) -> Timeouts:
        """Return the timeouts of the network namespace.  Raises KernelError."""
        return decode_timeouts(self._netlink.request(self._message(encode_get_timeouts())))

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the timeouts that are not 0.  Raises KernelError."""
        errors = self._netlink.execute([self._message(encode_set_timeouts(timeouts))])
        for error in errors.values():
            raise KernelError(f"IPVS timeouts: {error.text}", errno=error.errno)

    def close(self) -> None:
        """Close the sockets.

        A later use opens others and looks up the message type again: ip_vs may have been unloaded and loaded.
        """
        if self._socket:
            self._socket.close()
        self._close_reader()
        if self._mark_reader:
            self._mark_reader.close()
            self._mark_reader = None
        self._listing.close()
        self.pieces.close()
        self._socket = self._family_id = None

    @property
    def _netlink(self) -> Socket:
        """The socket; the first use opens it and the reader, so that both are in one network namespace."""
        if self._socket is None:
            self._socket = Socket(NETLINK_GENERIC)
            if self._use_getsockopt:
                with suppress(OSError, ImportError):
                    self._reader = RealServerReader()
        return self._socket

    def _message(self, body: bytes) -> Message:
        return message(self._message_type(), 0, body)

    def _message_type(self) -> int:
        """Return the message type of IPVS; load ip_vs if necessary.  Raises KernelError."""
        if self._family_id is None:
            self._family_id = self._look_up_family()
        return self._family_id

    def _look_up_family(self) -> int:
        with suppress(KernelError):
            return generic_family_id(self._netlink, FAMILY_NAME)
        with suppress(KernelError):  # there is no modprobe; ip_vs may be built in nevertheless
            command.run(["modprobe", "ip_vs"], timeout_s=_MODPROBE_TIMEOUT_S)
        try:
            return generic_family_id(self._netlink, FAMILY_NAME)
        except KernelError as error:
            hint = "modprobe ip_vs on the host, or a kernel built with CONFIG_IP_VS"
            raise KernelError("this kernel has no IPVS", errno=error.errno, hint=hint) from error

    def _list_services(self) -> list[bytes]:
        """Return the body of each virtual server in a listing.  Raises KernelError.

        Linux 7 moves all virtual servers to a larger or smaller table when their number has changed much, also
        between two parts of a listing, and flags nothing.
        """
        try:
            return self._netlink.dump(self._message(encode_list_services()), key_bytes)
        except KernelError:
            self.close()
            raise

    def _list_dests(self, server: VirtualServer) -> list[RealServerState]:
        """Return the real servers of *server* by netlink.  Raises KernelError."""
        return decode_dests(self._netlink.dump(self._message(encode_list_dests(server))), server)

    def _read_by_sockopt(
        self, read: Callable[[RealServerReader, VirtualServer], _Answer], server: VirtualServer
    ) -> _Answer | None:
        """Return the result of *read* by getsockopt, or None if that is not available."""
        if self._socket is None:
            _ = self._netlink  # opens the reader
        if self._reader is None or is_ipv6(server.address):
            return None
        try:
            return read(self._reader, server)
        except OSError as error:
            log.debug("IPVS real servers cannot be read by getsockopt, using netlink", extra=values(error=error))
            self._close_reader()
            return None

    def _close_reader(self) -> None:
        if self._reader:
            self._reader.close()
            self._reader = None

    def _read_ipv4_mark(self) -> dict[str, Mark]:
        """Return the mark of the IPv4 virtual servers; none where getsockopt is not available."""
        if not self._use_getsockopt:
            return {}
        try:
            self._mark_reader = self._mark_reader or VirtualServerMarkReader(marks=self._has_marks)
            mark = self._mark_reader.read()
        except (OSError, ImportError) as error:
            raise KernelError(f"IPVS by getsockopt: {error}", errno=getattr(error, "errno", 0) or 0) from error
        self._counts.update(mark.counts)
        return {IPV4_SERVERS: mark}

    def _read_ipv6_mark(self) -> dict[str, Mark]:
        mark = self._ipv6_marks.mark(self._list_services())
        self._counts.update(mark.counts)
        return {IPV6_SERVERS: mark}

    def _read_real_servers_mark(self) -> dict[str, Mark]:
        """Return the mark of all real servers; none if there are too many virtual servers for it."""
        if self._counts[IPV4_SERVERS] + self._counts[IPV6_SERVERS] > LISTED_MAX:
            return {}
        return {REAL_SERVERS: self._listing.read()}

    def _carry_out(self, steps: Sequence[Step]) -> list[tuple[Step, NetlinkError]]:
        """Send *steps* and return the errors; adds of rows that exist are sent again as updates."""
        errors = [(step, error) for step, error in self._send(steps) if not is_done(step, error)]
        if not any(error.errno == EEXIST for _, error in errors):
            return errors
        updates = [Step("update", step.key, step.spec) for step, error in errors if error.errno == EEXIST]
        original = {step.key: step for step, _ in errors}
        update_errors = [(original[step.key], error) for step, error in self._send(updates)]
        return [(step, error) for step, error in errors if error.errno != EEXIST] + update_errors

    def _send(self, steps: Sequence[Step]) -> list[tuple[Step, NetlinkError]]:
        if not steps:
            return []
        errors = self._netlink.execute(encode_steps(steps, self._message_type()))
        return [(steps[index], error) for index, error in sorted(errors.items())]


def _packed(key: RealServer) -> tuple[bytes, int]:
    """Return address and port of *key* as the entries of RealServerReader have them."""
    return inet_pton(family_number(key.address), key.address), htons(key.port)


def _rows(data: bytes, server: VirtualServer) -> Rows:
    """Return the real servers of *server* from the entries of RealServerReader."""
    rows: Rows = {}
    for address, port, method, weight, upper, lower, _, _ in entries(data):
        key = RealServer(server, inet_ntop(AF_INET, address), ntohs(port))
        is_usual = weight == 1 and not method and not upper and not lower
        rows[key] = SERVING if is_usual else real_server_spec(method, weight, upper, lower, is_marked=bool(server.mark))
    return rows


def _split_implied_deletes(steps: Sequence[Step], deleted: Set[Key]) -> tuple[list[Step], list[tuple[Step, Key]]]:
    """Return the *steps* to send, and the deletes that a virtual server in *deleted* implies, each with that server."""
    sent: list[Step] = []
    implied: list[tuple[Step, Key]] = []
    for step in steps:
        if step.verb == "delete" and isinstance(step.key, RealServer) and step.key.virtual_server in deleted:
            implied.append((step, step.key.virtual_server))
        else:
            sent.append(step)
    return sent, implied
