"""Write the generated parts of the Helm chart (`make chart`).

They are README.md from its values, where a value's description is the comment above it in values.yaml; the schema of
`config` from the configuration's fields; copies of rules and dashboard.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from kubeproxy_py.config.types import API_VERSION, KIND, Field, KubeProxyConfiguration, Section, fields_of
from tests.deploy.manifests import DEPLOY, objects_of
from tests.deploy.rendering import CHART

README = CHART / "README.md"
SCHEMA = CHART / "values.schema.json"
FILES = {
    CHART / "files/rules.yaml": DEPLOY / "monitoring/rules.yaml",
    CHART / "files/dashboard.json": DEPLOY / "monitoring/dashboard.json",
}
_KEY = re.compile(r"( *)([A-Za-z]+):(?: (.*))?$")
_AS_ONE = ("updateStrategy", "tolerations", "resources", "nodeSelector")  # values that users replace as a whole
_HEAD = """\
# kubeproxy-py

{description}.

Generated from `values.yaml` by `make chart`.

```
helm install kubeproxy-py deploy/helm/kubeproxy-py --namespace kube-system \\
    --set image.repository=REGISTRY/kubeproxy-py --set apiServer=https://CONTROL-PLANE:6443
```

[docs/install-kubeadm.md](../../../docs/install-kubeadm.md) describes the installation,
[docs/migrate.md](../../../docs/migrate.md) how to replace kube-proxy node by node,
[docs/security.md](../../../docs/security.md) the purpose of each right.

| value | default | |
|---|---|---|
"""


# What the defaults of fields without effect do not show.
_SPECIAL: dict[str, Any] = {
    "flushFrequency": {"type": ["string", "integer"]},
    "infoBufferSize": {"type": ["string", "integer"]},
    "vmodule": {"type": "array", "items": {"type": "object"}},
}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def schema() -> Any:
    """Return the schema of the values, with that of `config` from the fields of the file."""
    whole = json.loads(SCHEMA.read_text())
    config = _section_schema(KubeProxyConfiguration)
    config["properties"] |= {
        "apiVersion": {"enum": [API_VERSION]},
        "kind": {"enum": [KIND]},
        "mode": {"enum": ["ipvs"]},
    }
    whole["properties"]["config"] = config
    return whole


def _section_schema(section: type[Section]) -> Any:
    properties = {field.key: _field_schema(field) for field in fields_of(section)}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _field_schema(field: Field) -> Any:
    if field.field_type is None:
        return _section_schema(type(field.default))
    if field.key in _SPECIAL:
        return _SPECIAL[field.key]
    if field.field_type.choices:
        return {"enum": ["", *field.field_type.choices]}
    default = field.field_type.write(field.default)
    if isinstance(default, dict):
        return {"type": "object", "additionalProperties": {"type": "boolean"}}
    if isinstance(default, list | tuple):
        return {"type": "array", "items": {"type": "string"}}
    return {"type": _TYPES[type(default)]}


def readme() -> str:
    """Return the text of the chart's README."""
    [chart] = objects_of(CHART / "Chart.yaml")
    rows = (f"| `{name}` | {default} | {text} |\n" for name, default, text in values())
    return _HEAD.format(description=chart["description"]) + "".join(rows)


def values() -> Iterator[tuple[str, str, str]]:
    """Yield name, default and description of each value that has a default of its own."""
    [defaults] = objects_of(CHART / "values.yaml")
    above: list[str] = []
    section, about = "", ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.lstrip(" #"))
            continue
        match = _KEY.match(line)
        if match and len(match[1]) in (0, 2):
            text = " ".join(above)
            if not match[1]:
                section, about = match[2], text
                if match[3] is not None or section in _AS_ONE:
                    yield section, _default(defaults[section]), text
            elif section not in _AS_ONE and match[2] in defaults[section]:
                yield f"{section}.{match[2]}", _default(defaults[section][match[2]]), text or about
                about = ""
        above.clear()


def _default(value: object) -> str:
    return f"`{json.dumps(value)}`" if value not in ("", {}, []) else ""


def main() -> None:
    """Write the files."""
    for path, source in FILES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(source.read_text())
    README.write_text(readme())
    SCHEMA.write_text(json.dumps(schema(), indent=2) + "\n")


if __name__ == "__main__":
    main()
