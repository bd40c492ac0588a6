"""Generator of docs/configuration.md from the configuration's fields and flags (`make configuration-page`)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from kubeproxy_py.config.change import EFFECTS, Effect
from kubeproxy_py.config.flags import AGENT_FLAGS, FLAGS, Flag, field_of, field_type_of
from kubeproxy_py.config.types import Field, KubeProxyConfiguration, Section, fields_of

PAGE = Path(__file__).resolve().parents[2] / "docs/configuration.md"

_HEAD = """\
# Configuration

Generated from `kubeproxy_py/config/` by `make configuration-page`.

The agent reads kube-proxy's file (`--config`, `apiVersion: kubeproxy.config.k8s.io/v1alpha1`, `kind:
KubeProxyConfiguration`) and accepts its flags. With a file, flags that have a field there are ignored, except
`--hostname-override` and the log flags, as in kube-proxy; the agent's own flags always apply, and so does
`--kubeconfig` of all commands but `run` ([commands.md](commands.md#what-the-commands-read)). `kubeproxy-py check
--config FILE` reports every problem of a file, and `--write-config-to FILE` writes the effective configuration.
[differences.md](differences.md) lists where the agent reads a file differently from kube-proxy.

The agent applies a changed file while it runs. *Immediately*: without a restart. *Restart*: the process exits with
status 0 and its supervisor starts it again; kernel state is left in place, so no packets are lost.

## Fields of the file

`null` means the default, and so do 0 and "" in most fields, as in kube-proxy: `ipvs.syncPeriod: 0s` is 30s. A flag
with 0 means 0, and is refused where that is not valid (`--ipvs-sync-period=0s`). A duration is written
as `30s`, `1h30m`, `250ms`.

| field | value | default | flag | change takes effect |
|---|---|---|---|---|
"""
_UNUSED = """
## Fields without effect

They apply to other modes or operating systems, or to parts of kube-proxy that this agent does not have. A file may
contain them; the log names those that are not set to their default.

"""
_AGENT = """
## Flags of the agent

kube-proxy's file has no field for these, so they apply with a file too.

| flag | value | default | meaning |
|---|---|---|---|
"""
_WHEN = {Effect.LIVE: "immediately", Effect.RESTART: "restart"}


def page() -> str:
    """Return the page."""
    every = list(_fields(KubeProxyConfiguration))
    used = [_row(path, field) for path, field in every if EFFECTS[path] is not Effect.NONE]
    names = ", ".join(f"`{path}`" for path, _ in every if EFFECTS[path] is Effect.NONE)
    unused = textwrap.fill(names, 120, break_long_words=False, break_on_hyphens=False)
    agent = [_agent_row(flag) for flag in AGENT_FLAGS]
    return _HEAD + "\n".join(used) + "\n" + _UNUSED + unused + ".\n" + _AGENT + "\n".join(agent) + "\n"


def _fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Field]]:
    for field in fields_of(section):
        path = f"{prefix}{field.key}"
        if field.field_type is None:
            yield from _fields(type(field.default), f"{path}.")
        else:
            yield path, field


def _row(path: str, field: Field) -> str:
    assert field.field_type, f"{path} is a group"
    flag = next((flag for flag in FLAGS if flag.path == path and flag not in AGENT_FLAGS), None)
    flag_cell = f"`{flag}`: {flag.help}" if flag else ""
    value = field.field_type.metavar
    return f"| `{path}` | {_cell(value)} | {_default(field)} | {_cell(flag_cell)} | {_WHEN[EFFECTS[path]]} |"


def _agent_row(flag: Flag) -> str:
    value = field_type_of(flag).metavar
    return f"| `{flag}` | {_cell(value)} | {_default(field_of(flag))} | {_cell(flag.help)} |"


def _default(field: Field) -> str:
    assert field.field_type, f"{field.name} is a group"
    if field.default is None or field.default in ("", (), {}):
        return ""
    default = field.field_type.write(field.default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
