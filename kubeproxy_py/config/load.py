"""Flags and configuration file -> LoadedConfig.

Invariants:
- With ``--config`` the file is used, except for the host name, the log flags (kube-proxy's precedence) and the flags
  that the file has no field for. Without a file, flags override the defaults.
- All problems are raised together; everything else that the operator should know is a warning.
- Only ``read_file`` does I/O, so a caller that keeps the ConfigInput can load again when the file has changed.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.config import flags as flag_table
from kubeproxy_py.config.contradictions import contradiction, doubtful_settings
from kubeproxy_py.config.document import SIZE_MAX_BYTES, parse_document
from kubeproxy_py.config.errors import ConfigError, InvalidValue, abbreviated
from kubeproxy_py.config.flags import Flag, field_type_of
from kubeproxy_py.config.read import ValidationResult, check_across_fields, read_section
from kubeproxy_py.config.types import (
    API_VERSION,
    HEALTHZ_PORT,
    KIND,
    METRICS_PORT,
    AgentSettings,
    KubeProxyConfiguration,
)
from kubeproxy_py.files import UnreadableError
from kubeproxy_py.files import read_file as read
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.net import is_ipv6, join_host_port, parse_ip

_STREAMS = "/dev/"  # below it are /dev/stdin, and the pipe of `check --config <(command)`

_Fields = dict[str, Any]
"""Fields of a section as in the file: plain data, groups as nested dicts."""


class ConfigInput(Struct, frozen=True, gc=False):
    """The input of a configuration: the given flags (name -> text) and the content of the file."""

    flags: Mapping[str, str]
    content: bytes | None = None  # None: no file was given

    @property
    def path(self) -> str:
        """The configuration file, "" if none was given."""
        return self.flags.get("config", "")


class LoadedConfig(Struct, frozen=True, gc=False):
    """A valid configuration."""

    config: KubeProxyConfiguration
    agent: AgentSettings
    warnings: tuple[Problem, ...] = ()  # to be logged once
    given_fields: frozenset[str] = frozenset()  # paths of the fields that the operator set, also to their defaults


def read_input(flags: Mapping[str, str]) -> ConfigInput:
    """Return *flags* (name -> text), and the content of the file that they name.

    Raises:
        ConfigError: The file cannot be read.
    """
    path = flags.get("config", "")
    return ConfigInput(flags, read_file(path) if path else None)


def read_file(path: str) -> bytes:
    """Return the content of the file *path*, at most one byte more than the size limit.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        return read(path, SIZE_MAX_BYTES + 1, regular=not path.startswith(_STREAMS))
    except UnreadableError as error:
        message = f"cannot read {path}: {error.message}"
        raise ConfigError([Problem(field="--config", message=message, hint=error.hint)]) from None


def load(flags: Mapping[str, str], content: bytes | None = None, overriding: Collection[str] = ()) -> LoadedConfig:
    """Return the configuration of *flags* (name -> text) and of the file's *content*.

    Args:
        flags: The given flags.
        content: The content of the file; None: there is none.
        overriding: Names of more flags that override the file.

    Raises:
        ConfigError: With every problem of both.
    """
    given = [flag for flag in flag_table.FLAGS if flags.get(flag.name)]
    used = [flag for flag in given if content is None or flag.name in overriding or _overrides_file(flag)]
    result = ValidationResult({flag.path or flag.name: str(flag) for flag in used})
    upstream = _fields_of_file(content, flags.get("config", "--config"), result)
    agent = _apply_flags(used, flags, upstream, result)

    config = read_section(KubeProxyConfiguration, upstream, result)
    settings = read_section(AgentSettings, agent, result)
    check_across_fields(config, result)
    _check_settings(flags, settings, config, result)
    if result.problems:
        raise ConfigError(result.problems, result.warnings)
    if content is None and flags.get("healthz-port") == "0":
        config = replace(config, healthz_bind_address=None)
    ignored = [str(flag) for flag in given if flag not in used]
    doubts = doubtful_settings(config, settings, result.display_name)
    warnings = (*result.warnings, *_no_effect_warnings(config, settings, result.unused_fields, ignored), *doubts)
    return LoadedConfig(config, settings, warnings, frozenset(result.given_fields))


def from_fields(config: Mapping[str, Any], settings: Mapping[str, Any]) -> LoadedConfig:
    """Return the configuration of an agent that has written its own as plain data (write.py).

    Raises:
        ConfigError: It cannot be used, because it is of another version.
    """
    plain = {key: value for key, value in config.items() if key not in ("apiVersion", "kind")}
    result = ValidationResult({path: path for path in (*_paths(plain), *_paths(settings))})  # so that 0 means 0
    loaded = LoadedConfig(
        read_section(KubeProxyConfiguration, plain, result), read_section(AgentSettings, dict(settings), result)
    )
    if result.problems:
        raise ConfigError(result.problems, result.warnings)
    if config.get("healthzBindAddress") == "":  # which would mean the default in a file
        loaded = replace(loaded, config=replace(loaded.config, healthz_bind_address=None))
    return loaded


def _paths(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in fields.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


def node_name(config: KubeProxyConfiguration, os_hostname: str) -> str:
    """Return the name of this node's Node object: hostnameOverride or the host's name, trimmed and in lower case.

    Source: GetHostname in k8s.io/component-helpers/node/util.

    Raises:
        ConfigError: The name is empty.
    """
    name = (config.hostname_override or os_hostname).strip().lower()
    if not name:
        hint = "the name of this node's Node object"
        raise ConfigError([Problem(field="hostnameOverride", message="this host has no name", hint=hint)])
    return name


def _check_settings(
    flags: Mapping[str, str], settings: AgentSettings, config: KubeProxyConfiguration, result: ValidationResult
) -> None:
    """Add to *result* what in the agent's own flags cannot work."""
    if flags.get("manifests") == "":  # an unset variable of a unit, say; other flags are as if they were not given
        reason = InvalidValue("is empty", "name the directory, or leave the flag out to use the API server")
        result.problems.append(reason.as_problem("--manifests"))
    if found := contradiction(settings, config):
        result.add_problem(*found)


def _overrides_file(flag: Flag) -> bool:
    return flag.overrides_file or flag.section is AgentSettings or flag.name == "config"


def _fields_of_file(content: bytes | None, where: str, result: ValidationResult) -> _Fields:
    if content is None:
        return {}
    fields, warnings = parse_document(content, where)
    result.warnings += warnings
    for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        if (actual := fields.pop(key, None)) != expected:
            reason = InvalidValue(f"expected {expected}, got {abbreviated(actual)}", f"{key}: {expected}")
            result.add_problem(key, reason)
    # Without a file IPVS is the default; a file, which kube-proxy may read too, must set the mode.
    fields["mode"] = "" if fields.get("mode") is None else fields["mode"]
    return fields


def _no_effect_warnings(
    config: KubeProxyConfiguration, settings: AgentSettings, unused: list[str], ignored: list[str]
) -> list[Problem]:
    """Return a warning for each kind of setting that has no effect."""
    gates = sorted(config.feature_gates.keys() - {"KubeProxyIPVS"})
    is_served = settings.policies == "exact"
    names = config.node_port_addresses
    loopback = ["nodePortAddresses: localhost"] if "localhost" in names and not is_served else []
    kinds = (
        (unused, "set, but has no effect in this agent"),
        (ignored, "ignored, because --config is given"),
        ([f"featureGates.{gate}" for gate in gates], "this feature gate has no effect in this agent"),
        (loopback, "IPVS serves NodePorts on loopback addresses only with --policies=exact"),
    )
    return [Problem(field=", ".join(names), message=message) for names, message in kinds if names]


# Flags, written into the fields of a file so that one reader serves both.  An empty text is the same as no flag, as in
# kube-proxy; only --manifests, which kube-proxy does not have, must have one.


def _apply_flags(
    used: Iterable[Flag], texts: Mapping[str, str], upstream: _Fields, result: ValidationResult
) -> _Fields:
    """Set the flags *used* in *upstream*, and return the fields of AgentSettings; problems are added to *result*."""
    agent: _Fields = {}
    ports: dict[str, int] = {}
    for flag in used:
        try:
            value = field_type_of(flag).from_text(texts[flag.name])
            if flag.path:
                _set_field(agent if flag.section is AgentSettings else upstream, flag.path, value)
            elif flag.name in _SERVERS:
                field_type_of(flag).check(value)
                ports[flag.name] = value
        except InvalidValue as reason:
            result.add_problem(flag.path or flag.name, reason)
    _set_server_addresses(upstream, ports)
    return agent


def _set_field(fields: _Fields, path: str, value: Any) -> None:
    *groups, key = path.split(".")
    for group in groups:
        inner = fields.get(group)
        if inner is None:
            inner = fields[group] = {}
        elif not isinstance(inner, dict):
            return  # the reader reports that the group is invalid
        fields = inner
    if key == "vmodule" and isinstance(fields.get(key), list):
        value = fields[key] + value  # the only list that a flag adds to the file's
    fields[key] = value


_SERVERS = {  # deprecated flag for the port: field, port, default address in IPv4, in IPv6
    "healthz-port": ("healthzBindAddress", HEALTHZ_PORT, "0.0.0.0", "::"),
    "metrics-port": ("metricsBindAddress", METRICS_PORT, "127.0.0.1", "::1"),
}


def _set_server_addresses(upstream: _Fields, ports: Mapping[str, int]) -> None:
    """Set the servers' addresses: in the family of bindAddress, with the deprecated ports if they name no port."""
    ipv6 = is_ipv6(_parse_ip_or_empty(upstream.get("bindAddress")))
    for flag, (key, default_port, ipv4_address, ipv6_address) in _SERVERS.items():
        if flag not in ports and not ipv6:
            continue
        host = upstream.get(key) or (ipv6_address if ipv6 else ipv4_address)
        if address := _parse_ip_or_empty(host):
            upstream[key] = join_host_port(address, ports.get(flag) or default_port)


def _parse_ip_or_empty(text: Any) -> str:
    try:
        return parse_ip(text) if isinstance(text, str) else ""
    except ValueError:
        return ""
