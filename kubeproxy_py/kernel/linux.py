"""LinuxKernel: the kernel of this network namespace, through one adapter for each part of it.

Invariants:
- No adapter knows another: dispatch.py hands each its steps, and ``scope_of`` draws the borders between them.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

from kubeproxy_py.kernel import MarkReader, Readable, RealServerListing, Scope, Snapshot, snapshot_of
from kubeproxy_py.kernel.address.adapter import AddressAdapter
from kubeproxy_py.kernel.address.host_network import HostNetwork
from kubeproxy_py.kernel.address.loopback import LoopbackAdapter
from kubeproxy_py.kernel.address.tunnel import TunnelAdapter
from kubeproxy_py.kernel.conntrack.table import Conntrack
from kubeproxy_py.kernel.dispatch import Adapter, Marked, Snapshotter, dispatch
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.sysctl import SysctlAdapter
from kubeproxy_py.kernel.ipset.adapter import IpsetAdapter
from kubeproxy_py.kernel.ipset.command import IpsetCommandAdapter
from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.kernel.iptables.marks import TableMarkReader
from kubeproxy_py.kernel.iptables.text import POLICY_TABLES, TABLES
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.node import HostAddress, Neighbour
from kubeproxy_py.model.rows import (
    Address,
    Chain,
    Connections,
    Ipset,
    IpsetEntry,
    Jump,
    Key,
    Link,
    LoopbackPath,
    PolicyEntry,
    RealServer,
    ReturnTunnel,
    Rows,
    Sysctl,
    VirtualServer,
)
from kubeproxy_py.model.steps import Outcome, Plan
from kubeproxy_py.net import IP


class LinuxKernel:
    """The running kernel; see Kernel for its methods.

    Args:
        iptables_commands: The iptables programs of each family that is used (iptables/backend.py).
        sysctls: Paths of the sysctls that ``read`` returns.
        use_ipset_command: Run the ``ipset`` program, for kernels whose sets netlink cannot handle (host_probe.py).
        rules_adapter: Writes chains and jumps; default: by iptables-restore.
        policies: Read and write the rows of exact policies, too, which are in the mangle table, and in sets and virtual
            servers of their own.
    """

    def __init__(
        self,
        iptables_commands: Sequence[IptablesCommands],
        *,
        sysctls: Iterable[str] = (),
        use_ipset_command: bool = False,
        rules_adapter: Adapter | None = None,
        policies: bool = False,
    ) -> None:
        families = tuple(commands.family for commands in iptables_commands)
        self._ipvs, self._conntrack = IpvsAdapter(marks=policies), Conntrack()
        self._link = AddressAdapter(self._served_addresses)
        self._network = HostNetwork()
        tables = POLICY_TABLES if policies else TABLES
        rules = rules_adapter or IptablesAdapter(iptables_commands, tables)
        sets: Adapter = (
            IpsetCommandAdapter(families, policies=policies)
            if use_ipset_command
            else IpsetAdapter(families, policies=policies)
        )
        self._adapters: dict[type[Key], Adapter] = {
            Sysctl: SysctlAdapter(sysctls),
            Link: self._link,
            Address: self._link,
            Ipset: sets,
            IpsetEntry: sets,
            PolicyEntry: sets,
            Chain: rules,
            Jump: rules,
            VirtualServer: self._ipvs,
            RealServer: self._ipvs,
            **({LoopbackPath: LoopbackAdapter(), ReturnTunnel: TunnelAdapter()} if policies else {}),
        }
        self._tables = TableMarkReader(iptables_commands, tables)
        self._readers = {scope: adapter for adapter in self._distinct_adapters() for scope in adapter.scopes()}

    def scopes(self) -> Sequence[Scope]:
        """Return those of all adapters: with exact policies also loopback paths and return tunnels."""
        return list(self._readers)

    def read(self, scope: Scope) -> Rows:
        """Read from the adapter of *scope*."""
        return self._readers[scope].read(scope)

    def virtual_servers(self) -> Iterator[Rows]:
        """List by netlink."""
        return self._ipvs.virtual_servers()

    def snapshot(self, readable: Readable) -> Snapshot:
        """List from the adapter of *readable*."""
        if isinstance(readable, VirtualServer):
            return self._ipvs.real_servers(readable)
        reader = self._readers[readable]
        return reader.snapshot(readable) if isinstance(reader, Snapshotter) else snapshot_of(reader.read(readable))

    def fingerprint(self, readable: Readable) -> int:
        """Hash what the adapter of *readable* lists."""
        if isinstance(readable, VirtualServer):
            return self._ipvs.fingerprint(readable)
        return self.snapshot(readable).fingerprint()

    def mark_readers(self) -> Sequence[MarkReader]:
        """Return those of IPVS, sets and tables; chains and jumps are read by programs, their marks by the kernel."""
        adapters = [adapter for adapter in self._distinct_adapters() if isinstance(adapter, Marked)]
        return [*(reader for adapter in adapters for reader in adapter.mark_readers()), *self._tables.mark_readers()]

    def real_server_listing(self) -> RealServerListing:
        """Return that of IPVS."""
        return self._ipvs.pieces

    def apply(self, plan: Plan) -> Outcome:
        """Carry out *plan* in order."""
        return dispatch(plan, self._adapters)

    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        """Read from IPVS."""
        return self._ipvs.connections(virtual_servers)

    def idle(self, real_servers: Iterable[RealServer]) -> set[RealServer]:
        """Read from IPVS."""
        return self._ipvs.idle(real_servers)

    def host_addresses(self) -> tuple[HostAddress, ...]:
        """List by rtnetlink."""
        return self._link.host_addresses()

    def gateways(self) -> dict[IP, str]:
        """Read the routes by rtnetlink."""
        return self._network.gateways()

    def solicit(self, targets: Iterable[HostAddress]) -> None:
        """Request it by rtnetlink."""
        self._network.solicit(targets)

    def neighbours(self, interfaces: Collection[str]) -> tuple[Neighbour, ...]:
        """Read the neighbour tables by rtnetlink."""
        return self._network.neighbours(interfaces)

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        """List from conntrack."""
        return self._conntrack.udp_flows(servers)

    def delete_flows(self, flows: Collection[Flow]) -> tuple[int, list[str]]:
        """Delete from conntrack."""
        return self._conntrack.delete_flows(flows)

    def close(self) -> None:
        """Close the sockets of all adapters."""
        for adapter in self._distinct_adapters():
            adapter.close()
        self._network.close()
        self._tables.close()

    def _served_addresses(self) -> Collection[IP]:
        """Return the addresses of the virtual servers; none if the kernel has no IPVS."""
        try:
            return {
                key.address for chunk in self._ipvs.virtual_servers() for key in chunk if isinstance(key, VirtualServer)
            }
        except KernelError:
            return ()

    def _distinct_adapters(self) -> Iterable[Adapter]:
        return dict.fromkeys(self._adapters.values())
