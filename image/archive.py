"""Read an image in an OCI archive: its digest, configuration and files.

Each blob is verified against its digest.  Format: the OCI image layout, version 1.0.0, in a tar: index.json names the
manifest, which names the configuration and the layers, all of them files blobs/ALGORITHM/DIGEST.

Usage: python3 -m image.archive FILE prints digest, sizes and labels.
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
    """The only image in the OCI archive at *path*.  Raises ValueError if a blob does not match its digest."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def digest(self) -> str:
        """The digest of the manifest, by which registries and kubelet identify the image."""
        (descriptor,) = json.loads(self._read("index.json"))["manifests"]
        return str(descriptor["digest"])

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The OCI image manifest."""
        return dict(json.loads(self._blob(self.digest)))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The OCI image configuration: user, entry point, labels and times."""
        return dict(json.loads(self._blob(self.manifest["config"]["digest"])))

    @property
    def pull_bytes(self) -> int:
        """Bytes that a node downloads."""
        return sum(layer["size"] for layer in self.manifest["layers"])

    def layer_bytes(self) -> bytes:
        """Return the image's only layer, a tar compressed by gzip."""
        (descriptor,) = self.manifest["layers"]
        return self._blob(descriptor["digest"])

    @contextmanager
    def layer(self) -> Iterator[tarfile.TarFile]:
        """Yield the files of the image."""
        with tarfile.open(fileobj=io.BytesIO(self.layer_bytes())) as files:
            yield files

    def _blob(self, digest: str) -> bytes:
        algorithm, _, name = digest.partition(":")
        content = self._read(f"blobs/{algorithm}/{name}")
        if hashlib.new(algorithm, content).hexdigest() != name:
            raise ValueError(f"{self.path}: blob {digest} does not match its digest")
        return content

    def _read(self, name: str) -> bytes:
        with tarfile.open(self.path) as archive:
            file = archive.extractfile(name)
            if file is None:
                raise ValueError(f"{self.path}: {name} is not a file")
            return file.read()


def describe(archive: Archive) -> str:
    """Return digest, sizes and labels, one per line."""
    with archive.layer() as files:
        unpacked = sum(member.size for member in files)
    labels = [f"{name:40} {value}" for name, value in sorted(archive.config["config"]["Labels"].items())]
    sizes = f"{archive.pull_bytes / 1e6:.1f} MB to pull, {unpacked / 1e6:.1f} MB unpacked"
    return "\n".join([archive.digest, sizes, *labels])


if __name__ == "__main__":
    print(describe(Archive(Path(sys.argv[1]))))
