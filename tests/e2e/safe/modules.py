"""Kernels without some modules: they are unloaded, and the kernel cannot load any for as long as a block runs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product

from lab.pristine import unload_modules
from tests.e2e.module_loading import MODPROBE, restored

NETFILTER = (
    *("xt_set", "xt_mark", "xt_conntrack", "xt_MASQUERADE", "ipt_REJECT", "ip6t_REJECT", "xt_addrtype", "xt_physdev"),
    *("xt_ipvs", "xt_comment"),
)
IPSET = (
    *("ip_set_hash_ip", "ip_set_hash_ipport", "ip_set_hash_ipportip", "ip_set_hash_ipportnet", "ip_set_bitmap_port"),
    *("ip_set_list_set", "xt_set", "ip_set"),
)


@contextmanager
def without_modules(*names: str) -> Iterator[Callable[..., None]]:
    """Unload *names*, and load nothing within the block; all others that sets and rules need are loaded before.

    Yields a function that loads modules all the same, as an operator does by hand.
    """
    with restored(MODPROBE):
        loader = MODPROBE.read_text().strip()

        def load(*modules: str) -> None:
            for module in modules:
                subprocess.run([loader, module], check=True)

        load(*NETFILTER, *IPSET)
        load_tables()
        unload_modules(*names)
        MODPROBE.write_text("/bin/false")
        yield load


def load_tables() -> None:
    """Have the kernel load its tables of iptables, which it does when they are listed for the first time."""
    for program, table in product(("iptables", "ip6tables"), ("nat", "filter")):
        subprocess.run([program, "-t", table, "-S"], check=True, capture_output=True)
