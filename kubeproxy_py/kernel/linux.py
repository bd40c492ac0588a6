"""LinuxKernel: the kernel of this network namespace, part by part.

Law: one adapter for each part, none of which knows another; dispatch.py keeps their order and ``scope_of`` their
borders.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

from kubeproxy_py.kernel import Readable, Scope, Snapshot, snapshot_of
from kubeproxy_py.kernel.address.adapter import AddressAdapter
from kubeproxy_py.kernel.conntrack.table import Conntrack
from kubeproxy_py.kernel.dispatch import Adapter, Snapshotter, dispatch
from kubeproxy_py.kernel.host.sysctl import SysctlAdapter
from kubeproxy_py.kernel.ipset.adapter import IpsetAdapter
from kubeproxy_py.kernel.ipset.command import IpsetCommandAdapter
from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import (
    Address,
    Chain,
    Connections,
    Ipset,
    IpsetEntry,
    Jump,
    Key,
    Link,
    RealServer,
    Rows,
    Sysctl,
    VirtualServer,
)
from kubeproxy_py.model.steps import Outcome, Plan


class LinuxKernel:
    """Carries out plans on the running kernel.

    *programs* has the iptables programs of each family that is used (flavour.py); *sysctls* are the settings that
    ``read`` tells; *ipset_by_tool* is for kernels whose sets netlink can't handle (probe.py); *rules* is for
    chains and jumps that are written in another way than by iptables-restore.
    """

    def __init__(
        self,
        programs: Sequence[IptablesCommands],
        *,
        sysctls: Iterable[str] = (),
        ipset_by_tool: bool = False,
        rules: Adapter | None = None,
    ) -> None:
        families = tuple(each.family for each in programs)
        self._device, self._servers, self._conntrack = AddressAdapter(), IpvsAdapter(), Conntrack()
        settings, rules = SysctlAdapter(sysctls), rules or IptablesAdapter(programs)
        sets: Adapter = IpsetCommandAdapter(families) if ipset_by_tool else IpsetAdapter(families)
        self._adapters: dict[type[Key], Adapter] = {
            Sysctl: settings,
            Link: self._device,
            Address: self._device,
            Ipset: sets,
            IpsetEntry: sets,
            Chain: rules,
            Jump: rules,
            VirtualServer: self._servers,
            RealServer: self._servers,
        }
        self._readers = {scope: adapter for adapter in self._each() for scope in adapter.scopes()}

    def scopes(self) -> Sequence[Scope]:
        """Settings, device, sets, tables, virtual servers."""
        return list(self._readers)

    def read(self, scope: Scope) -> Rows:
        """The rows of *scope* as they are now.  Raises KernelError."""
        return self._readers[scope].read(scope)

    def virtual_servers(self) -> Iterator[Rows]:
        """The virtual servers alone, in parts of one listing.  Raises KernelError."""
        return self._servers.virtual_servers()

    def snapshot(self, part: Readable) -> Snapshot:
        """What the kernel says of *part* now; of a virtual server that is gone, nothing.  Raises KernelError."""
        if isinstance(part, VirtualServer):
            return self._servers.real_servers(part)
        reader = self._readers[part]
        return reader.snapshot(part) if isinstance(reader, Snapshotter) else snapshot_of(reader.read(part))

    def fingerprint(self, part: Readable) -> int:
        """``listing(part).seal()``, for who needs nothing else.  Raises KernelError."""
        return self._servers.fingerprint(part) if isinstance(part, VirtualServer) else self.snapshot(part).fingerprint()

    def apply(self, plan: Plan) -> Outcome:
        """Carry out every step that can be, in order; see dispatch.py for those that wait."""
        return dispatch(plan, self._adapters)

    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        """How many connection entries each real server of *virtual_servers* has now.  Raises KernelError."""
        return self._servers.connections(virtual_servers)

    def idle(self, real_servers: Iterable[RealServer]) -> set[RealServer]:
        """Those of *real_servers* that are there and have no connection entries now.  Raises KernelError."""
        return self._servers.idle(real_servers)

    def host_addresses(self) -> tuple[HostAddress, ...]:
        """All addresses of all interfaces, sorted.  Raises KernelError."""
        return self._device.host_addresses()

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        """The UDP flows to *servers* in parts, each as it is read; perhaps some of them twice.  Raises KernelError."""
        return self._conntrack.udp_flows(servers)

    def delete_flows(self, flows: Collection[Flow]) -> tuple[int, list[str]]:
        """Delete *flows*: how many were, and the words with which the kernel refused others.  Raises KernelError."""
        return self._conntrack.delete_flows(flows)

    def close(self) -> None:
        """Give back sockets; the state of the kernel stays."""
        for adapter in self._each():
            adapter.close()

    def _each(self) -> Iterable[Adapter]:
        return dict.fromkeys(self._adapters.values())
