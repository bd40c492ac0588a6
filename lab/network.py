"""A small cluster in one kernel: network namespaces act as machines, veth pairs as cables.

            outside 192.168.3.175      node-b 192.168.3.11 --- cni0 10.244.2.1 --- pod-b1, b2, b3  10.244.2.5-7
                           |              |
                 router 192.168.3.1 (a bridge, `lan`; routes to both pod networks)
                           |
    eth1 172.16.5.10 --- node-a 192.168.3.10 --- cni0 10.244.1.1 --- pod-a1, pod-a2  10.244.1.5-6

IPv6 alike: fd00:3::/64 on the LAN (outside is fd00:3::175), fd00:10:244:1::/64 and fd00:10:244:2::/64 for the pods.
Node A is the machine under test and has the state in which the recorded cases were made: net.ipv4.ip_forward is 0
unless requested, and its only routes are those of the links and the defaults by the router.  IPv6 forwarding is on,
because kube-proxy does not set it.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from lab.namespace import Namespace, new_namespace, this_namespace
from lab.rtnl import Rtnl

NODE_NAME = "node-a"


@dataclass(frozen=True)
class Machine:
    """One machine: the machine whose bridge it is connected to, the port's name there, addresses, default routes."""

    name: str
    plugged_into: str
    port: str
    ipv4: str
    ipv6: str
    gateways: tuple[str, str]


LAN_GATEWAYS = ("192.168.3.1", "fd00:3::1")
A_GATEWAYS = ("10.244.1.1", "fd00:10:244:1::1")
B_GATEWAYS = ("10.244.2.1", "fd00:10:244:2::1")

MACHINES = (
    Machine("node-a", "router", "to-node-a", "192.168.3.10", "fd00:3::10", LAN_GATEWAYS),
    Machine("node-b", "router", "to-node-b", "192.168.3.11", "fd00:3::11", LAN_GATEWAYS),
    Machine("outside", "router", "to-outside", "192.168.3.175", "fd00:3::175", LAN_GATEWAYS),
    Machine("pod-a1", "node-a", "vpod1", "10.244.1.5", "fd00:10:244:1::5", A_GATEWAYS),
    Machine("pod-a2", "node-a", "vpod2", "10.244.1.6", "fd00:10:244:1::6", A_GATEWAYS),
    Machine("pod-b1", "node-b", "vpod1", "10.244.2.5", "fd00:10:244:2::5", B_GATEWAYS),
    Machine("pod-b2", "node-b", "vpod2", "10.244.2.6", "fd00:10:244:2::6", B_GATEWAYS),
    Machine("pod-b3", "node-b", "vpod3", "10.244.2.7", "fd00:10:244:2::7", B_GATEWAYS),
)
BY_NAME = {machine.name: machine for machine in MACHINES}
PODS = tuple(machine for machine in MACHINES if machine.name.startswith("pod-"))

_BRIDGES = {"router": ("lan", LAN_GATEWAYS), "node-a": ("cni0", A_GATEWAYS), "node-b": ("cni0", B_GATEWAYS)}
# Routes of the router: the pods' networks; and all Service addresses by node A, as a load balancer has them.
_ROUTES = (
    ("10.244.1.0/24", "192.168.3.10"),
    ("10.244.2.0/24", "192.168.3.11"),
    ("fd00:10:244:1::/64", "fd00:3::10"),
    ("fd00:10:244:2::/64", "fd00:3::11"),
    ("10.96.0.0/12", "192.168.3.10"),
    ("198.51.100.0/24", "192.168.3.10"),
    ("203.0.113.0/24", "192.168.3.10"),
    ("fd00:10:96::/108", "fd00:3::10"),
    ("2001:db8::/32", "fd00:3::10"),
)
_NODE_A_LINKS = ("eth0", "eth1", "vpod1", "vpod2", "cni0")
# Link-local addresses are usable at once, like the others; and no router advertisement or redirect adds routes.
_EVERYWHERE = {"ipv6/conf/default/accept_dad": 0, "ipv6/conf/default/accept_ra": 0, "ipv4/conf/all/send_redirects": 0}


class Cluster:
    """The cluster of the picture above; it exists within the `with`.

    node_a: "own", a separate namespace, so that clusters do not share state; or "initial", the caller's namespace,
    where the kernel's global sysctls can be written.  "initial" also sets the host name to node-a; `pristine.py`
    resets the remaining state.
    """

    def __init__(self, *, node_a: Literal["own", "initial"] = "own", ipv4_forward: bool = False) -> None:
        self._place = node_a
        self._ipv4_forward = ipv4_forward
        self._stack = ExitStack()
        self._rtnl: dict[str, Rtnl] = {}
        self.namespaces: dict[str, Namespace] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            self._make_namespaces()
            self._make_bridges()
            for machine in MACHINES:
                self._plug_in(machine)
            self._finish()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Namespace:
        return self.namespaces[name]

    @property
    def node_a(self) -> Namespace:
        """The machine under test."""
        return self.namespaces["node-a"]

    def _make_namespaces(self) -> None:
        if self._place == "initial":
            self._stack.callback(socket.sethostname, socket.gethostname())
            socket.sethostname(NODE_NAME)
        for name in ("router", *BY_NAME):
            is_here = name == NODE_NAME and self._place == "initial"
            namespace = this_namespace(name) if is_here else new_namespace(name)
            self._stack.callback(namespace.close)
            self.namespaces[name] = namespace
            with namespace.inside():
                self._rtnl[name] = Rtnl()
            self._stack.callback(self._rtnl[name].close)
            for setting, value in _EVERYWHERE.items() if not is_here else ():
                namespace.set_sysctl(setting, value)
        if self._place == "initial":
            for link in _NODE_A_LINKS:
                self._stack.callback(self._rtnl[NODE_NAME].delete_link, link)

    def _make_bridges(self) -> None:
        for name, (bridge, addresses) in _BRIDGES.items():
            # Without STP the delay does nothing but send a link notification for each port when it is over (15 s).
            self._rtnl[name].add_bridge(bridge, forward_delay_s=0)
            self._rtnl[name].set_up(bridge)
            self._address(name, bridge, *addresses)

    def _plug_in(self, machine: Machine) -> None:
        """Connect the machine's eth0 to a port of the bridge; add its addresses and default routes."""
        bridge, _ = _BRIDGES[machine.plugged_into]
        switch, own = self._rtnl[machine.plugged_into], self._rtnl[machine.name]
        switch.add_veth(machine.port, "eth0", self.namespaces[machine.name].descriptor)
        own.set_up(
            "eth0"
        )  # before the port: a bridge forwards at once to a port that has its carrier when it is set up
        switch.set_up(machine.port, master=bridge)
        self._address(machine.name, "eth0", machine.ipv4, machine.ipv6)
        own.add_route("0.0.0.0/0", machine.gateways[0])
        own.add_route("::/0", machine.gateways[1])

    def _finish(self) -> None:
        self._rtnl[NODE_NAME].add_link("eth1", "dummy")
        self._rtnl[NODE_NAME].set_up("eth1")
        self._rtnl[NODE_NAME].add_address("eth1", "172.16.5.10/24")
        for network, gateway in _ROUTES:
            self._rtnl["router"].add_route(network, gateway)
        for name in _BRIDGES:
            self.namespaces[name].set_sysctl("ipv6/conf/all/forwarding", 1)
            if name != NODE_NAME or self._ipv4_forward:
                self.namespaces[name].set_sysctl("ipv4/ip_forward", 1)

    def _address(self, name: str, link: str, ipv4: str, ipv6: str) -> None:
        self._rtnl[name].add_address(link, f"{ipv4}/24")
        self._rtnl[name].add_address(link, f"{ipv6}/64")
