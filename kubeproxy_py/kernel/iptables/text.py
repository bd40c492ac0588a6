"""The text of ``iptables-restore`` and ``iptables-save``: steps -> restore input, saved text -> rows.

Law: pure, and no rule is ever parsed; a rule is the text that ``iptables-save`` prints.  A restore names only the
chains and jumps of its steps, and may be given twice: what a chain held before does not matter, and jumps are
counted first, so that none comes to stand twice.

Within one table the input is always in this order, which iptables-legacy and iptables-nft both take, whatever the
order of the steps: empty the chains, fill them, remove and insert jumps, delete chains.  A table is committed as
one, so no packet sees an order.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import Chain, ChainSpec, Jump, JumpSpec, Rows, Table
from kubeproxy_py.model.services import Family
from kubeproxy_py.model.steps import Step

TABLES: tuple[Table, ...] = ("nat", "filter")

Copies = Mapping[tuple[str, str, str], int]  # (table, built-in chain, rule) -> how often it stands there

_OUR_CHAINS = frozenset(tables.CHAINS)
_SOURCES = frozenset((table, source) for table, source, _target, _comment in tables.JUMPS)


def restore_text(steps: Sequence[Step], copies: Copies) -> bytes:
    """The input of ``iptables-restore --noflush`` for Chain and Jump steps of one family; b"" if nothing is to do.

    ``copies`` tells how often each jump stands now (``count_jumps``); a jump that stands is left where it is.
    Raises ValueError for a rule that is not one line.
    """
    lines = [line for table in TABLES for line in _table_lines(table, steps, copies)]
    return "".join(f"{line}\n" for line in lines).encode()


def saved_rows(saved: bytes, family: Family, table: Table) -> Rows:
    """Our chains and jumps in what ``iptables-save -t TABLE`` printed; nothing that is another's.

    A jump that stands n times has its rule n times, one a line: so it differs from the one that is wanted, and is
    planned as an update, which ``restore_text`` makes one again.
    """
    chains: dict[str, list[str]] = {}
    jumps = {(jump.source, rule): jump for jump, rule in tables.jumps(family).items() if jump.table == table}
    rows: Rows = {}
    for kind, name, rest in _lines_of(saved, table):
        if kind == ":":
            chains[name] = []
        elif name in chains:
            chains[name].append(rest)
        elif (jump := jumps.get((name, rest))) is not None:
            before = rows.get(jump)
            rows[jump] = JumpSpec(f"{before.rule}\n{rest}" if isinstance(before, JumpSpec) else rest)
    made: Rows = {Chain(family, table, name): ChainSpec(tuple(rules)) for name, rules in chains.items()}
    return made | rows


def count_jumps(saved: bytes) -> Counter[tuple[str, str, str]]:
    """How often each rule stands in the built-in chains that we jump from, in all tables of the saved text."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for table in TABLES:
        counts.update(
            (table, name, rest) for kind, name, rest in _lines_of(saved, table) if kind == "-A" and name[:5] != "KUBE-"
        )
    return counts


def what_concerns_us(saved: bytes, table: Table) -> bytes:
    """*saved* with no more than what ``saved_rows`` and ``count_jumps`` look at: nodes have 50,000 rules of others."""
    lines = (f":{name} - [0:0]" if kind == ":" else f"-A {name} {rest}" for kind, name, rest in _lines_of(saved, table))
    return "\n".join((f"*{table}", *lines, "COMMIT\n")).encode("utf-8", "surrogateescape")


def _lines_of(saved: bytes, table: Table) -> Iterator[tuple[str, str, str]]:
    """(":", chain, "") and ("-A", chain, rule) for our chains and for built-in chains that we jump from.

    Nodes may hold 50,000 rules of others, so the rest is passed over as bytes.
    """
    _, _, section = (b"\n" + saved).partition(f"\n*{table}\n".encode())
    for line in section.partition(b"\nCOMMIT\n")[0].split(b"\n"):
        if line.startswith((b":KUBE-", b"-A ")):
            words = line.decode("utf-8", "surrogateescape")
            kind, _, tail = (":", "", words[1:]) if words[0] == ":" else words.partition(" ")
            name, _, rest = tail.partition(" ")
            if (table, name) in _OUR_CHAINS or (table, name) in _SOURCES:
                yield kind, name, rest if kind == "-A" else ""


def _table_lines(table: Table, steps: Sequence[Step], copies: Copies) -> list[str]:
    """The lines of one table, ``*table`` to ``COMMIT``; none where nothing is to do."""
    # A chain that loses rules stands twice in a plan: what was added to it goes, and only its last state is written.
    chains = {step.key: step for step in steps if isinstance(step.key, Chain) and step.key.table == table}
    jumps = [(step, step.key) for step in steps if isinstance(step.key, Jump) and step.key.table == table]
    body = [f":{chain.name} - [0:0]" for chain in chains]
    for chain, step in chains.items():
        if isinstance(step.spec, ChainSpec) and step.verb != "delete":
            body += [f"-A {chain.name} {_one_line(rule)}" for rule in step.spec.rules]
    for step, jump in jumps:
        body += _jump_lines(step, jump, copies)
    body += [f"-X {chain.name}" for chain, step in chains.items() if step.verb == "delete"]
    return [f"*{table}", *body, "COMMIT"] if body else []


def _jump_lines(step: Step, jump: Jump, copies: Copies) -> Iterator[str]:
    """``-D`` for each copy too many, ``-I`` for one that is missing."""
    wanted = _rule_of(step, jump) if step.verb != "delete" else None
    for rule in sorted(_rules_named(step, jump)):
        here = copies.get((jump.table, jump.source, rule), 0)
        for _ in range(here - (rule == wanted)):
            yield f"-D {jump.source} {_one_line(rule)}"
        if rule == wanted and not here:
            yield f"-I {jump.source} {_one_line(rule)}"


def _rules_named(step: Step, jump: Jump) -> set[str]:
    """Every rule text by which *step* means its jump: the wanted one, and those that stood before."""
    before = step.before.rule.splitlines() if isinstance(step.before, JumpSpec) else ()
    return {_rule_of(step, jump), *before}


def _rule_of(step: Step, jump: Jump) -> str:
    """The rule of *jump*: the step's, else the one of our table."""
    return step.spec.rule if isinstance(step.spec, JumpSpec) else tables.jumps(jump.family)[jump]


def _one_line(rule: str) -> str:
    """*rule* itself.  Raises ValueError if it would smuggle in a second line."""
    if "\n" in rule or "\0" in rule:
        raise ValueError(f"not one line: {rule!r}")
    return rule
