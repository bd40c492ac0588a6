"""The stand-in as a program: ``python -m tests.apiserver --objects FILE --port N`` serves until it is interrupted.

Objects are YAML documents or JSON, one or a List; they are changed by POST, PUT and DELETE as in a real server.
"""

import argparse
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.apiserver.server import ApiServer
from tests.apiserver.store import BY_KIND, Json


def objects_of(path: Path) -> Iterator[Json]:
    """The objects in a file that the stand-in has types for."""
    text = path.read_text()
    documents = [json.loads(text)] if path.suffix == ".json" else yaml.load_all(text, Loader=yaml.CSafeLoader)
    for document in documents:
        items = document["items"] if document and str(document.get("kind")).endswith("List") else [document]
        for item in items:
            if item and (item.get("apiVersion"), item.get("kind")) in BY_KIND:
                yield item


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.apiserver", description=__doc__)
    parser.add_argument("--objects", type=Path, help="file with the objects to begin with")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--token", help="the only bearer token to accept; none: anybody may ask")
    arguments = parser.parse_args()
    server = ApiServer(arguments.port, arguments.address)
    if arguments.token:
        server.faults.tokens = {arguments.token}
    if arguments.objects:
        server.store.create_all(objects_of(arguments.objects))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"serving on {arguments.address}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.stopping = True


if __name__ == "__main__":
    main()
