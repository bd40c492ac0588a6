"""check: validate a configuration and report every problem."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kubeproxy_py.config.errors import ConfigError, error_text

if TYPE_CHECKING:
    from kubeproxy_py.config.load import ConfigInput, LoadedConfig

from kubeproxy_py.commands.exit_status import DONE, FAILED, UNUSABLE

log = logging.getLogger(__name__)


def check(asked: "ConfigInput") -> int:
    """Print what is wrong with the configuration, all of it, and what is merely odd.  Asks no kernel and no cluster."""
    from kubeproxy_py.config.load import load

    try:
        loaded = load(asked.given, asked.content)
    except ConfigError as error:
        sys.stdout.write(f"{error_text(error)}\n")
        return UNUSABLE
    sys.stdout.write("".join(f"warning: {odd}\n" for odd in loaded.warnings) + "ok\n")
    return DONE


def write_config(loaded: "LoadedConfig") -> int:
    """Write the effective configuration to the file that --write-config-to names."""
    from kubeproxy_py.config.write import as_yaml

    path = loaded.own.write_config_to
    try:
        Path(path).write_text(as_yaml(loaded.config), encoding="utf-8")
    except OSError as error:
        log.error(f"--write-config-to: can't write {path}: {error.strerror}")
        return FAILED
    log.info(f"wrote the effective configuration to {path}")
    return DONE
