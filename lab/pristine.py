"""Reset the initial namespace to its state after boot, so that many cases can run on one boot.

After `reset_host_state` there are no virtual servers, ipsets, iptables rules, chains or policies, conntrack entries
and no kube-ipvs0; the IPVS timeouts are the kernel's defaults; the sysctls in SYSCTLS have their values from boot.
What the kernel cannot undo remains: IPVS connections (each until it expires), the trash list of destinations,
loaded modules, empty iptables tables.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lab.namespace_users import describe_users
from lab.rtnl import Rtnl

LAB = Path("/run/lab")
_SAVED_SYSCTLS = LAB / "sysctls.json"
_NET = Path("/proc/sys/net")
# Patterns below /proc/sys/net, in the order of writing: ip_forward resets some of those below it.
SYSCTLS = (
    "ipv4/ip_forward",
    "ipv6/conf/all/forwarding",
    "ipv4/vs/*",
    "ipv4/conf/all/*",
    "ipv4/conf/default/*",
    "netfilter/nf_conntrack_max",
    "netfilter/nf_conntrack_tcp_be_liberal",
    "netfilter/nf_conntrack_tcp_timeout_*",
    "netfilter/nf_conntrack_udp_timeout*",
    "bridge/bridge-nf-call-*",
)
_CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
_TABLES_IN_USE = {"iptables-legacy-restore": "ip_tables_names", "ip6tables-legacy-restore": "ip6_tables_names"}

_LONGEST_VALUE_BYTES = 4096
_UNLOAD_TIMEOUT_S = 90.0  # less than a test may take, so that it fails with the reason

_REQUEST_ACK = 0x1 | 0x4
_GENERIC, _NETFILTER = 16, 12
_CONTROL, _GETFAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_IPVS_SET_CONFIG, _IPVS_FLUSH = 12, 17
_IPVS_TIMEOUTS_S = ((4, 900), (5, 120), (6, 300))  # attributes TIMEOUT_TCP, _TCP_FIN, _UDP: Linux's defaults
_CT_DELETE = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE: without an attribute, all entries
_IPSET_DESTROY = 6 << 8 | 3  # NFNL_SUBSYS_IPSET, IPSET_CMD_DESTROY: without a name, all sets


def save_sysctls() -> None:
    """Save the current values of SYSCTLS; the lab does it at boot."""
    values = {str(path): value for path in _sysctl_paths() if (value := _read(str(path))) is not None}
    _SAVED_SYSCTLS.write_text(json.dumps(values))


def reset_host_state() -> None:
    """Undo, in the namespace of the calling thread, what an agent or a test did to the kernel; takes about 0.1 s.

    Raises:
        OSError: The kernel refused, as with EBUSY for an ipset that is still in use.
    """
    _empty_iptables()  # first: its rules refer to the sets
    _flush_nf_tables()
    _flush_ipvs()
    _request_netfilter(_IPSET_DESTROY, struct.pack("HHB3x", 5, 1, 6))  # IPSET_ATTR_PROTOCOL 6
    _request_netfilter(_CT_DELETE, b"")
    links = Rtnl()
    links.delete_link("kube-ipvs0")
    links.close()
    _restore_sysctls()


def unload_modules(*names: str) -> None:
    """Unload kernel modules.  Fails if one of them is still in use after 90 s, and names what may use it.

    A module is in use while a command that a killed agent had started still reads a table, and while the kernel has
    not yet destroyed a deleted namespace whose sets or rules need it.
    """
    deadline = time.monotonic() + _UNLOAD_TIMEOUT_S
    loaded = set(names)
    while loaded:
        result = subprocess.run(["rmmod", *sorted(loaded)], check=False, capture_output=True, text=True)
        loaded.intersection_update(_modules())
        if loaded:
            assert time.monotonic() < deadline, f"{result.stderr}{_describe_use(loaded)}"
            time.sleep(0.05)


def _modules() -> dict[str, str]:
    """Return by module its line of /proc/modules: size, number of references, modules among these."""
    return dict(line.split(maxsplit=1) for line in Path("/proc/modules").read_text().splitlines())


def _describe_use(names: Iterable[str]) -> str:
    modules = _modules()
    counts = "".join(f"  {name} {modules[name]}\n" for name in sorted(names) if name in modules)
    return f"size, references, users:\n{counts}network namespaces in use besides this one:\n{describe_users()}"


def _sysctl_paths() -> Iterator[Path]:
    return itertools.chain.from_iterable(sorted(_NET.glob(pattern)) for pattern in SYSCTLS)


def _read(path: str) -> str | None:
    """Return the value, by 3 system calls; those of pathlib are 7, and each reset reads a hundred values."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None  # write-only, or of a link that was just deleted
    try:
        return os.read(descriptor, _LONGEST_VALUE_BYTES).decode()
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _restore_sysctls() -> None:
    for name, value in json.loads(_SAVED_SYSCTLS.read_text()).items():
        if _read(name) not in (None, value):
            Path(name).write_text(value)


def _empty_iptables() -> None:
    for command, names in _TABLES_IN_USE.items():
        in_use = Path("/proc/net", names)
        tables = in_use.read_text().split() if in_use.exists() else []
        if tables:
            text = "".join(_empty_table(table) for table in tables)
            subprocess.run([f"/usr/sbin/{command}"], input=text.encode(), check=True)


def _flush_nf_tables() -> None:
    """Delete all tables of nf_tables; the module is loaded only where something used it."""
    if Path("/sys/module/nf_tables").exists():
        subprocess.run(["/usr/sbin/nft", "flush", "ruleset"], check=True)


def _empty_table(table: str) -> str:
    chains = "".join(f":{chain} ACCEPT [0:0]\n" for chain in _CHAINS[table])
    return f"*{table}\n{chains}COMMIT\n"


def _flush_ipvs() -> None:
    attribute = struct.pack("HH", 9, _FAMILY_NAME) + b"IPVS\0\0\0\0"
    answer = _request(_GENERIC, _CONTROL, struct.pack("BBxx", _GETFAMILY, 1) + attribute)
    family = _find_attribute(answer[20:], _FAMILY_ID)
    timeouts = b"".join(struct.pack("HHI", 8, kind, seconds) for kind, seconds in _IPVS_TIMEOUTS_S)
    _request(_GENERIC, family, struct.pack("BBxx", _IPVS_FLUSH, 1))
    _request(_GENERIC, family, struct.pack("BBxx", _IPVS_SET_CONFIG, 1) + timeouts)


def _find_attribute(content: bytes, attribute: int) -> int:
    while content:
        length, kind = struct.unpack_from("HH", content)
        if kind == attribute:
            return int(struct.unpack_from("H", content, 4)[0])
        content = content[(length + 3) & ~3 :]
    raise LookupError(f"no attribute {attribute}")


def _request_netfilter(kind: int, attributes: bytes) -> None:
    _request(_NETFILTER, kind, struct.pack("BBH", socket.AF_UNSPEC, 0, 0) + attributes)


def _request(protocol: int, kind: int, body: bytes) -> bytes:
    """Send one netlink request and return its first answer.  Raises OSError with the kernel's errno."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(5.0)
        sock.send(struct.pack("IHHII", len(body) + 16, kind, _REQUEST_ACK, 1, 0) + body)
        answer = sock.recv(1 << 16)
    length, answered = struct.unpack_from("IH", answer)
    number = -struct.unpack_from("i", answer, 16)[0] if answered == 2 else 0  # 2: NLMSG_ERROR
    if number:
        raise OSError(number, os.strerror(number), f"netlink request {kind:#x}")
    return answer[:length]
