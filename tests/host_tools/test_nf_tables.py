"""The hash of an nft table: equal for what iptables-nft prints alike, counters aside."""

from struct import pack

import pytest

from kubeproxy_py.kernel.iptables.nf_tables import content_hash
from kubeproxy_py.kernel.netlink.attributes import attribute, nested, string

ACCEPT, DROP = 1, 0


def nfgenmsg(commit: int = 1) -> bytes:
    """Return the header of a reply, which has the number of the last commit."""
    return pack("=BB", 2, 0) + pack(">H", commit)


def chain(name: str, table: str = "nat", policy: int = ACCEPT, uses: int = 1, commit: int = 1) -> bytes:
    numbers = attribute(5, pack(">I", policy)) + attribute(6, pack(">I", uses))  # NFTA_CHAIN_POLICY, NFTA_CHAIN_USE
    return nfgenmsg(commit) + string(1, table) + string(3, name) + numbers


def rule(comment: str, octets: int = 0, packets: int = 0, commit: int = 1) -> bytes:
    """Return a rule with a match and a counter, as Linux lists it."""
    counter = nested(2, attribute(1, pack(">Q", octets)), attribute(2, pack(">Q", packets)))
    match = nested(1, string(1, "match"), attribute(2, comment.encode()))  # NFTA_LIST_ELEM
    return nfgenmsg(commit) + string(1, "nat") + nested(4, match, nested(1, string(1, "counter"), counter))


CHAINS = [chain("PREROUTING"), chain("KUBE-SERVICES")]
RULES = [rule("one"), rule("two")]
BEFORE = content_hash(CHAINS, RULES, "nat")


def test_counters_commits_uses_and_other_tables_do_not_change_the_hash() -> None:
    chains = [chain("KUBE-SERVICES", uses=7, commit=2), chain("PREROUTING", commit=2), chain("INPUT", table="filter")]
    rules = [rule("one", 4096, 3, commit=2), rule("two", 0x0C000100636F756E, 1 << 40, commit=2)]
    assert content_hash(chains, rules, "nat") == BEFORE


@pytest.mark.parametrize(
    ("chains", "rules"),
    [
        pytest.param(CHAINS, RULES[:1], id="a rule deleted"),
        pytest.param(CHAINS, [*RULES, rule("three")], id="a rule added"),
        pytest.param(CHAINS, [rule("one"), rule("three")], id="a rule changed"),
        pytest.param(CHAINS, RULES[::-1], id="rules in another order"),
        pytest.param(CHAINS[:1], RULES, id="a chain deleted"),
        pytest.param([chain("PREROUTING", policy=DROP), CHAINS[1]], RULES, id="another policy"),
    ],
)
def test_what_is_printed_otherwise_has_another_hash(chains: list[bytes], rules: list[bytes]) -> None:
    assert content_hash(chains, rules, "nat") != BEFORE
