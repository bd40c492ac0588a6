"""The rules of all chains that a packet of one family may traverse: from rows, or as the kernel prints them."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from kubeproxy_py.diagnose.trace.lookup import Lookup
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import Chain, ChainSpec, Jump, JumpSpec
from kubeproxy_py.net import Family

Rules = tuple[str, ...]
_OUR_CHAINS = frozenset(kube_names.OWN_CHAINS)
_HOOKS = frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))


class Ruleset(Struct, frozen=True, gc=False):
    """Chains by table and name, each with its rules without ``-A CHAIN``.

    Attributes:
        chains: The rules of each chain; a chain that is not there does not exist.
        policies: DROP of a built-in chain; it is ACCEPT if it is not there.
        has_foreign: whether rules of other programs are included.
        remarks: what of the host's rules is not, in words.
    """

    chains: Mapping[tuple[str, str], Rules]
    policies: Mapping[tuple[str, str], str] = {}
    has_foreign: bool = False
    remarks: tuple[str, ...] = ()

    def is_empty(self, table: str, chain: str) -> bool:
        """Return whether *chain* decides nothing."""
        return not self.chains.get((table, chain)) and self.policies.get((table, chain), "ACCEPT") == "ACCEPT"


def is_ours(table: str, chain: str, target: str = "") -> bool:
    """Return whether *chain* is one of ours, or the rule with *target* in a built-in chain jumps to one."""
    return (table, chain) in _OUR_CHAINS or (chain in _HOOKS and (table, target) in _OUR_CHAINS)


def ruleset_of_rows(lookup: Lookup, family: Family) -> Ruleset:
    """Return our chains and jumps as rows have them; a jump is above those that are inserted before it."""
    chains: dict[tuple[str, str], Rules] = {}
    for table, name in kube_names.OWN_CHAINS:
        spec = lookup.get(Chain(family, table, name))
        if isinstance(spec, ChainSpec):
            chains[table, name] = spec.rules
    for table, source, target, _ in kube_names.OWN_JUMPS:
        jump = lookup.get(Jump(family, table, source, target))
        if isinstance(jump, JumpSpec):
            chains[table, source] = (jump.rule.splitlines()[0], *chains.get((table, source), ()))
    return Ruleset(chains)


def ruleset_of_save(lines: Iterable[str], remarks: tuple[str, ...] = ()) -> Ruleset:
    """Return all chains of all tables in the output of ``iptables-save``."""
    chains: dict[tuple[str, str], list[str]] = {}
    policies: dict[tuple[str, str], str] = {}
    table = ""
    for line in lines:
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy, *_ = (*line[1:].split(), "-", "-")
            chains.setdefault((table, name), [])
            if policy != "-":
                policies[table, name] = policy
        elif line.startswith("-A "):
            _, name, rule = (*line.split(" ", 2), "")[:3]
            chains.setdefault((table, name), []).append(rule)
    return Ruleset({key: tuple(rules) for key, rules in chains.items()}, policies, has_foreign=True, remarks=remarks)
