"""The kubeconfig file, checked before the ``kubernetes`` package reads it.

Law: a wrong kubeconfig is told with its field and a hint, and never with a value.  The package can do neither: it
raises whatever it stumbles over, and its messages may hold the whole user entry, token and all.

Source: k8s.io/client-go/tools/clientcmd/api/v1, types.go.
"""

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import Struct, field

from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.decode.errors import of_type_error

SIZE_MAX_BYTES = 4 << 20


class _Wire(Struct, gc=False, rename="kebab"):
    """Field names are the file's, in our spelling."""


class EnvWire(_Wire):
    name: str
    value: str


class ExecWire(_Wire):
    command: str
    api_version: str = field(name="apiVersion")
    args: list[str] | None = None
    env: list[EnvWire] | None = None


class UserWire(_Wire):
    token: str | None = None
    token_file: str | None = field(default=None, name="tokenFile")
    client_certificate: str | None = None
    client_key: str | None = None
    exec: ExecWire | None = None


class ClusterWire(_Wire):
    server: str
    certificate_authority: str | None = None


class ContextWire(_Wire):
    cluster: str
    user: str = ""


class NamedUserWire(_Wire):
    name: str
    user: UserWire | None = None


class NamedClusterWire(_Wire):
    name: str
    cluster: ClusterWire


class NamedContextWire(_Wire):
    name: str
    context: ContextWire


class KubeconfigWire(_Wire):
    current_context: str = ""
    contexts: list[NamedContextWire] | None = None
    clusters: list[NamedClusterWire] | None = None
    users: list[NamedUserWire] | None = None


Named = TypeVar("Named", NamedUserWire, NamedClusterWire, NamedContextWire)


class Kubeconfig(Struct, frozen=True, gc=False):
    """What we must know of the current context; the package reads the rest."""

    token_file: str = ""  # "": none, or a token stands in the file itself and goes before
    has_exec: bool = False


def read_kubeconfig(path: str) -> Kubeconfig:
    """Checks the file *path*.  Raises SourceError, which names the field, if it can't be used."""
    wire = _parse(path)
    context = _pick(path, "contexts", wire.contexts, wire.current_context, "current-context").context
    cluster = _pick(path, "clusters", wire.clusters, context.cluster, "the context's cluster").cluster
    user = UserWire()
    if context.user:
        user = _pick(path, "users", wire.users, context.user, "the context's user").user or user
    files = {
        "certificate-authority": cluster.certificate_authority,
        "client-certificate": user.client_certificate,
        "client-key": user.client_key,
        "tokenFile": None if user.token else user.token_file,
    }
    for name, file in files.items():
        if file and not _beside(path, file).is_file():
            raise SourceError(f"kubeconfig {path}: {name}: there is no file {file}", "is it mounted?")
    token_file = files["tokenFile"]
    return Kubeconfig(str(_beside(path, token_file)) if token_file else "", user.exec is not None)


def _parse(path: str) -> KubeconfigWire:
    try:
        with Path(path).expanduser().open("rb") as file:
            body: Any = yaml.load(file.read(SIZE_MAX_BYTES), Loader=yaml.CSafeLoader)
        return msgspec.convert(body, KubeconfigWire)
    except OSError as error:
        raise SourceError(f"kubeconfig {path}: {error.strerror}", "name one that exists with --kubeconfig") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SourceError(f"kubeconfig {path}, line {line}: is not YAML: {error.problem}") from None
    except msgspec.ValidationError as error:
        flaw = of_type_error(error)
        raise SourceError(f"kubeconfig {path}: {flaw.field or '(all)'}: {flaw.message}", flaw.hint) from None
    except (yaml.YAMLError, ValueError):
        raise SourceError(f"kubeconfig {path}: is not YAML") from None


def _pick(path: str, field: str, entries: list[Named] | None, name: str, what: str) -> Named:
    for entry in entries or ():
        if entry.name == name:
            return entry
    message = f"{what} is {name!r:.100}, which {field} does not have" if name else f"{what} is missing"
    raise SourceError(f"kubeconfig {path}: {message}")


def _beside(path: str, file: str) -> Path:
    """Relative paths in a kubeconfig start from its own folder."""
    return Path(path).expanduser().absolute().parent / file
