"""Objects as real API servers serve them: VERSION.json.gz, recorded by `python -m tests.recorded_objects`.

docs/support.md lists the recorded releases, and from which sources their servers were built.

Invariants:
  - The objects are those of written.py, as the server stored them, and what the server makes for itself.
"""

import gzip
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
Json = dict[str, Any]


def versions() -> list[str]:
    """Return the versions of Kubernetes whose objects are recorded, as "1.36.2"."""
    names = (path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))
    return sorted(names, key=lambda name: [int(number) for number in name.split(".")])


def recorded(version: str) -> dict[str, Json]:
    """Return the lists of the server of *version*, by the path from which they were requested."""
    return dict(json.loads(gzip.decompress((FOLDER / f"{version}.json.gz").read_bytes())))


def write(version: str, lists: dict[str, Json]) -> Path:
    """Write the *lists* of a server, and return the file's path."""
    path = FOLDER / f"{version}.json.gz"
    text = json.dumps(lists, indent=1, sort_keys=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return path
