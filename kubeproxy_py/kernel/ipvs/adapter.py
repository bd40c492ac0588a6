"""Virtual servers and their real servers, by batched generic netlink.

Law: an add makes its row true whether or not something stood there before; a delete of what is gone is done.
Deleting a virtual server drops its real servers with it, so their deletes in the same run are not sent: they are as
done as their virtual server's.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from errno import EEXIST, EINVAL, ENOENT, EOVERFLOW, ESRCH
from functools import cached_property, partial
from socket import htons, inet_ntop, inet_pton, ntohs
from typing import TypeVar

from kubeproxy_py.kernel import VIRTUAL_SERVERS, Scope, Snapshot, snapshot_of
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host import command
from kubeproxy_py.kernel.ipvs.constants import FAMILY_NAME, Timeouts
from kubeproxy_py.kernel.ipvs.decode import (
    RealServerState,
    decode_dest,
    decode_service,
    decode_timeouts,
    decode_traffic,
    real_server_spec,
)
from kubeproxy_py.kernel.ipvs.encode import (
    encode_get_timeouts,
    encode_list_dests,
    encode_list_services,
    encode_set_timeouts,
    encode_steps,
)
from kubeproxy_py.kernel.ipvs.sockopt import RealServerReader, entries, seal_of
from kubeproxy_py.kernel.netlink.families import AF_INET, family_number
from kubeproxy_py.kernel.netlink.socket import NETLINK_GENERIC, Message, NetlinkError, Socket, generic_family, message
from kubeproxy_py.kernel.runs import of_verb
from kubeproxy_py.model.rows import (
    SERVING,
    Connections,
    Key,
    RealServer,
    Rows,
    Traffic,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.steps import Step, StepFailure

_Answer = TypeVar("_Answer")

log = logging.getLogger(__name__)

_GONE = frozenset((ESRCH, ENOENT))
_MODPROBE_TIMEOUT_S = 30.0
_SERVICES_AT_ONCE = 1000  # some 5 ms

# (kind, errno) -> what it means there; seen on Linux 6.1
_MEANINGS: dict[tuple[type, int], str] = {
    (VirtualServer, ENOENT): "the kernel has no scheduler '{scheduler}' (modprobe ip_vs_{scheduler})",
    (VirtualServer, ESRCH): "no such virtual server",
    (RealServer, ESRCH): "its virtual server does not exist",
    (RealServer, ENOENT): "no such real server",
    (RealServer, EINVAL): "refused as invalid; in a new network namespace, is the loopback interface up?",
    (RealServer, EOVERFLOW): "weight out of range",
}


class IpvsAdapter:
    """VirtualServer and RealServer rows of the network namespace in which it was first used."""

    def scopes(self) -> list[Scope]:
        """One: a real server is only found through its virtual server."""
        return [VIRTUAL_SERVERS]

    def read(self, scope: Scope) -> Rows:
        """All virtual servers but those that go by firewall mark, and their real servers.  Raises KernelError."""
        assert scope == VIRTUAL_SERVERS, scope
        rows: Rows = {}
        for part in self.virtual_servers():
            rows.update(part)
        for server in [key for key in rows if isinstance(key, VirtualServer)]:
            rows.update(self.real_servers(server).rows())
        return rows

    def real_servers(self, server: VirtualServer) -> Snapshot:
        """The real servers of *server*; none if it is gone.  Raises KernelError."""
        if (told := self._by_sockopt(RealServerReader.real_servers, server)) is None:
            return snapshot_of({state.key: state.spec for state in self._states(server)})
        return Snapshot(partial(seal_of, told), partial(_rows, told, server))

    def fingerprint(self, server: VirtualServer) -> int:
        """``real_servers(server).seal()``.  Raises KernelError."""
        found = self._by_sockopt(RealServerReader.seal, server)
        return self.real_servers(server).fingerprint() if found is None else found

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Carry out *steps*.  Raises KernelError if the kernel has no IPVS."""
        doomed: set[Key] = set()
        if "delete" in map(of_verb, steps):
            doomed = {step.key for step in steps if step.verb == "delete" and isinstance(step.key, VirtualServer)}
        sent, folded = (steps, []) if not doomed else _fold(steps, doomed)
        failed = [_failed(step, refusal) for step, refusal in self._carry_out(sent)]
        if folded and failed:
            errors: dict[Key, StepFailure] = {failure.step.key: failure for failure in failed}
            failed += [
                StepFailure(step, error.errno, f"its virtual server stands: {error.message}")
                for step, virtual_server in folded
                if (error := errors.get(virtual_server))
            ]
        return failed

    def connections(self, virtual_servers: Iterable[VirtualServer]) -> dict[RealServer, Connections]:
        """How many connections, busy and idle, each real server of *virtual_servers* has.  Raises KernelError."""
        found: dict[RealServer, Connections] = {}
        for server in virtual_servers:
            if (told := self._by_sockopt(RealServerReader.real_servers, server)) is None:
                found.update((state.key, state.connections) for state in self._states(server))
            else:
                for address, port, _, _, active, inactive in entries(told):
                    key = RealServer(server, inet_ntop(AF_INET, address), ntohs(port))
                    found[key] = Connections(active, inactive)
        return found

    def idle(self, real_servers: Iterable[RealServer]) -> set[RealServer]:
        """Those of *real_servers* that are there and have no connections, busy or idle.  Raises KernelError."""
        wanted: dict[VirtualServer, list[RealServer]] = defaultdict(list)
        for key in real_servers:
            wanted[key.virtual_server].append(key)
        found: set[RealServer] = set()
        for server, keys in wanted.items():
            if (told := self._by_sockopt(RealServerReader.real_servers, server)) is None:
                states = {state.key: state.connections.total for state in self._states(server)}
                found.update(key for key in keys if states.get(key) == 0)
            else:  # few of many: no key is made of the others
                counts = {entry[:2]: entry[4] + entry[5] for entry in entries(told)}
                found.update(key for key in keys if counts.get(_place(key)) == 0)
        return found

    def traffic(self) -> dict[VirtualServer, Traffic]:
        """What each virtual server has carried, in one dump.  Raises KernelError."""
        return dict(found for body in self._listed() if (found := decode_traffic(body)))

    def timeouts(self) -> Timeouts:
        """The namespace's timeouts.  Raises KernelError."""
        return decode_timeouts(self._netlink.ask(self._message(encode_get_timeouts())))

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set those that are not 0.  Raises KernelError if the kernel refuses."""
        refused = self._netlink.execute([self._message(encode_set_timeouts(timeouts))])
        for refusal in refused.values():
            raise KernelError(f"IPVS timeouts: {refusal.text}", errno=refusal.errno)

    def close(self) -> None:
        """Close the sockets; a later use opens others."""
        if "_netlink" in self.__dict__:
            self._netlink.close()
            self._forget()
        if reader := self.__dict__.pop("_dests", None):
            reader.close()

    @cached_property
    def _netlink(self) -> Socket:
        netlink = Socket(NETLINK_GENERIC)
        _ = self._dests  # now, so that both are of one network namespace
        return netlink

    @cached_property
    def _family(self) -> int:
        """The message type that the kernel gave to IPVS when ip_vs was loaded; loads it if it was not."""
        with suppress(KernelError):
            return generic_family(self._netlink, FAMILY_NAME)
        with suppress(KernelError):  # no modprobe: then the kernel has the last word
            command.run(["modprobe", "ip_vs"], timeout_s=_MODPROBE_TIMEOUT_S)
        try:
            return generic_family(self._netlink, FAMILY_NAME)
        except KernelError as error:
            hint = "modprobe ip_vs on the host, or a kernel built with CONFIG_IP_VS"
            raise KernelError("this kernel has no IPVS", errno=error.errno, hint=hint) from error

    def _forget(self) -> None:
        """Open and ask anew next time: ip_vs may have been unloaded and have another number when it is back."""
        for name in ("_netlink", "_family"):
            self.__dict__.pop(name, None)

    def _message(self, body: bytes) -> Message:
        return message(self._family, 0, body)

    def virtual_servers(self) -> Iterator[Rows]:
        """All but those that go by firewall mark, without their real servers, in parts of one listing.

        The kernel tells them in one go, lest one be left out; taken apart they are as they are asked for.  Raises
        KernelError.
        """
        bodies = self._listed()
        for start in range(0, len(bodies), _SERVICES_AT_ONCE):
            part = bodies[start : start + _SERVICES_AT_ONCE]
            yield dict(service for body in part if (service := decode_service(body)))

    def _listed(self) -> list[bytes]:
        """What the kernel tells of each virtual server."""
        try:
            return self._netlink.dump(self._message(encode_list_services()))
        except KernelError:
            self.close()
            raise

    def _states(self, server: VirtualServer) -> Iterator[RealServerState]:
        """The real servers of *server* by netlink."""
        for body in self._netlink.dump(self._message(encode_list_dests(server))):
            yield decode_dest(body, server)

    def _by_sockopt(
        self, ask: Callable[[RealServerReader, VirtualServer], _Answer], server: VirtualServer
    ) -> _Answer | None:
        """What *ask* tells of *server*, by the way that is faster; None where that can't be gone."""
        if self._dests is None or ":" in server.address:
            return None
        try:
            return ask(self._dests, server)
        except OSError as error:
            log.debug("IPVS does not tell real servers by getsockopt, netlink is used: %s", error)
            self._dests.close()
            self._dests = None
            return None

    @cached_property
    def _dests(self) -> RealServerReader | None:
        with suppress(OSError, ImportError):
            return RealServerReader()
        return None

    def _carry_out(self, steps: Sequence[Step]) -> list[tuple[Step, NetlinkError]]:
        """Send *steps*; adds that met their row are sent again as updates."""
        refused = [(step, refusal) for step, refusal in self._send(steps) if not _is_done(step, refusal)]
        if not any(refusal.errno == EEXIST for _, refusal in refused):
            return refused
        met = [Step("update", step.key, step.spec) for step, refusal in refused if refusal.errno == EEXIST]
        originals = {step.key: step for step, _ in refused}
        again = [(originals[step.key], refusal) for step, refusal in self._send(met)]
        return [pair for pair in refused if pair[1].errno != EEXIST] + again

    def _send(self, steps: Sequence[Step]) -> list[tuple[Step, NetlinkError]]:
        if not steps:
            return []
        refused = self._netlink.execute(encode_steps(steps, self._family))
        return [(steps[index], refusal) for index, refusal in sorted(refused.items())]


def _place(key: RealServer) -> tuple[bytes, int]:
    """Address and port of *key* as an answer of DestReader has them."""
    return inet_pton(family_number(key.address), key.address), htons(key.port)


def _rows(told: bytes, server: VirtualServer) -> Rows:
    """The real servers of *server* in an answer of DestReader."""
    rows: Rows = {}
    for address, port, method, weight, _, _ in entries(told):
        key = RealServer(server, inet_ntop(AF_INET, address), ntohs(port))
        rows[key] = SERVING if weight == 1 and not method else real_server_spec(method, weight)
    return rows


def _fold(steps: Sequence[Step], doomed: Set[Key]) -> tuple[list[Step], list[tuple[Step, Key]]]:
    """Part *steps* into those to send, and deletes of real servers that go with a virtual server of *doomed*."""
    sent: list[Step] = []
    folded: list[tuple[Step, Key]] = []
    for step in steps:
        if step.verb == "delete" and isinstance(step.key, RealServer) and step.key.virtual_server in doomed:
            folded.append((step, step.key.virtual_server))
        else:
            sent.append(step)
    return sent, folded


def _is_done(step: Step, refusal: NetlinkError) -> bool:
    return step.verb == "delete" and refusal.errno in _GONE


def _failed(step: Step, refusal: NetlinkError) -> StepFailure:
    scheduler = step.spec.scheduler if isinstance(step.spec, VirtualServerSpec) else ""
    meaning = _MEANINGS.get((type(step.key), refusal.errno), "").format(scheduler=scheduler)
    return StepFailure(step, refusal.errno, meaning or refusal.text or os.strerror(refusal.errno))
