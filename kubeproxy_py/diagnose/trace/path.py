"""The way of a packet through the hooks of netfilter, IPVS and the routing decision.

IPVS takes a packet from the network after the filter rules of INPUT, and one of this host after the nat rules of
OUTPUT, whether its address is bound or not.  It sends it on by OUTPUT (without nat: the connection has its destination)
and POSTROUTING.

Source: net/netfilter/ipvs/ip_vs_core.c (ip_vs_ops), ip_vs_xmit.c (ip_vs_nat_xmit).
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.diagnose.handing_on import loop_guard
from kubeproxy_py.diagnose.trace.lookup import Lookup, RowLookup
from kubeproxy_py.diagnose.trace.matches import View
from kubeproxy_py.diagnose.trace.packet import ICMP, LOOPBACK_DEVICE, Host, Packet
from kubeproxy_py.diagnose.trace.reasons import (
    NO_OBJECTS,
    Objects,
    explain_end,
    explain_forwarded,
    explain_host,
    explain_not_routed,
    explain_refused,
)
from kubeproxy_py.diagnose.trace.request import Request
from kubeproxy_py.diagnose.trace.result import Branch, Outcome, RealServerChoice, Trace
from kubeproxy_py.diagnose.trace.ruleset import Ruleset, ruleset_of_rows
from kubeproxy_py.diagnose.trace.sender import first_packet
from kubeproxy_py.diagnose.trace.walk import Hooks
from kubeproxy_py.diagnose.trace.way import End, Step, Way
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.conditions import can_set_aside
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import (
    FLAG_SCHED_2,
    Address,
    IpsetEntry,
    RealServer,
    RealServerSpec,
    ReturnTunnel,
    Rows,
    Sysctl,
    TunnelSpec,
    VirtualServer,
    VirtualServerSpec,
    mark_server,
)
from kubeproxy_py.net import IP, family_of

_IPVS_CONNTRACK = Sysctl("net/ipv4/vs/conntrack")
_HASHING = {"sh": "by the client's address", "dh": "by the Service's address", "mh": "by the client's address"}


def trace(
    rows: Rows | Lookup,
    host: Host,
    request: Request,
    objects: Objects = NO_OBJECTS,
    ruleset: Ruleset | None = None,
) -> Trace:
    """Return the way of a packet, from who sends it to who answers.

    Args:
        rows: The rows: those desired, or those of a kernel.
        host: The host that has them.
        request: Who sends the packet, and where.
        objects: The names of the Services.
        ruleset: All rules of the host, also of other programs; None: the rules of *rows* only.

    Raises:
        TraceError: The request does not fit the host; the message names the argument and the remedy.
    """
    lookup = RowLookup(rows) if isinstance(rows, dict) else rows
    view = View(lookup, host.without_service_addresses())
    packet, sender, notes = first_packet(request, view)
    if ruleset is None:
        ruleset = ruleset_of_rows(lookup, packet.family)
    tracer = _Tracer(view, Hooks(ruleset, view), objects)
    outcomes = _distinct(tracer.outcomes(Way(packet)))
    service = objects.name_of(packet.server) if packet.server else ""
    return Trace(packet, sender, service, outcomes, ruleset.has_foreign, (*notes, *ruleset.remarks))


def _distinct(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """Return *outcomes* by the number of doubts, each kind once."""
    kinds: dict[object, Outcome] = {}
    for outcome in sorted(outcomes, key=lambda outcome: len(outcome.doubts)):
        branches = tuple((branch.real_servers, branch.fate, branch.is_masqueraded) for branch in outcome.branches)
        kinds.setdefault((outcome.fate, outcome.reason, branches), outcome)
    return tuple(kinds.values())


class _Tracer(Struct, frozen=True, gc=False):
    """The parts of one trace."""

    view: View
    hooks: Hooks
    objects: Objects

    def outcomes(self, way: Way) -> Iterator[Outcome]:
        """Yield what may become of the packet of *way*, which begins."""
        if way.packet.from_host:
            yield from self._output(way)
        else:
            yield from self._prerouting(way)

    def _prerouting(self, way: Way) -> Iterator[Outcome]:
        ways, ends = self.hooks.run([way], "PREROUTING", "raw", "mangle", "nat")
        yield from self._ended(ends)
        for arrived in ways:
            step = self._routing_step(arrived.packet)
            if self.view.is_local(arrived.packet.destination):
                yield from self._input(arrived.with_step(step))
            elif self._came_by_own_tunnel(arrived.packet):
                reason, remedy = explain_not_routed(arrived.packet)
                steps = (*arrived.steps, replace(step, effect="dropped"))
                yield Outcome("dropped", reason, remedy, steps, arrived.doubts)
            else:
                yield from self._forward(arrived.with_step(step))

    def _came_by_own_tunnel(self, packet: Packet) -> bool:
        """Return whether *packet* came by a return tunnel that no other program uses."""
        key = ReturnTunnel(packet.family)
        if packet.in_interface != str(key):
            return False
        spec = self.view.lookup.get(key)
        if not isinstance(spec, TunnelSpec) or not spec.is_complete:
            return False
        return not any(_is_of_others(own, key, spec) for own in self.view.host.addresses)

    def _routing_step(self, packet: Packet) -> Step:
        address = packet.destination
        if Address(address) in self.view.lookup:
            return Step("routing", "delivered to this node", f"{address} is bound to kube-ipvs0")
        if interface := self.view.host.interface_of(address):
            return Step("routing", "delivered to this node", f"{address} is an address of this node ({interface})")
        return Step("routing", "routed on", f"{address} is not an address of this node")

    def _input(self, way: Way) -> Iterator[Outcome]:
        """Yield what becomes of a packet from the network to an address of this host."""
        ways, ends = self.hooks.run([way], "INPUT", "mangle", "filter")
        yield from self._ended(ends)
        for accepted in ways:
            if server := self._virtual_server(accepted.packet):
                yield self._ipvs(accepted, server)
            else:
                yield self._host(accepted)

    def _host(self, way: Way) -> Outcome:
        is_heard = None if way.packet.protocol == ICMP else self.view.host.listens(way.packet)
        reason, remedy = explain_host(way.packet, self.view, self.objects, is_heard=is_heard)
        step = Step("delivery", "delivered to the programs of this node")
        return Outcome("refused" if is_heard is False else "host", reason, remedy, (*way.steps, step), way.doubts)

    def _forward(self, way: Way) -> Iterator[Outcome]:
        interface = self._interface_to(way.packet.destination)
        way = Way(replace(way.packet, out_interface=interface), way.steps, way.doubts)
        ways, ends = self.hooks.run([way], "FORWARD", "mangle", "filter")
        yield from self._ended(ends)
        yield from self._leave(ways)

    def _leave(self, ways: Iterable[Way]) -> Iterator[Outcome]:
        """Yield what becomes of packets that leave this host, and that IPVS has not taken."""
        left, ends = self.hooks.run(ways, "POSTROUTING", "mangle", "nat")
        yield from self._ended(ends)
        for way in left:
            reason, remedy = explain_forwarded(way.packet, self.view)
            yield Outcome("forwarded", reason, remedy, way.steps, way.doubts)

    def _output(self, way: Way) -> Iterator[Outcome]:
        """Yield what becomes of a packet of this host."""
        is_local = self.view.is_local(way.packet.destination)
        interface = LOOPBACK_DEVICE if is_local else self._interface_to(way.packet.destination)
        way = Way(replace(way.packet, out_interface=interface), way.steps, way.doubts)
        ways, ends = self.hooks.run([way], "OUTPUT", "raw", "mangle", "nat")
        yield from self._ended(ends)
        for sent in ways:
            if server := self._virtual_server(sent.packet):
                yield self._ipvs(sent, server)
            else:
                yield from self._output_past_ipvs(sent)

    def _output_past_ipvs(self, way: Way) -> Iterator[Outcome]:
        ways, ends = self.hooks.run([way], "OUTPUT", "filter")
        yield from self._ended(ends)
        local = [sent for sent in ways if self.view.is_local(sent.packet.destination)]
        yield from self._leave([sent for sent in ways if sent not in local])
        looped, ends = self.hooks.run(local, "POSTROUTING", "mangle", "nat")
        yield from self._ended(ends)
        for sent in looped:
            step = self._routing_step(sent.packet)
            packet = replace(sent.packet, in_interface=LOOPBACK_DEVICE, out_interface=None)
            yield from self._input(Way(packet, (*sent.steps, step), sent.doubts))

    def _ended(self, ends: Iterable[End]) -> Iterator[Outcome]:
        for end in ends:
            reason, remedy = explain_end(end, self.view, self.objects)
            yield Outcome(end.verdict, reason, remedy, end.way.steps, end.way.doubts)

    def _interface_to(self, address: IP) -> str:
        route = self.view.host.route(address)
        return route.interface if route else ""

    # IPVS

    def _virtual_server(self, packet: Packet) -> VirtualServer | None:
        """Return the virtual server that takes *packet*: one by its whole mark before that of its destination."""
        by_address = packet.server
        if by_address and packet.mark and not packet.unknown_mark:
            by_mark = mark_server(packet.family, packet.mark)
            if by_mark in self.view.lookup:
                return by_mark
        return by_address if by_address and by_address in self.view.lookup else None

    def _ipvs(self, way: Way, server: VirtualServer) -> Outcome:
        """Return what becomes of a packet that the virtual server *server* takes."""
        choices = {
            key: RealServerChoice(key.address, key.port, weight, self._is_here(key, way.packet), self._handed_on(key))
            for key, weight in sorted(self.view.lookup.real_servers(server).items())
        }
        draining = tuple(choice for choice in choices.values() if not choice.weight)
        frontend = way.packet.server or server  # a Service has frontends, not marks
        name = self.objects.name_of(frontend)
        step = Step("server", _server_words(len(choices) - len(draining), len(draining)), f"virtual server {server}")
        steps = (*way.steps, step)
        if len(draining) == len(choices):
            reason, remedy = explain_refused(frontend, len(draining), self.objects)
            return Outcome("refused", reason, remedy, steps, way.doubts, str(server), draining=draining)
        passed = [(choice, *self._to_real_server(way, key)) for key, choice in choices.items() if choice.weight]
        branches = tuple(self._branches(way, passed))
        spec = self.view.lookup.get(server)
        scheduler = _scheduler_words(spec) if isinstance(spec, VirtualServerSpec) else ""
        notes = tuple(self._notes(way.packet, branches, spec, draining))
        served = [branch for branch in branches if branch.fate == "served"]
        if not served:
            ends = [end for _, _, ends in passed for end in ends]
            reason, remedy = explain_end(ends[0], self.view, self.objects)
            fate = ends[0].verdict
            return Outcome(fate, reason, remedy, steps, way.doubts, str(server), scheduler, branches, draining, notes)
        count = sum(len(branch.real_servers) for branch in served)
        reason = f"by {'one of ' if count > 1 else ''}{_endpoints(count)}{f' of {name}' if name else ''}"
        return Outcome("served", reason, "", steps, way.doubts, str(server), scheduler, branches, draining, notes)

    def _handed_on(self, key: RealServer) -> str:
        spec = self.view.lookup.get(key)
        is_node = isinstance(spec, RealServerSpec) and spec.forwarding != "masquerade"
        return spec.forwarding if isinstance(spec, RealServerSpec) and is_node else ""

    def _is_here(self, key: RealServer, packet: Packet) -> bool:
        """Return whether a real server is on this host: its own address, or a pod for which hairpin is prepared."""
        entry = f"{key.address},{packet.protocol.lower()}:{key.port},{key.address}"
        name = kube_names.LOOP_BACK.name_in(family_of(key.address))
        return IpsetEntry(name, entry) in self.view.lookup or self.view.is_local(key.address)

    def _to_real_server(self, way: Way, key: RealServer) -> tuple[tuple[Way, ...], tuple[End, ...]]:
        """Return the ways of the packet to a real server, without the steps before, and those that end."""
        is_local = self.view.is_local(key.address)
        handed_on = self._handed_on(key)
        packet = replace(
            way.packet,
            destination=way.packet.destination if handed_on else key.address,
            port=way.packet.port if handed_on else key.port,
            virtual_server=way.packet.server,
            in_interface=None,
            out_interface=LOOPBACK_DEVICE if is_local else self._interface_to(key.address),
        )
        begin = Way(packet, (), way.doubts)
        if handed_on == "tunnel":
            return (begin,), ()  # rules see the packet around it only, which is this node's
        if is_local and not packet.from_host:
            return (begin,), ()  # IPVS leaves it in INPUT
        sent, ends = self.hooks.run([begin], "OUTPUT", "mangle", "filter")
        left, more = self.hooks.run(sent, "POSTROUTING", "mangle", "nat")
        if not is_local:
            return left, (*ends, *more)
        looped = [
            Way(replace(w.packet, in_interface=LOOPBACK_DEVICE, out_interface=None), w.steps, w.doubts) for w in left
        ]
        arrived, last = self.hooks.run(looped, "INPUT", "mangle", "filter")
        return arrived, (*ends, *more, *last)

    def _branches(
        self, way: Way, passed: Iterable[tuple[RealServerChoice, tuple[Way, ...], tuple[End, ...]]]
    ) -> Iterator[Branch]:
        groups: dict[object, list[tuple[RealServerChoice, Branch]]] = {}
        for choice, ways, ends in passed:
            branch = self._branch(way, choice, ways, ends)
            rules = tuple((step.table, step.chain, step.number, step.certain) for step in branch.steps)
            where = (branch.interface, choice.is_here, choice.handed_on)
            kind = (rules, branch.fate, branch.is_masqueraded, branch.source, *where)
            groups.setdefault(kind, []).append((choice, branch))
        for members in groups.values():
            yield replace(members[0][1], real_servers=tuple(choice for choice, _ in members))

    def _branch(self, way: Way, choice: RealServerChoice, ways: tuple[Way, ...], ends: tuple[End, ...]) -> Branch:
        if not ways or (ends and any(not end.way.doubts[len(way.doubts) :] for end in ends)):
            end = ends[0]
            return Branch((choice,), end.way.steps, end.verdict, is_masqueraded=None, source="", interface="")
        masqueraded = {passed.packet.is_masqueraded and self._can_masquerade() for passed in ways}
        is_masqueraded = masqueraded.pop() if len(masqueraded) == 1 else None
        route = self.view.host.route(choice.address)
        own = "" if is_masqueraded is None else way.packet.source
        return Branch(
            (choice,),
            ways[0].steps,
            "unknown" if ends else "served",
            is_masqueraded,
            (route.source if route else "") if is_masqueraded else own,
            route.interface if route else "",
        )

    def _can_masquerade(self) -> bool:
        return self.view.lookup.get(_IPVS_CONNTRACK) != "0"

    def _notes(
        self, packet: Packet, branches: Iterable[Branch], spec: object, draining: tuple[RealServerChoice, ...]
    ) -> Iterator[str]:
        if not self._can_masquerade():
            yield "net.ipv4.vs.conntrack is 0: IPVS does not masquerade; set it to 1"
        for branch in branches:
            if branch.fate != "served" or branch.is_masqueraded:
                continue
            yield from self._answer_notes(packet, branch)
        if isinstance(spec, VirtualServerSpec) and draining and not can_set_aside(spec.scheduler, spec.flags):
            yield f"clients that {spec.scheduler} assigns to a draining real server are refused until it is deleted"

    def _answer_notes(self, packet: Packet, branch: Branch) -> Iterator[str]:
        """Yield how the answer may be lost of a real server that sees the client's own address."""
        for choice in (each for each in branch.real_servers if each.handed_on):
            how = f"handed the packet as it is by {choice.handed_on}"
            guard = loop_guard(choice.handed_on, family_of(choice.address))
            yield f"{choice.address} is a node, {how}; it answers the client itself, and hands on nothing that {guard}"
        remote = [choice for choice in branch.real_servers if not choice.is_here and not choice.handed_on]
        itself = [choice for choice in branch.real_servers if choice.address == packet.source]
        if itself:
            yield f"{itself[0].address} is the client itself, and not masqueraded: its answer does not pass this node"
        if not remote:
            return
        if packet.from_host and Address(packet.source) in self.view.lookup:
            yield (
                f"the source stays {packet.source}, a Service address: the answer of "
                f"{remote[0].address} is lost unless the network routes that address to this node"
            )
        elif not packet.from_host:
            yield (
                f"{remote[0].address} is on another node and sees the client's own address: its answer is lost unless "
                f"it returns by this node"
            )


def _is_of_others(own: HostAddress, tunnel: ReturnTunnel, spec: TunnelSpec) -> bool:
    """Return whether another program has given the device of *tunnel* the address *own*."""
    is_there = own.interface == str(tunnel) and family_of(own.address) == tunnel.family
    return is_there and own.address != spec.address and not ip_address(own.address).is_link_local


def _server_words(serving: int, draining: int) -> str:
    text = f"{serving} real server{'' if serving == 1 else 's'}" if serving else "no real server for new connections"
    return f"{text}, {draining} draining or set aside" if draining else text


def _endpoints(count: int) -> str:
    return f"{count} real server{'' if count == 1 else 's'}"


def _scheduler_words(spec: VirtualServerSpec) -> str:
    how = _HASHING.get(spec.scheduler)
    port = " and port" if spec.flags & FLAG_SCHED_2 else ""
    text = f"{spec.scheduler}, {how}{port}" if how else spec.scheduler
    whom = f"the clients of a network by mask {spec.netmask}" if spec.netmask else "each client"
    return f"{text}; one for {whom} for {spec.persistence_s} s" if spec.persistence_s else text
