"""check: validate configuration, manifests and kubeconfig; also writes the effective configuration.

Invariants:
- Only files are read: neither the kernel nor the API server, and no program is run.
- A success says what was looked at; nothing to look at is an error.
- A file that the configuration names and that is not on this host is a warning, because another host may be meant; one
  that a flag or a variable names is an error.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kubeproxy_py import logging_setup
from kubeproxy_py.commands.exit_status import FAILED, SUCCESS, UNUSABLE
from kubeproxy_py.commands.interactive import FILE_FIELD, kubeconfig_named_by, load_with_kubeconfig
from kubeproxy_py.commands.output import print_lines, print_to_stderr
from kubeproxy_py.config.errors import ConfigError, error_text
from kubeproxy_py.files import UnreadableError, read_file
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.problem import Problem

if TYPE_CHECKING:
    from kubeproxy_py.compile.compiler import Compiler
    from kubeproxy_py.config.load import ConfigInput, LoadedConfig

_SOURCES = frozenset(("config", "manifests", "kubeconfig"))  # flags that name what is looked at by itself
_NOTHING = "name a file by --config, --manifests or --kubeconfig, or give the flags to validate"

log = logging.getLogger(__name__)


def check(config_input: "ConfigInput", *, config_only: bool = False) -> int:
    """Print every problem and warning, and return the exit status.

    Args:
        config_input: The flags and the file.
        config_only: Do not check manifests and the kubeconfig.
    """
    try:
        loaded = load_with_kubeconfig(config_input, os.environ)
    except ConfigError as error:
        print_lines(f"{error_text(error)}\n")
        return UNUSABLE
    logging_setup.setup("plain", -1)
    seen = list(_configuration(config_input, config_only=config_only))
    problems: list[Problem] = []
    if not config_only:
        source = _source(loaded, config_input)
        seen += source.seen
        problems += source.problems
    if not seen and not problems:
        print_to_stderr(f"error: nothing to check: {_NOTHING}\n")
        return UNUSABLE
    warnings = [*loaded.warnings, *(problem for problem in problems if problem.is_warning)]
    errors = [problem for problem in problems if not problem.is_warning]
    print_lines("".join([*(f"{error}\n" for error in errors), *(f"warning: {warning}\n" for warning in warnings)]))
    if errors:
        return FAILED
    print_lines(f"ok: {', '.join(seen)}\n")
    return SUCCESS


class _LookedAt(NamedTuple):
    """What was looked at, in words, and what is wrong with it."""

    seen: Sequence[str]
    problems: Sequence[Problem]


def _configuration(config_input: "ConfigInput", *, config_only: bool) -> Iterator[str]:
    """Yield what the configuration consists of; nothing if it is all default, and was not asked for by itself."""
    if path := config_input.flags.get("config"):
        yield f"configuration {path}"
    if flags := sorted(set(config_input.flags) - ({"config"} if config_only else _SOURCES)):
        yield f"flags {', '.join(f'--{name}' for name in flags)}"
    if config_only and not config_input.flags:
        yield "the default configuration"


def _source(loaded: "LoadedConfig", config_input: "ConfigInput") -> _LookedAt:
    """Look at the manifests, or else at the kubeconfig."""
    kubeconfig = loaded.config.client_connection.kubeconfig
    if loaded.agent.manifests:
        return _manifests(loaded)
    if not kubeconfig:
        return _LookedAt((), ())
    problems = list(_kubeconfig_problems(kubeconfig, kubeconfig_named_by(config_input)))
    return _LookedAt(() if problems else (f"kubeconfig {kubeconfig}",), problems)


def _manifests(loaded: "LoadedConfig") -> _LookedAt:
    """Return what is wrong with the objects, and then what of those that can be used is not served."""
    from kubeproxy_py.commands.parts import empty_platform, make_parts
    from kubeproxy_py.commands.plan import desired_rows
    from kubeproxy_py.sources import SourceError

    directory = Path(loaded.agent.manifests)
    if not directory.is_dir():
        hint = "create it, or set --manifests to another one"
        problem = Problem(field="--manifests", message=f"{directory} is not a directory on this host", hint=hint)
        return _LookedAt((), [problem])
    problems: list[Problem] = []
    parts = make_parts(loaded, empty_platform(loaded))
    try:
        desired_rows(parts, problems.append, _addresses_of)
    except SourceError as error:
        problems.append(Problem(message=error.message, hint=error.hint))
    cluster = parts.compiler.cluster
    slices = sum(map(len, cluster.all_slices().values()))
    kinds = {"Service": len(cluster.services), "EndpointSlice": slices}
    if not any(kinds.values()) and not cluster.node and not problems:
        hint = "add Services, EndpointSlices, and the Node of --hostname-override, in files *.yaml, *.yml or *.json"
        problems.append(Problem("--manifests", "", f"no object of {directory} is used", hint, is_warning=True))
    counts = [f"{count:,} {kind}{'' if count == 1 else 's'}" for kind, count in kinds.items()]
    looked_at = ", ".join([*counts, _own_node(cluster.node, parts.compiler.context.node_name)])
    return _LookedAt([f"manifests {directory} ({looked_at})"], [*problems, *_unserved(parts.compiler)])


def _own_node(node: Node | None, name: str) -> str:
    """Return which Node is this host's: of the others nothing is looked at."""
    return f"Node {name}" if node else f"no Node {name}; --hostname-override names another"


def _addresses_of(node: Node | None) -> tuple[HostAddress, ...]:
    """Return the addresses of *node*: the manifests may be for another host than this one."""
    return tuple(HostAddress("", address) for address in node.addresses) if node else ()


def _unserved(compiler: "Compiler") -> Iterator[Problem]:
    """Yield a warning for each address that is refused, and for each Service port that no endpoint serves."""
    from kubeproxy_py.compile.unserved import unserved_texts
    from kubeproxy_py.model.refusal import grouped

    for refusal in grouped(compiler.refusals):
        where = f"Service {refusal.service}"
        yield Problem(where, refusal.subject, refusal.message, refusal.hint, is_warning=True)
    for name, service in sorted(compiler.cluster.services.items()):
        for text in unserved_texts(service, compiler.cluster.slices_of(name), compiler.context):
            message = f"no endpoint serves {text}"
            yield Problem(where=f"Service {name}", field="spec.ports", message=message, is_warning=True)


def _kubeconfig_problems(path: str, field: str) -> Iterator[Problem]:
    """Yield what is wrong with the kubeconfig *path*, which *field* names, and with the files that it names."""
    from kubeproxy_py.sources import SourceError
    from kubeproxy_py.sources.kubernetes.kubeconfig import read_kubeconfig

    try:
        read_file(path, 1)
    except UnreadableError as error:
        message = f"cannot read {path} on this host: {error.message}"
        yield Problem(field=field, message=message, hint=error.hint, is_warning=field == FILE_FIELD)
        return
    try:
        read_kubeconfig(path)
    except SourceError as error:
        yield Problem(message=error.message, hint=error.hint)


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
