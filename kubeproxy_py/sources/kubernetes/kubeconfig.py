"""Check the kubeconfig file before the ``kubernetes`` package reads it.

Invariants:
- An error names the field, the file and the remedy, and never contains a value.  The package cannot do that: it raises
  many types of exception, and their texts may contain the complete user entry with its token.
- Every file that the kubeconfig names is read here once, so that one that cannot be used is named at start.

Source: k8s.io/client-go/tools/clientcmd/api/v1, types.go.
"""

from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct, field

from kubeproxy_py.files import UnreadableError, read_file
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.decode.errors import from_validation_error
from kubeproxy_py.yaml_loader import YamlError, load_yaml

SIZE_MAX_BYTES = 4 << 20
DEPTH_MAX = 100  # a user's exec environment has 6 levels
EXPANDED_VALUES_MAX = 200_000
_PEM_BEGIN = b"-----BEGIN"


class _Wire(Struct, gc=False, rename="kebab"):
    """Base of the file's structures; field names are the file's, in snake_case."""


class EnvWire(_Wire):
    """One environment variable of an exec plugin."""

    name: str
    value: str


class ExecWire(_Wire):
    """An exec plugin."""

    command: str
    api_version: str = field(name="apiVersion")
    args: list[str] | None = None
    env: list[EnvWire] | None = None


class UserWire(_Wire):
    """A user's credentials."""

    token: str | None = None
    token_file: str | None = field(default=None, name="tokenFile")
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    exec: ExecWire | None = None
    auth_provider: object = None


class ClusterWire(_Wire):
    """An API server."""

    server: str
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None


class ContextWire(_Wire):
    """A combination of cluster and user."""

    cluster: str
    user: str = ""


class NamedUserWire(_Wire):
    """An entry of ``users``."""

    name: str
    user: UserWire | None = None


class NamedClusterWire(_Wire):
    """An entry of ``clusters``."""

    name: str
    cluster: ClusterWire


class NamedContextWire(_Wire):
    """An entry of ``contexts``."""

    name: str
    context: ContextWire


class KubeconfigWire(_Wire):
    """The file."""

    current_context: str = ""
    contexts: list[NamedContextWire] | None = None
    clusters: list[NamedClusterWire] | None = None
    users: list[NamedUserWire] | None = None


Named = TypeVar("Named", NamedUserWire, NamedClusterWire, NamedContextWire)


class Kubeconfig(Struct, frozen=True, gc=False):
    """What we need from the current context; the package reads the rest."""

    token_file: str = ""  # path; "": none, or the file has a token itself, which has precedence
    has_exec: bool = False
    has_auth_provider: bool = False


def read_kubeconfig(path: str) -> Kubeconfig:
    """Check the file *path*.

    Raises:
        SourceError: The file cannot be used; the message names the field.
    """
    try:
        content = read_file(path, SIZE_MAX_BYTES)
    except UnreadableError as error:
        raise SourceError(f"kubeconfig {path}: {error.message}", error.hint) from None
    cluster, user = parse_kubeconfig(path, content)
    files = {
        "certificate-authority": cluster.certificate_authority,
        "client-certificate": user.client_certificate,
        "client-key": user.client_key,
        "tokenFile": None if user.token else user.token_file,
    }
    for name, file in files.items():
        if file:
            _check_file(path, name, file)
    token_file = files["tokenFile"]
    token_path = str(_resolve(path, token_file)) if token_file else ""
    return Kubeconfig(token_path, user.exec is not None, user.auth_provider is not None)


def parse_kubeconfig(path: str, content: bytes) -> tuple[ClusterWire, UserWire]:
    """Return cluster and user of the current context in *content*, the file *path*.  Raises SourceError."""
    wire = _parse(path, content)
    context = _find(path, "contexts", wire.contexts, wire.current_context, "current-context").context
    cluster = _find(path, "clusters", wire.clusters, context.cluster, "the context's cluster").cluster
    if not context.user:
        return cluster, UserWire()
    return cluster, _find(path, "users", wire.users, context.user, "the context's user").user or UserWire()


def _check_file(path: str, field: str, file: str) -> None:
    """Check that *file*, which *field* names, can be read and contains what it should.  Raises SourceError."""
    where = f"kubeconfig {path}: {field}: {file}"
    try:
        content = read_file(_resolve(path, file), SIZE_MAX_BYTES)
    except UnreadableError as error:
        raise SourceError(f"{where}: {error.message}", error.hint) from None
    if field == "tokenFile":
        if not content.isascii():
            raise SourceError(f"{where}: has characters that a token cannot have", "check the file")
    elif _PEM_BEGIN not in content:
        hint = "convert it, for example by openssl, or check the path"
        raise SourceError(f"{where}: is not PEM: no line begins with {_PEM_BEGIN.decode()}", hint)


def _parse(path: str, content: bytes) -> KubeconfigWire:
    """Return the contents of the file.  Raises SourceError."""
    try:
        document = load_yaml(content, max_depth=DEPTH_MAX, max_expanded_values=EXPANDED_VALUES_MAX)
        return msgspec.convert(document.value, KubeconfigWire)
    except YamlError as error:  # without the cause, whose text may contain values
        line = f", line {error.line}" if error.line else ""
        raise SourceError(f"kubeconfig {path}{line}: invalid YAML: {error.message}") from None
    except msgspec.ValidationError as error:
        invalid = from_validation_error(error)
        where = f"kubeconfig {path}: {invalid.field}" if invalid.field else f"kubeconfig {path}"
        raise SourceError(f"{where}: {invalid.message}", invalid.hint) from None


def _find(path: str, field: str, entries: list[Named] | None, name: str, reference: str) -> Named:
    """Return the entry *name* of *field*, which *reference* names.  Raises SourceError."""
    for entry in entries or ():
        if entry.name == name:
            return entry
    message = f"{reference} is {name!r:.100}, which is not in {field}" if name else f"{reference} is missing"
    raise SourceError(f"kubeconfig {path}: {message}")


def _resolve(path: str, file: str) -> Path:
    """Return the path of *file*, which is relative to the folder of the kubeconfig *path*."""
    return Path(path).expanduser().parent / file
