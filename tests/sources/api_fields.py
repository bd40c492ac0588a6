"""The fields of the objects that the agent reads, in the API of Kubernetes 1.20 to 1.24, which has no schemas here.

Written to api_fields.json from the Kubernetes project's own Python clients, whose models are generated from the OpenAPI
document of each release.  Later releases have schemas in kubernetes_validate.

Usage: python -m tests.sources.api_fields downloads the clients from PyPI and writes the file again.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("api_fields.json")
# Minor version of Kubernetes 1 -> the version of its client.
CLIENTS = {20: "20.13.0", 21: "21.7.0", 22: "22.6.0", 23: "23.6.0", 24: "24.2.0"}
_KINDS = ("V1Service", "V1Endpoints", "V1EndpointSlice", "V1Node")
_ROOTS = {"Service": "V1Service", "Endpoints": "V1Endpoints", "EndpointSlice": "V1EndpointSlice", "Node": "V1Node"}
# Beside the objects: who wrote them.
_LEFT_OUT = ("V1ManagedFieldsEntry", "V1OwnerReference")

Types = Mapping[str, Mapping[str, str]]
"""Type -> field -> type of the field: another one of these, list[TYPE], dict(str, TYPE), or a type of Python."""


def known() -> dict[int, Types]:
    """Return the types of each version."""
    return {int(minor): types for minor, types in json.loads(FILE.read_text()).items()}


def unknown_fields(document: Any, types: Types) -> list[str]:
    """Return the paths of fields of *document* that the API with *types* does not have."""
    kind = _ROOTS[document["kind"]]
    return list(_unknown(document, kind, types, document["kind"])) if kind in types else [document["kind"]]


def _unknown(value: Any, type_name: str, types: Types, path: str) -> Iterator[str]:
    if match := re.fullmatch(r"list\[(.*)\]", type_name):
        for item in value:
            yield from _unknown(item, match[1], types, path)
    elif type_name in types:
        for name, part in value.items():
            if name in types[type_name]:
                yield from _unknown(part, types[type_name][name], types, f"{path}.{name}")
            else:
                yield f"{path}.{name}"


def read_client(wheel: Path) -> dict[str, dict[str, str]]:
    """Return the types of _KINDS, and those that they have, in the client *wheel*."""
    with zipfile.ZipFile(wheel) as files:
        sources = [name for name in files.namelist() if re.search(r"/client/models/(\w+_)?v1_\w+\.py$", name)]
        models = dict(_model(files.read(name).decode()) for name in sources)
    found: dict[str, dict[str, str]] = {}
    waiting = [kind for kind in _KINDS if kind in models]
    while waiting:
        kind = waiting.pop()
        if kind not in found and kind not in _LEFT_OUT:
            found[kind] = models[kind]
            waiting += [name for text in models[kind].values() for name in re.findall(r"\w+", text) if name in models]
    return {kind: dict(sorted(found[kind].items())) for kind in sorted(found)}


def _model(source: str) -> tuple[str, dict[str, str]]:
    """Return name and fields of the class in *source*, a generated model."""
    [model] = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    tables = {
        target.id: ast.literal_eval(node.value)
        for node in model.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    types, names = tables["openapi_types"], tables["attribute_map"]
    return model.name, {names[attribute]: text for attribute, text in types.items()}


def main() -> None:
    """Write the file."""
    written = {}
    with tempfile.TemporaryDirectory() as folder:
        for minor, version in CLIENTS.items():
            words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}"]
            subprocess.run([*words, f"kubernetes=={version}"], check=True)
            [wheel] = Path(folder).glob(f"kubernetes-{version}-*.whl")
            written[minor] = read_client(wheel)
    FILE.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
