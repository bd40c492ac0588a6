"""check: validate a configuration and report every problem; also writes the effective configuration."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kubeproxy_py.commands.exit_status import FAILED, SUCCESS, UNUSABLE
from kubeproxy_py.config.errors import ConfigError, error_text
from kubeproxy_py.files import UnreadableError, read_file
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.problem import Problem

if TYPE_CHECKING:
    from kubeproxy_py.config.load import ConfigInput, LoadedConfig

log = logging.getLogger(__name__)


def check(config_input: "ConfigInput") -> int:
    """Print every problem and warning of the configuration; reads neither the kernel nor the cluster."""
    from kubeproxy_py.config.load import load

    try:
        loaded = load(config_input.flags, config_input.content)
    except ConfigError as error:
        sys.stdout.write(f"{error_text(error)}\n")
        return UNUSABLE
    warnings = (*loaded.warnings, *_missing_sources(loaded))
    sys.stdout.write("".join(f"warning: {warning}\n" for warning in warnings) + "ok\n")
    return SUCCESS


def _missing_sources(loaded: "LoadedConfig") -> Iterator[Problem]:
    """Yield a warning if the source of objects is not on this host, which need not be the one that will run."""
    manifests, kubeconfig = loaded.agent.manifests, loaded.config.client_connection.kubeconfig
    if manifests:
        if not Path(manifests).is_dir():
            message = f"{manifests} is not a folder on this host"
            yield Problem(field="--manifests", message=message, hint="Services are served once it is there")
    elif kubeconfig:
        try:
            read_file(kubeconfig, 1)
        except UnreadableError as error:
            message = f"cannot read {kubeconfig} on this host: {error.message}"
            yield Problem(field="clientConnection.kubeconfig", message=message, hint=error.hint)


def write_config(loaded: "LoadedConfig") -> int:
    """Write the effective configuration to the file of --write-config-to."""
    from kubeproxy_py.config.write import as_yaml

    path = loaded.agent.write_config_to
    try:
        Path(path).write_text(as_yaml(loaded.config), encoding="utf-8")
    except OSError as error:
        reason = values(file=path, err=error.strerror)
        log.error("Failed to write the effective configuration (--write-config-to)", extra=reason)  # noqa: TRY400 - expected
        return FAILED
    log.info("Wrote the effective configuration", extra=values(file=path))
    return SUCCESS
