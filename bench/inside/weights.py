"""Weights: how long the program leaves a weight that another program changed, and the CPU share of that time.

Invariants:
- Each change is of a random real server, at a random moment.
- The change is made by netlink, and looked for by getsockopt each 10 ms: it waits for no process to start.
- Those of the first SETTLING_S are reported separately: the first full compare and the first listing decode all real
  servers.
"""

import random
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import objects
from bench.inside.network import fresh_namespace
from bench.inside.process import agent_words, cpu_s, running, wait_first_sync
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.model.rows import RealServer, RealServerSpec, VirtualServer
from kubeproxy_py.model.steps import Step

SETTLING_S = 15.0
_BETWEEN_S = 3.0  # at most
_POLL_S = 0.01
_TIMEOUT_S = 300.0
_CHANGED = RealServerSpec(7)


def measure(n: int, repeats: int) -> dict[str, Any]:
    """Return the seconds until each of *repeats* changes was repaired, and the CPU share meanwhile."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        objects.write_manifests(Path(folder), n)
        namespace = stack.enter_context(fresh_namespace())
        process = stack.enter_context(running(agent_words("--manifests", folder), namespace))
        wait_first_sync(process)
        adapter = IpvsAdapter()
        stack.callback(adapter.close)
        servers = [key for rows in adapter.virtual_servers() for key in rows if isinstance(key, VirtualServer)]
        synced_s, first_s = time.monotonic(), []
        while time.monotonic() < synced_s + SETTLING_S:
            first_s.append(_repaired_s(adapter, random.choice(servers)))
        began_s, before_s = time.monotonic(), sum(cpu_s(process.pid))
        repaired_s = [_repaired_s(adapter, random.choice(servers)) for _ in range(repeats)]
        share = (sum(cpu_s(process.pid)) - before_s) / (time.monotonic() - began_s)
        return {"first": first_s, "repaired": repaired_s, "share": share}


def _repaired_s(adapter: IpvsAdapter, server: VirtualServer) -> float:
    """Change a weight after a random time; return after how many seconds it was as before."""
    time.sleep(random.uniform(0.0, _BETWEEN_S))
    rows = adapter.real_servers(server).rows()
    key = random.choice([key for key in rows if isinstance(key, RealServer)])
    failures = adapter.apply([Step("update", key, _CHANGED)])
    assert not failures, failures
    changed_s = time.monotonic()
    while adapter.real_servers(server).rows() != rows:
        assert time.monotonic() < changed_s + _TIMEOUT_S, f"{key} was not repaired"
        time.sleep(_POLL_S)
    return time.monotonic() - changed_s
