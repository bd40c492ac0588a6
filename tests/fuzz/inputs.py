"""The inputs of a reader: those that are kept in corpus/, and those that seeds.py makes."""

from pathlib import Path

from tests.fuzz.readers import Reader

FOLDER = Path(__file__).parent / "corpus"


def inputs(reader: Reader) -> dict[str, bytes]:
    """Return the inputs by name: the file's, or a number."""
    kept = {file.name: file.read_bytes() for file in sorted((FOLDER / reader.name).glob("*"))}
    return kept | {f"seed-{number}": data for number, data in enumerate(reader.seeds())}
