"""Convert between steps and rows and the text of ``iptables-restore`` and ``iptables-save``.

Invariants:
- Pure, and rules are never parsed: a rule is the text that ``iptables-save`` prints.
- Restore text names only the chains and jumps of its steps and may be applied twice: the old contents of a chain do not
  matter, and jumps are counted beforehand, so that none is inserted twice.
- A jump to KUBE-SERVICES that follows another program's jump for all local addresses differs from the desired one
  and is moved to the top.  In IPVS mode Service addresses are local, so the other program (a CNI plugin's hostPorts)
  would take packets to Services.  All other rules above our jumps, an administrator's for example, stay above them.
- Within one table the text is always in the order that iptables-legacy and iptables-nft both accept, independent of
  the order of the steps: empty the chains, fill them, delete and insert jumps, delete chains.  A table is committed
  atomically, so no packet sees an intermediate state.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import Chain, ChainSpec, Jump, JumpSpec, Rows, Table
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import Family

TABLES: tuple[Table, ...] = ("nat", "filter")
"""The tables that kube-proxy's rules are in."""

POLICY_TABLES: tuple[Table, ...] = ("mangle", *TABLES)
"""The tables of ours with exact policies."""

JumpCounts = Mapping[tuple[str, str, str], int]
"""(table, built-in chain, rule) -> how often the chain contains the rule."""

_OUR_CHAINS = frozenset(kube_names.OWN_CHAINS)
_JUMP_SOURCES = frozenset((table, source) for table, source, _target, _comment in kube_names.OWN_JUMPS)
_OUR_CHAIN_LINE = f":{kube_names.PREFIX}".encode()
_MOVABLE_SOURCES = ("PREROUTING", "OUTPUT")  # of the nat table

_COMMENT = r'(?:-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) )*'
_NOT_LOOPBACK = r"(?:! -d (?:127\.0\.0\.0/8|::1/128) )?"
# A jump for all local addresses.  A rule with any other match (an interface, a port) is somebody's exception: it stays.
_LOCAL_JUMP = re.compile(rf"{_NOT_LOOPBACK}{_COMMENT}-m addrtype --dst-type LOCAL {_COMMENT}-[jg] (\S+)$")
_NO_CHAINS = frozenset(("ACCEPT", "DROP", "RETURN", "QUEUE", "LOG", "TRACE", "MASQUERADE", "REDIRECT"))


def restore_text(steps: Sequence[Step], jump_counts: JumpCounts) -> bytes:
    """Return the input of ``iptables-restore --noflush`` for Chain and Jump steps of one family.

    Args:
        steps: The steps of one family.
        jump_counts: How often each jump exists now (``count_jumps``); a jump that exists is left where it is.

    Returns:
        The text; empty if there is nothing to do.

    Raises:
        ValueError: A rule is not exactly one line.
    """
    lines = [line for table in POLICY_TABLES for line in _table_lines(table, steps, jump_counts)]
    return "".join(f"{line}\n" for line in lines).encode()


def saved_rows(saved: bytes, family: Family, table: Table) -> Rows:
    """Return our chains and jumps, and nothing else, from the output of ``iptables-save -t TABLE``.

    The spec of a jump that exists n times is its rule n times, one per line: so it differs from the desired spec and is
    planned as an update, which ``restore_text`` reduces to one.
    """
    chains: dict[str, list[str]] = {}
    jumps = _jumps_by_rule(family, table)
    jump_rows: Rows = {}
    local_jumps: dict[str, str] = {}  # built-in chain -> target of the first jump for local addresses
    for kind, name, rule in _our_lines(saved, table):
        if kind == ":":
            chains[name] = []
        elif name in chains:
            chains[name].append(rule)
        elif (jump := jumps.get((name, rule))) is not None:
            earlier = jump_rows.get(jump)
            if isinstance(earlier, JumpSpec):
                jump_rows[jump] = JumpSpec(f"{earlier.rule}\n{rule}", earlier.behind)
            else:
                jump_rows[jump] = JumpSpec(rule, local_jumps.get(name, ""))
        elif table == "nat" and name in _MOVABLE_SOURCES and (target := _local_jump_target(rule)):
            local_jumps.setdefault(name, target)
    chain_rows: Rows = {Chain(family, table, name): ChainSpec(tuple(rules)) for name, rules in chains.items()}
    return chain_rows | jump_rows


def is_move(step: Step) -> bool:
    """Return whether *step* moves a jump to the top of its chain."""
    return step.verb == "update" and isinstance(step.before, JumpSpec) and bool(step.before.behind)


def _jumps_by_rule(family: Family, table: Table) -> dict[tuple[str, str], Jump]:
    """Return our jumps by chain and rule, both with and without their comments."""
    return {
        (jump.source, rule): jump
        for comments in (False, True)
        for jump, rule in kube_names.jumps(family, comments=comments, policies=True).items()
        if jump.table == table
    }


def _local_jump_target(rule: str) -> str:
    """Return the chain to which *rule* takes packets to all local addresses; "" if it does not."""
    match = _LOCAL_JUMP.match(rule)
    return match[1] if match and match[1] not in _NO_CHAINS else ""


def count_jumps(saved: bytes) -> Counter[tuple[str, str, str]]:
    """Count each rule of the built-in chains that our jumps are in, for all tables in the saved text."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for table in POLICY_TABLES:
        counts.update(
            (table, name, rule)
            for kind, name, rule in _our_lines(saved, table)
            if kind == "-A" and (table, name) in _JUMP_SOURCES
        )
    return counts


def our_lines(saved: bytes, table: Table) -> bytes:
    """Return *saved* reduced to what ``saved_rows`` and ``count_jumps`` need; a node may have 50,000 other rules."""
    lines = (
        f":{name} - [0:0]" if kind == ":" else f"-A {name} {rule}" for kind, name, rule in _our_lines(saved, table)
    )
    return "\n".join((f"*{table}", *lines, "COMMIT\n")).encode("utf-8", "surrogateescape")


def _our_lines(saved: bytes, table: Table) -> Iterator[tuple[str, str, str]]:
    """Yield (":", chain, "") and ("-A", chain, rule) for our chains and for the built-in chains that our jumps are in.

    All other lines are skipped as bytes, without decoding them; a node may have 50,000.
    """
    _, _, section = (b"\n" + saved).partition(f"\n*{table}\n".encode())
    for line in section.partition(b"\nCOMMIT\n")[0].split(b"\n"):
        if line.startswith((_OUR_CHAIN_LINE, b"-A ")):
            decoded = line.decode("utf-8", "surrogateescape")
            kind, _, tail = (":", "", decoded[1:]) if decoded[0] == ":" else decoded.partition(" ")
            name, _, rule = tail.partition(" ")
            if (table, name) in _OUR_CHAINS or (table, name) in _JUMP_SOURCES:
                yield kind, name, rule if kind == "-A" else ""


def _table_lines(table: Table, steps: Sequence[Step], jump_counts: JumpCounts) -> list[str]:
    """Return the lines of one table, ``*table`` to ``COMMIT``; none if there is nothing to do."""
    # A chain that loses rules is in a plan twice, first with rules to add and then with rules removed; only its last
    # state is written.
    chains = {step.key: step for step in steps if isinstance(step.key, Chain) and step.key.table == table}
    jumps = [(step, step.key) for step in steps if isinstance(step.key, Jump) and step.key.table == table]
    body = [f":{chain.name} - [0:0]" for chain in chains]
    for chain, step in chains.items():
        if isinstance(step.spec, ChainSpec) and step.verb != "delete":
            body += [f"-A {chain.name} {_one_line(rule)}" for rule in step.spec.rules]
    for step, jump in jumps:
        body += _jump_lines(step, jump, jump_counts)
    body += [f"-X {chain.name}" for chain, step in chains.items() if step.verb == "delete"]
    return [f"*{table}", *body, "COMMIT"] if body else []


def _jump_lines(step: Step, jump: Jump, jump_counts: JumpCounts) -> Iterator[str]:
    """Yield ``-D`` for each surplus copy of the jump and ``-I`` if it is missing; both for a move."""
    desired = _rule_of(step, jump) if step.verb != "delete" else None
    for rule in sorted(_rule_texts(step, jump)):
        count = jump_counts.get((jump.table, jump.source, rule), 0)
        kept = rule == desired and count > 0 and not is_move(step)
        for _ in range(count - kept):
            yield f"-D {jump.source} {_one_line(rule)}"
        if rule == desired and not kept:
            yield f"-I {jump.source} {_one_line(rule)}"


def _rule_texts(step: Step, jump: Jump) -> set[str]:
    """Return every rule text that *step* uses for its jump: the desired one and those found before."""
    before = step.before.rule.splitlines() if isinstance(step.before, JumpSpec) else ()
    return {_rule_of(step, jump), *before}


def _rule_of(step: Step, jump: Jump) -> str:
    """Return the rule of *jump*: the step's or, for a delete, the one of kube_names.OWN_JUMPS."""
    return step.spec.rule if isinstance(step.spec, JumpSpec) else kube_names.jumps(jump.family, policies=True)[jump]


def _one_line(rule: str) -> str:
    """Return *rule*.  Raises ValueError if it contains a second line, which would be another command."""
    if "\n" in rule or "\0" in rule:
        raise ValueError(f"rule is not one line: {rule!r}")
    return rule
