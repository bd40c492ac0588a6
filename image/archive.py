"""archive: an image that lies in an OCI archive: its digest, configuration and files.

Law: nothing is believed: each blob is what its digest says.  Format: the OCI image layout, version 1.0.0, in a tar:
index.json names the manifest, that the configuration and the layers, all of them blobs/ALGORITHM/DIGEST.

Usage: python3 -m image.archive FILE prints what a reader wants to know of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any


class Archive:
    """The one image in the OCI archive at *path*.  Raises ValueError where a blob is not what it should be."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def digest(self) -> str:
        """That of the manifest, by which registries and kubelet know the image."""
        (described,) = json.loads(self._read("index.json"))["manifests"]
        return str(described["digest"])

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads(self._blob(self.digest)))

    @cached_property
    def config(self) -> dict[str, Any]:
        """User, entry point, labels and times: the OCI image configuration."""
        return dict(json.loads(self._blob(self.manifest["config"]["digest"])))

    @property
    def pull_bytes(self) -> int:
        """How much a node fetches."""
        return sum(layer["size"] for layer in self.manifest["layers"])

    def layer_bytes(self) -> bytes:
        """The image's one layer, a tar that gzip packed."""
        (described,) = self.manifest["layers"]
        return self._blob(described["digest"])

    @contextmanager
    def layer(self) -> Iterator[tarfile.TarFile]:
        """The files of the image."""
        with tarfile.open(fileobj=io.BytesIO(self.layer_bytes())) as files:
            yield files

    def _blob(self, digest: str) -> bytes:
        algorithm, _, name = digest.partition(":")
        content = self._read(f"blobs/{algorithm}/{name}")
        if hashlib.new(algorithm, content).hexdigest() != name:
            raise ValueError(f"{self.path}: blob {digest} has other content")
        return content

    def _read(self, name: str) -> bytes:
        with tarfile.open(self.path) as archive:
            file = archive.extractfile(name)
            if file is None:
                raise ValueError(f"{self.path}: {name} is no file")
            return file.read()


def describe(archive: Archive) -> str:
    """Digest, labels and sizes, one a line."""
    with archive.layer() as files:
        unpacked = sum(member.size for member in files)
    labels = [f"{name:40} {value}" for name, value in sorted(archive.config["config"]["Labels"].items())]
    sizes = f"{archive.pull_bytes / 1e6:.1f} MB to pull, {unpacked / 1e6:.1f} MB unpacked"
    return "\n".join([archive.digest, sizes, *labels])


if __name__ == "__main__":
    print(describe(Archive(Path(sys.argv[1]))))
