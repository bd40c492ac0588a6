"""dump: write the kernel state of this host to a file; and the host that such a file describes, for plan.

Invariants:
- A part of the kernel state that cannot be read is named in the file, and planning with the file fails as it would on
  the host.
- The file is complete or not there: it is written beside its place, and then renamed.
"""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING

from kubeproxy_py import __version__
from kubeproxy_py.commands.exit_status import FAILED, SUCCESS
from kubeproxy_py.commands.output import print_json
from kubeproxy_py.commands.parts import HostPlatform, linux_kernel, probe_host
from kubeproxy_py.compile.base import known_sysctl_paths, sysctl_paths
from kubeproxy_py.config.load import LoadedConfig, node_name
from kubeproxy_py.files import UnreadableError, read_file
from kubeproxy_py.kernel import read_scopes
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.kernel_state import HostWire, KernelState, contents_of, decode, encode
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.rows import Sysctl

if TYPE_CHECKING:
    from kubeproxy_py.kernel.host_probe import ProbeResult

_STANDARD_STREAM = "-"
_SIZE_MAX_BYTES = 1 << 30  # 10,000 Services of 10 endpoints are some 20 MB

log = logging.getLogger(__name__)


def dump(loaded: LoadedConfig, file: str) -> int:
    """Write the kernel state to *file* (``-``: standard output), and return the exit status.

    Raises:
        KernelError: The addresses of the host cannot be read.
    """
    probed = probe_host(loaded, verbosity=1)
    state = _read_state(loaded, probed)
    for scope, error in state.unread.items():
        log.error("A part of the kernel state cannot be read", extra=values(part=scope, err=error))
    content = encode(state)
    if file == _STANDARD_STREAM:
        print_json(content.decode())
    elif not _write(Path(file), content):
        return FAILED
    return FAILED if state.unread else SUCCESS


def dumped_platform(loaded: LoadedConfig, file: str) -> HostPlatform:
    """Return the host whose kernel state is in *file*.

    Raises:
        KernelError: The file cannot be used, or a part of the kernel state is not in it.
        ConfigError: The host has no name.
    """
    where = f"kernel state {file}"
    try:
        path = "/dev/stdin" if file == _STANDARD_STREAM else file
        state = decode(read_file(path, _SIZE_MAX_BYTES, regular=not path.startswith("/dev/")), where)
    except UnreadableError as error:
        raise KernelError(f"{where}: {error.message}", hint=error.hint) from None
    for scope, reason in state.unread.items():
        raise KernelError(f"{where}: {scope} could not be read there: {reason}", hint="write it again, as root")
    host = state.host.info(node_name(loaded.config, state.host.name))
    set_here = sysctl_paths(loaded.config, host)
    kernel = MemoryKernel(
        {key: spec for key, spec in state.rows().items() if not isinstance(key, Sysctl) or key.path in set_here}
    )
    kernel.addresses, kernel.gateway_addresses = state.addresses(), state.gateways
    return HostPlatform(kernel, host)


def _read_state(loaded: LoadedConfig, probed: "ProbeResult") -> KernelState:
    """Return the kernel state of this host, with what cannot be read.  Raises KernelError."""
    kernel = linux_kernel(loaded, probed, sysctls=known_sysctl_paths(probed.host))
    try:
        rows, unread = read_scopes(kernel)
        return KernelState(
            written_by=f"kubeproxy-py {__version__}",
            written_at=datetime.now(UTC).isoformat(timespec="seconds"),
            host=HostWire.of(gethostname(), probed.kernel_release, probed.host),
            gateways=kernel.gateways(),
            unread=_unread(probed) | {str(scope): str(error) for scope, error in unread.items()},
            **contents_of(rows, kernel.host_addresses()),
        )
    finally:
        kernel.close()


def _unread(probed: "ProbeResult") -> dict[str, str]:
    """Return why the agent cannot work on this host; what is missing cannot be read either."""
    reasons = "; ".join(str(problem) for problem in probed.problems if problem.fatal)
    return {"host": reasons} if reasons else {}


def _write(path: Path, content: bytes) -> bool:
    """Write *content* to *path*, and return whether that succeeded; a failure is logged."""
    temporary = path.parent / f".{path.name}.{os.getpid()}"  # not with_name(), which "." and "/" have none for
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe
            path.write_bytes(content)
            return True
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        log.error("Failed to write the kernel state", extra=values(file=path, err=error.strerror))  # noqa: TRY400 - expected
        return False
    return True
