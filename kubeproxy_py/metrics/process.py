"""process_*: what the kernel says of this process, as Go's client tells it.

Law: read when asked for; what can't be read is left out.

Source: proc(5); prometheus/client_golang, process_collector_procfsenabled.go.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kubeproxy_py.metrics.registry import MetricFamily, family

_UNLIMITED = float(2**64 - 1)  # how Go prints RLIM_INFINITY


def process_families(proc: Path = Path("/proc")) -> Iterator[MetricFamily]:
    """The families of this process."""
    for name, value in _values(proc):
        yield family(f"process_{name}", [((), value)])


def _values(proc: Path) -> Iterator[tuple[str, float]]:
    with suppress(OSError, ValueError, IndexError):
        yield from _of_stat(proc)
    with suppress(OSError):
        yield "open_fds", len(os.listdir(proc / "self/fd")) - 1  # noqa: PTH208 - one of them is the listing's own
    yield "max_fds", resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    yield "virtual_memory_max_bytes", _UNLIMITED if limit == resource.RLIM_INFINITY else limit
    with suppress(OSError, KeyError, ValueError):
        octets = _ip_extensions((proc / "self/net/netstat").read_text())
        yield "network_receive_bytes_total", octets["InOctets"]
        yield "network_transmit_bytes_total", octets["OutOctets"]


def _of_stat(proc: Path) -> Iterator[tuple[str, float]]:
    fields = (proc / "self/stat").read_text().rpartition(")")[2].split()  # from the third on; the name may have blanks
    ticks = os.sysconf("SC_CLK_TCK")
    booted = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime"))
    yield "cpu_seconds_total", (int(fields[11]) + int(fields[12])) / ticks
    yield "start_time_seconds", int(booted.split()[1]) + int(fields[19]) / ticks
    yield "virtual_memory_bytes", int(fields[20])
    yield "resident_memory_bytes", int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def _ip_extensions(text: str) -> dict[str, int]:
    """The pairs of the two lines that begin with IpExt."""
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("IpExt:"))
    return dict(zip(names, map(int, values), strict=True))
