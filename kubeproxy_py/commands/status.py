"""status: print the kernel's IPVS virtual servers with the names of their Services, and what is refused of Services."""

import sys
from time import time
from typing import TYPE_CHECKING

from kubeproxy_py.commands.exit_status import SUCCESS
from kubeproxy_py.commands.parts import real_parts
from kubeproxy_py.commands.plan import desired_rows
from kubeproxy_py.kernel import VIRTUAL_SERVERS
from kubeproxy_py.model.rows import VirtualServer

if TYPE_CHECKING:
    from kubeproxy_py.config.load import LoadedConfig


def status(loaded: "LoadedConfig") -> int:
    """Print the kernel's virtual servers with the names of their Services, then what is refused of Services."""
    from kubeproxy_py.commands.service_names import unserved_server_reason, virtual_server_name
    from kubeproxy_py.commands.status_table import refusals_text, saved_text, status_text

    parts = real_parts(loaded)
    desired_rows(parts)  # compiles, so that the holders are known
    claims, services = parts.compiler.claims, parts.compiler.cluster.services

    def name_of(server: VirtualServer) -> str:
        return virtual_server_name(server, claims.holder(server), services)

    def reason_of(server: VirtualServer) -> str:
        return unserved_server_reason(server, claims.holder(server), parts.compiler)

    rows = parts.kernel.read(VIRTUAL_SERVERS)
    connections = parts.kernel.connections([key for key in rows if isinstance(key, VirtualServer)])
    sys.stdout.write(saved_text(parts.saved_s(), time()))
    sys.stdout.write(status_text(rows, name_of, connections, reason_of) + refusals_text(parts.compiler.refusals))
    return SUCCESS
