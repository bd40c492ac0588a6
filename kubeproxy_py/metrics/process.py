"""Collect the metrics of this process: CPU, memory, files and network traffic; its threads and its log.

The process_* metrics are read from /proc during the scrape; a value that cannot be read is omitted, as Go's client
does.

Source: proc(5); prometheus/client_golang, process_collector_procfsenabled.go.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kubeproxy_py import threads
from kubeproxy_py.logging_setup import dropped_lines
from kubeproxy_py.metrics.registry import MetricFamily, metric_family

_UNLIMITED = float(2**64 - 1)  # how Go prints RLIM_INFINITY


def collect_process_metrics(proc: Path = Path("/proc")) -> Iterator[MetricFamily]:
    """Yield the families of this process, read from *proc*."""
    for name, value in _process_values(proc):
        yield metric_family(f"process_{name}", [((), value)])


def collect_thread_and_log_metrics() -> Iterator[MetricFamily]:
    """Yield how often each thread was restarted, and how many log lines were dropped."""
    restarts = [((name,), count) for name, count in sorted(threads.restarts().items())]
    yield metric_family("kubeproxy_ipvs_thread_restarts_total", restarts)
    yield metric_family("kubeproxy_ipvs_dropped_log_lines_total", [((), dropped_lines())])


def _process_values(proc: Path) -> Iterator[tuple[str, float]]:
    with suppress(OSError, ValueError, IndexError, OverflowError):
        yield from _stat_values(proc)
    with suppress(OSError):
        yield "open_fds", len(os.listdir(proc / "self/fd")) - 1  # noqa: PTH208 - one of them is the listing itself
    yield "max_fds", resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    yield "virtual_memory_max_bytes", _UNLIMITED if limit == resource.RLIM_INFINITY else limit
    with suppress(OSError, KeyError, ValueError):
        counters = _parse_ip_ext((proc / "self/net/netstat").read_text())
        yield "network_receive_bytes_total", counters["InOctets"]
        yield "network_transmit_bytes_total", counters["OutOctets"]


def _stat_values(proc: Path) -> Iterator[tuple[str, float]]:
    # The fields from the third on: the second is the program's name in parentheses, which may contain blanks.
    fields = (proc / "self/stat").read_text().rpartition(")")[2].split()
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    boot_line = next((line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime")), "")
    yield "cpu_seconds_total", (int(fields[11]) + int(fields[12])) / ticks_per_s  # utime, stime
    yield "start_time_seconds", int(boot_line.split()[1]) + int(fields[19]) / ticks_per_s  # starttime
    yield "virtual_memory_bytes", int(fields[20])  # vsize
    yield "resident_memory_bytes", int(fields[21]) * os.sysconf("SC_PAGE_SIZE")  # rss, in pages


def _parse_ip_ext(netstat: str) -> dict[str, int]:
    """Return the counters of the two lines that begin with "IpExt:": the names, then the values."""
    names, values = (line.split()[1:] for line in netstat.splitlines() if line.startswith("IpExt:"))
    return dict(zip(names, map(int, values), strict=True))
