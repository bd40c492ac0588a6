"""The adapter that uses python-iptables, and rules for it."""

from kubeproxy_py.kernel.iptables.backend import IptablesCommands, find_commands
from kubeproxy_py.kernel.iptables.libiptc import LibiptcAdapter
from kubeproxy_py.model.rows import Chain, ChainSpec
from kubeproxy_py.net import FAMILIES

MARK = Chain("IPv4", "nat", "KUBE-MARK-MASQ")
NO_SUCH_SET = ChainSpec(("-m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE",))


def legacy_commands() -> list[IptablesCommands]:
    return [commands for family in FAMILIES if (commands := find_commands("legacy", family))]


def legacy_adapter() -> LibiptcAdapter:
    return LibiptcAdapter(legacy_commands(), "legacy")
