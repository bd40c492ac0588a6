"""status: print the virtual servers of the kernel with the names of their Services."""

import logging
import sys
from typing import TYPE_CHECKING

from kubeproxy_py.commands.app import (
    real_parts,
)
from kubeproxy_py.kernel import VIRTUAL_SERVERS
from kubeproxy_py.model.rows import VirtualServer

if TYPE_CHECKING:
    from kubeproxy_py.config.load import LoadedConfig

from kubeproxy_py.commands.exit_status import DONE
from kubeproxy_py.commands.plan import desired_rows

log = logging.getLogger(__name__)


def status(loaded: "LoadedConfig") -> int:
    """Print the virtual servers that the kernel has, with the names of the Services that want them."""
    from kubeproxy_py.commands.service_names import front_name
    from kubeproxy_py.commands.status_table import status_text

    parts = real_parts(loaded)
    desired_rows(parts)
    desired, cluster = parts.compiler.desired, parts.compiler.cluster
    rows = parts.kernel.read(VIRTUAL_SERVERS)
    connections = parts.kernel.connections([key for key in rows if isinstance(key, VirtualServer)])
    sys.stdout.write(
        status_text(rows, lambda server: front_name(server, desired.owners(server), cluster.services), connections)
    )
    return DONE
