"""The configuration and the log of the commands that a person starts, which are all but run; the log of run.

Invariants:
- ``--kubeconfig`` has precedence over the configuration file, and the file over ``$KUBECONFIG``.  So a variable of the
  shell never makes a node's own configuration mean another cluster.  ``run`` has kube-proxy's precedence: the file, and
  no variable.
- Log lines are sentences, unless ``--logging-format`` requests another format.
"""

import logging
import os
from collections.abc import Mapping

from msgspec.structs import replace

from kubeproxy_py import logging_setup
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import ConfigInput, LoadedConfig, load
from kubeproxy_py.model.problem import Problem

VARIABLE = "KUBECONFIG"
FILE_FIELD = "clientConnection.kubeconfig"
_OVERRIDING = ("kubeconfig",)
_QUIET = -1  # warnings and errors only

log = logging.getLogger(__name__)


def load_interactive(config_input: ConfigInput, *, is_quiet: bool = True) -> LoadedConfig:
    """Load the configuration, set up the log by it, and log its warnings.

    Args:
        config_input: The flags and the file.
        is_quiet: Without ``-v``, log only warnings and errors; the output of the command says the rest.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    loaded = load_with_kubeconfig(config_input, os.environ)
    logging_config = loaded.config.logging
    verbosity = logging_config.verbosity or (_QUIET if is_quiet else 0)
    is_requested = bool(config_input.flags.get("logging-format"))
    return log_warnings(loaded, logging_config.format if is_requested else "plain", verbosity)


def log_warnings(loaded: LoadedConfig, log_format: logging_setup.Format, verbosity: int) -> LoadedConfig:
    """Set up the log, log the warnings of *loaded*, and return it."""
    logging_setup.setup(log_format, verbosity)
    for warning in loaded.warnings:
        log.warning("%s", warning)
    return loaded


def load_with_kubeconfig(config_input: ConfigInput, environment: Mapping[str, str]) -> LoadedConfig:
    """Return the configuration, with the kubeconfig of the flag, the file or *environment*.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    loaded = load(config_input.flags, config_input.content, _OVERRIDING)
    connection = loaded.config.client_connection
    if connection.kubeconfig or loaded.agent.manifests or loaded.agent.master:
        return loaded
    paths = [path for path in environment.get(VARIABLE, "").split(os.pathsep) if path]
    if not paths:
        return loaded
    if len(paths) > 1:
        hint = "set --kubeconfig to one of them"
        raise ConfigError([Problem(field=f"${VARIABLE}", message="names several files", hint=hint)])
    config = replace(loaded.config, client_connection=replace(connection, kubeconfig=paths[0]))
    return replace(loaded, config=config)


def kubeconfig_named_by(config_input: ConfigInput) -> str:
    """Return what names the kubeconfig of `load_with_kubeconfig`: a flag, the field of the file, or a variable."""
    if config_input.flags.get("kubeconfig"):
        return "--kubeconfig"
    of_file = load(config_input.flags, config_input.content).config.client_connection.kubeconfig
    return FILE_FIELD if of_file else f"${VARIABLE}"
