"""The status table: the output of ``ipvsadm -Ln``, with the names of the Services, and what is refused of them.

Invariants:
- It shows the kernel's rows, not the desired ones. A virtual server that no Service owns has no name, and a real server
  with weight 0 is shown as draining.
"""

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from kubeproxy_py.config.durations import format_duration
from kubeproxy_py.model.refusal import Refusal, grouped
from kubeproxy_py.model.rows import Connections, RealServer, RealServerSpec, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.net import join_host_port

_HEADER = ("Prot", "LocalAddress:Port", "Scheduler", "Service")
_SUBHEADER = ("  ->", "RemoteAddress:Port", "Weight", "ActiveConn", "InActConn")


def status_text(
    rows: Rows,
    names: Callable[[VirtualServer], str],
    connections: Mapping[RealServer, Connections],
    reasons: Callable[[VirtualServer], str] = lambda _server: "",
) -> str:
    """Return the virtual servers among *rows*, ordered by address, port and protocol, each with its real servers.

    *reasons* returns why a virtual server has no real servers; "": unknown.
    """
    real_servers: dict[VirtualServer, list[RealServer]] = {}
    for key in rows:
        if isinstance(key, RealServer):
            real_servers.setdefault(key.virtual_server, []).append(key)
    lines = [_server_line(*_HEADER), _real_line(*_SUBHEADER)]
    servers = sorted((key for key in rows if isinstance(key, VirtualServer)), key=_sort_key)
    for server in servers:
        lines.append(_server_line(*_server_cells(server, rows, names(server))))
        backends = sorted(real_servers.get(server, ()), key=lambda key: (ip_address(key.address).packed, key.port))
        lines += [_real_line(*_real_cells(key, rows, connections)) for key in backends]
        if not backends:
            reason = reasons(server)
            lines.append(f"  -> (no endpoints: refused{'; ' if reason else ''}{reason})")
    count = sum(map(len, real_servers.values()))
    return "\n".join((*lines, f"{len(servers):,} virtual servers, {count:,} real servers")) + "\n"


def saved_text(saved_s: float | None, now_s: float) -> str:
    """Return a line that the names and refusals are those of objects saved at *saved_s*; "" if it is None."""
    if saved_s is None:
        return ""
    age = format_duration(float(max(0, round(now_s - saved_s))))
    return f"STALE: the API server does not answer; names and refusals are those of objects saved {age} ago\n"


def refusals_text(refusals: Iterable[Refusal]) -> str:
    """Return a line for each Service and cause; "" if nothing is refused."""
    lines = [f"  {refusal.reason}: {refusal}" for refusal in grouped(refusals)]
    return "\n".join(("Refused:", *lines)) + "\n" if lines else ""


def _sort_key(server: VirtualServer) -> tuple[int, bytes, int, str]:
    address = ip_address(server.address)
    return address.version, address.packed, server.port, server.protocol


def _server_cells(server: VirtualServer, rows: Rows, name: str) -> tuple[str, str, str, str]:
    spec = rows[server]
    scheduler = str(spec) if isinstance(spec, VirtualServerSpec) else "?"
    return server.protocol, join_host_port(server.address, server.port), scheduler, name or "-"


def _real_cells(
    key: RealServer, rows: Rows, connections: Mapping[RealServer, Connections]
) -> tuple[str, str, str, str, str]:
    spec, count = rows[key], connections.get(key, Connections())
    weight = str(spec.weight) if isinstance(spec, RealServerSpec) else "?"
    if weight == "0":
        weight = "draining"
    return "  ->", join_host_port(key.address, key.port), weight, str(count.active), str(count.inactive)


def _server_line(protocol: str, address: str, scheduler: str, name: str) -> str:
    return f"{protocol:5}{address:31}{scheduler:22}{name}".rstrip()


def _real_line(arrow: str, address: str, weight: str, active: str, inactive: str) -> str:
    return f"{arrow:5}{address:31}{weight:9}{active:11}{inactive}".rstrip()
