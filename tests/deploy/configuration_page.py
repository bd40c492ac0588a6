"""docs/configuration.md, printed from the types, flags and effects of the configuration; `make configuration-page`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kubeproxy_py.config.change import EFFECTS, Effect
from kubeproxy_py.config.flags import FLAGS, OWN_FLAGS, Flag, field_of, kind_of
from kubeproxy_py.config.types import Field, KubeProxyConfiguration, Section, fields_of

PAGE = Path(__file__).resolve().parents[2] / "docs/configuration.md"

_HEAD = """\
# Configuration

Printed from `kubeproxy_py/config/` by `make configuration-page`.

The agent reads kube-proxy's file (`--config`, `apiVersion: kubeproxy.config.k8s.io/v1alpha1`, `kind:
KubeProxyConfiguration`) and takes its flags. With a file, flags that have a field there are ignored, but for
`--hostname-override` and those of the log, as in kube-proxy; our own flags always count. `kubeproxy-py check --config
FILE` says all that is wrong with a file, `--write-config-to FILE` writes what is in effect.
[differences.md](differences.md) says where the agent reads a file otherwise than kube-proxy.

A changed file is followed while the agent runs. *At once*: without restart. *Restart*: the process ends with status 0
and is started again by its supervisor; the kernel's state stays, so no packet is lost.

## Fields of the file

`null` means the default. A duration is written as `30s`, `1h30m`, `250ms`.

| field | value | default | flag | when it changes |
|---|---|---|---|---|
"""
_UNUSED = """
## Fields that mean nothing here

They are for other modes and systems, or for what this agent does otherwise; a file may have them, and the log names
once those that are set to something else than their default.

"""
_OWN = """
## The agent's own flags

No file of kube-proxy has a field for these, so they count beside a file too.

| flag | value | default | meaning |
|---|---|---|---|
"""
_WHEN = {Effect.LIVE: "at once", Effect.RESTART: "restart"}


def page() -> str:
    """The whole page."""
    every = list(_fields(KubeProxyConfiguration))
    used = [_row(path, field) for path, field in every if EFFECTS[path] is not Effect.NONE]
    idle = ", ".join(f"`{path}`" for path, _ in every if EFFECTS[path] is Effect.NONE)
    own = [_own_row(flag) for flag in OWN_FLAGS]
    return _HEAD + "\n".join(used) + "\n" + _UNUSED + idle + ".\n" + _OWN + "\n".join(own) + "\n"


def _fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Field]]:
    for field in fields_of(section):
        path = f"{prefix}{field.key}"
        if field.kind is None:
            yield from _fields(type(field.default), f"{path}.")
        else:
            yield path, field


def _row(path: str, field: Field) -> str:
    assert field.kind, f"{path} is a group"
    flag = next((flag for flag in FLAGS if flag.path == path and flag not in OWN_FLAGS), None)
    named = f"`{flag}`: {flag.help}" if flag else ""
    return f"| `{path}` | {_cell(field.kind.metavar)} | {_default(field)} | {_cell(named)} | {_WHEN[EFFECTS[path]]} |"


def _own_row(flag: Flag) -> str:
    return f"| `{flag}` | {_cell(kind_of(flag).metavar)} | {_default(field_of(flag))} | {_cell(flag.help)} |"


def _default(field: Field) -> str:
    assert field.kind, f"{field.name} is a group"
    if field.default is None or field.default in ("", (), {}):
        return ""
    written = field.kind.write(field.default)
    return f"`{str(written).lower() if isinstance(written, bool) else written}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
