"""Flags and file -> Loaded: the one way to a configuration.

Law: with ``--config`` the file rules, but for the host name and the flags of the log (kube-proxy's precedence), and
for what the file has no field for; without it, flags rule over defaults.  Everything wrong is raised at once, all
that is merely odd comes as warnings.  Only ``read_file`` touches the world, and whoever keeps what was ``asked`` can
load again when the file has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.config import flags
from kubeproxy_py.config.document import SIZE_MAX_BYTES, parse_document
from kubeproxy_py.config.errors import ConfigError, ConfigProblem, InvalidValue, shown
from kubeproxy_py.config.flag_overlay import Fields, lay_flags
from kubeproxy_py.config.read import ValidationResult, read_section
from kubeproxy_py.config.types import API_VERSION, KIND, KubeProxyConfiguration, OwnSettings
from kubeproxy_py.config.validation import cross_check

if TYPE_CHECKING:
    from argparse import Namespace


class ConfigInput(Struct, frozen=True, gc=False):
    """What a configuration is loaded from: the flags that were given (name -> text), and the file's content."""

    given: Mapping[str, str]
    content: bytes | None = None  # None: no file was named

    @property
    def path(self) -> str:
        """The file that was named; "" for none."""
        return self.given.get("config", "")


class LoadedConfig(Struct, frozen=True, gc=False):
    """A configuration that may be used, and what the log should say of it once.

    ``given`` has the paths of the fields that the operator set, be it to their defaults.
    """

    config: KubeProxyConfiguration
    own: OwnSettings
    warnings: tuple[ConfigProblem, ...] = ()
    given: frozenset[str] = frozenset()


def asked(namespace: Namespace) -> ConfigInput:
    """What the command line asks for, and the content of the file that it names.  Raises ConfigError."""
    given = flags.given(namespace)
    path = given.get("config", "")
    return ConfigInput(given, read_file(path) if path else None)


def configuration(namespace: Namespace) -> LoadedConfig:
    """The configuration that the command line asks for.  Raises ConfigError."""
    words = asked(namespace)
    return load(words.given, words.content)


def read_file(path: str) -> bytes:
    """The file's content, or as much of it as shows that it is too long.  Raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            return file.read(SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([ConfigProblem("--config", f"can't read {path}: {error.strerror}")]) from None


def load(given: Mapping[str, str], content: bytes | None = None) -> LoadedConfig:
    """The configuration of the flags *given* (name -> text) and of the file's *content*, if there is a file.

    Raises ConfigError with every problem of both.
    """
    asked = [flag for flag in flags.FLAGS if given.get(flag.name)]
    used = [flag for flag in asked if content is None or _counts_beside_a_file(flag)]
    findings = ValidationResult({flag.path or flag.name: str(flag) for flag in used})
    upstream, own = _fields_of_file(content, given.get("config", "--config"), findings), Fields()
    lay_flags(used, given, upstream, own, findings)

    config = read_section(KubeProxyConfiguration, upstream, findings)
    settings = read_section(OwnSettings, own, findings)
    cross_check(config, findings)
    if findings.problems:
        raise ConfigError(findings.problems, findings.warnings)
    if content is None and given.get("healthz-port") == "0":
        config = replace(config, healthz_bind_address=None)
    ignored = [str(flag) for flag in asked if flag not in used]
    warnings = (*findings.warnings, *_remarks(config, findings.unused, ignored))
    return LoadedConfig(config, settings, warnings, frozenset(findings.given))


def node_name(config: KubeProxyConfiguration, os_hostname: str) -> str:
    """The name of our Node object: hostnameOverride, or else the host's name, trimmed and in lower case.

    Raises ConfigError if nothing is left.  Source: GetHostname in k8s.io/component-helpers/node/util.
    """
    name = (config.hostname_override or os_hostname).strip().lower()
    if not name:
        raise ConfigError(
            [ConfigProblem("hostnameOverride", "this host has no name", "the name of this node's Node object")]
        )
    return name


def _counts_beside_a_file(flag: flags.Flag) -> bool:
    return flag.wins or flag.section is OwnSettings or flag.name == "config"


def _fields_of_file(content: bytes | None, where: str, findings: ValidationResult) -> Fields:
    if content is None:
        return Fields()
    fields, warnings = parse_document(content, where)
    findings.warnings += warnings
    for key, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if (found := fields.pop(key, None)) != wanted:
            findings.refuse(key, InvalidValue(f"expected {wanted}, got {shown(found)}", f"{key}: {wanted}"))
    # Without a file IPVS is taken for granted; in a file, which kube-proxy may read too, the mode must stand.
    fields["mode"] = "" if fields.get("mode") is None else fields["mode"]
    return fields


def _remarks(config: KubeProxyConfiguration, unused: list[str], ignored: list[str]) -> list[ConfigProblem]:
    """What does nothing, each kind of it in one line."""
    gates = sorted(config.feature_gates.keys() - {"KubeProxyIPVS"})
    loopback = ["nodePortAddresses: localhost"] if "localhost" in config.node_port_addresses else []
    remarks = (
        (unused, "set, but means nothing to this agent"),
        (ignored, "ignored, because --config is given"),
        ([f"featureGates.{gate}" for gate in gates], "no such gate changes this agent"),
        (loopback, "IPVS serves no NodePort on loopback addresses"),
    )
    return [ConfigProblem(", ".join(names), message) for names, message in remarks if names]
