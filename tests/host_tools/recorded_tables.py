"""Helpers of the iptables tests: recorded tables of a node, steps between rows, a private network namespace."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubeproxy_py.kernel.iptables.text import TABLES, saved_rows
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import FAMILIES, Family
from kubeproxy_py.plan.plan import make_plan
from lab import linux

_RECORDED = Path(__file__).with_name("recorded")
_SETS = (*tables.IPSET_DEFINITIONS, *tables.POLICY_IPSET_DEFINITIONS)


def recorded_text(family: Family) -> str:
    """Return what ``iptables-save`` printed on a node on which kube-proxy 1.36 had filled nearly all sets."""
    return (_RECORDED / f"{family}.txt").read_text()


def recorded_rows(*families: Family) -> Rows:
    """Return the recorded tables as rows."""
    rows: Rows = {}
    for family in families or FAMILIES:
        for table in TABLES:
            rows |= saved_rows(recorded_text(family).encode(), family, table)
    return rows


def steps_between(actual: Rows, desired: Rows) -> tuple[Step, ...]:
    """Return the steps in the order of the planner."""
    return make_plan(desired, actual).steps


@contextmanager
def private_network() -> Iterator[None]:
    """Move the calling thread to a new network namespace, with loopback up."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        linux.unshare(linux.CLONE_NEWNET)
        linux.raise_loopback()
        yield
    finally:
        linux.setns(before, linux.CLONE_NEWNET)
        os.close(before)


def create_sets(*families: Family) -> None:
    """Create all our sets with the ipset program."""
    lines = []
    for family in families or FAMILIES:
        for key, spec in tables.ipsets(family, definitions=_SETS).items():
            header = f"family {'inet6' if spec.family == 'IPv6' else 'inet'}" if spec.family else "range 0-65535"
            lines.append(f"create {key.name} {spec.type} {header}\n")
    subprocess.run(["ipset", "restore", "-exist"], input="".join(lines).encode(), check=True)
