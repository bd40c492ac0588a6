"""The stand-in API server as a program: ``python -m tests.apiserver --objects FILE --port N``.

The file contains YAML documents or JSON, with objects or a List; POST, PUT and DELETE change objects as in a real
server.
"""

import argparse
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.apiserver.server import ApiServer
from tests.apiserver.store import BY_KIND, Json


def read_objects(path: Path) -> Iterator[Json]:
    """Yield the objects in a file whose type the stand-in supports."""
    text = path.read_text()
    documents = [json.loads(text)] if path.suffix == ".json" else yaml.load_all(text, Loader=yaml.CSafeLoader)
    for document in documents:
        items = document["items"] if document and str(document.get("kind")).endswith("List") else [document]
        for item in items:
            if item and (item.get("apiVersion"), item.get("kind")) in BY_KIND:
                yield item


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.apiserver", description=__doc__)
    parser.add_argument("--objects", type=Path, metavar="FILE", help="file with the initial objects (YAML or JSON)")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0: any free port (default)")
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--token", help="the only bearer token to accept (default: no authentication)")
    parser.add_argument(
        "--no-bookmarks", action="store_true", help="send no bookmarks, so that idle watches are silent"
    )
    arguments = parser.parse_args()
    server = ApiServer(arguments.port, arguments.address)
    if arguments.token:
        server.faults.tokens = {arguments.token}
    if arguments.no_bookmarks:
        server.faults.bookmark_period_s = None
    if arguments.objects:
        server.store.create_all(read_objects(arguments.objects))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"serving on {arguments.address}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.stopping.set()


if __name__ == "__main__":
    main()
