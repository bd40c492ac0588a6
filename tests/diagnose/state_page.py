"""docs/state.md: the documents of the debug socket, printed from their classes, with a JSON schema."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct

from kubeproxy_py.diagnose import document
from kubeproxy_py.diagnose.document import (
    VERSION,
    Config,
    Document,
    ErrorDocument,
    Explanation,
    State,
    Top,
    TrafficDocument,
)
from kubeproxy_py.diagnose.filters import PARAMETERS

PAGE = Path(__file__).parents[2] / "docs/state.md"

_PARAMETERS = ", ".join(f"`{name}`" for name in PARAMETERS)
_HEAD = f"""\
# State documents

Printed from `kubeproxy_py/diagnose/document.py` by `make state-page`; version `{VERSION}`. Within a version, members
are added, never changed or removed. Times are RFC 3339 in UTC; "" means never, or unknown. Numbers that were not read
are null.

The agent serves these documents as JSON, for root only, at the Unix socket of `--debug-socket`
(`/run/kubeproxy-py/debug.sock` in the DaemonSet, the chart and the unit), and, with `enableProfiling: true`, below
`/debug/` of the metrics server. Only GET is answered. The server of `--ui` ([ui.md](ui.md)) has them at the paths of
the socket. `kubeproxy-py top --once -o json` prints a Top.

```
curl -s --unix-socket /run/kubeproxy-py/debug.sock http://agent/v1/status?service=shop/web
```

| path at the socket | path at the metrics server | document | parameters |
|---|---|---|---|
| `/v1/state` | `/debug/state` | State, of everything | as `/v1/status` |
| `/v1/status` | `/debug/status` | State, of what the parameters admit | {_PARAMETERS} |
| `/v1/explain` | `/debug/explain` | Explanation | `target`: as the argument of `kubeproxy-py explain` |
| `/v1/trace` | `/debug/trace` | [trace](trace.md#the-json-document) | `from`, `to`, `inInterface`: as of `trace` |
| `/v1/config` | `/debug/config` | Config | |
| `/v1/traffic` | `/debug/traffic` | TrafficDocument | `service`: NAMESPACE/NAME |

`realServers` and `connections` are `true` or `false`; without them, real servers are listed and connections are counted
if at most 300 virtual servers match. A request that cannot be answered gets an ErrorDocument: status 400 (a parameter),
404 (unknown target or path; an unknown target of `/v1/trace` is 400), 405 (not GET), 503 (the agent is in a sync that
lasts longer than 12 s, at the metrics address 5 s). `/v1/objects` and `/v1/table`, at the socket only, are for our own
commands, and no documents.

"""
_TOP: tuple[type[Document], ...] = (State, Explanation, Config, TrafficDocument, Top, ErrorDocument)


def page() -> str:
    """Return the text of the page."""
    return _HEAD + "".join(map(_section, _classes())) + _schema_section()


def _classes() -> Iterator[type[Document]]:
    """Yield the classes of documents, each after those that contain it."""
    found = [one for one in vars(document).values() if _is_document(one)]
    yield from _TOP
    yield from (one for one in found if one not in _TOP)


def _is_document(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, Document) and one is not Document


def _section(one: type[Document]) -> str:
    rows = "".join(f"| `{name}` | {type_text} | {meaning} |\n" for name, type_text, meaning in fields_of(one))
    return f"## {one.__name__}\n\n{inspect.getdoc(one)}\n\n| member | type | meaning |\n|---|---|---|\n{rows}\n"


def fields_of(one: type[Document]) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and meaning of each member; the meaning is the comment at the field."""
    lines, _ = inspect.getsourcelines(one)
    (definition,) = ast.parse("".join(lines)).body
    assert isinstance(definition, ast.ClassDef)
    names = dict(zip(one.__struct_fields__, one.__struct_encode_fields__, strict=True))
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            comment = lines[(node.end_lineno or 1) - 1].rpartition("  # ")
            meaning = comment[2].strip() if comment[1] else ""
            yield names[node.target.id], type_text(one.__annotations__[node.target.id]), meaning.replace("|", "\\|")


def type_text(annotation: Any) -> str:
    """Return a type as JSON has it."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation.__name__
    simple = {Any: "any value", str: "string", int: "integer", bool: "boolean", type(None): "null"}
    if annotation in simple:
        return simple[annotation]
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple:
        return f"list of {type_text(arguments[0])}"
    if get_origin(annotation) is dict:
        return f"object of {type_text(arguments[1])}"
    if all(isinstance(argument, str) for argument in arguments):
        return " or ".join(f"`{argument}`" for argument in arguments)
    return " or ".join(map(type_text, arguments))


def schema() -> dict[str, Any]:
    """Return the JSON schema of all documents."""
    found, components = msgspec.json.schema_components(_TOP, ref_template="#/$defs/{name}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "anyOf": list(found), "$defs": components}


def _schema_section() -> str:
    return f"## JSON schema\n\n```json\n{json.dumps(schema(), separators=(',', ':'))}\n```\n"


def schema_in(text: str) -> dict[str, Any]:
    """Return the schema in *text*, the page."""
    found = re.search(r"```json\n(.*)\n```", text)
    assert found
    return dict(json.loads(found[1]))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
