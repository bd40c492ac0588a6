"""Every reader accepts, or refuses with its own error, each input of the corpus and a few hundred changes of them."""

import pytest

from tests.fuzz.inputs import FOLDER, inputs
from tests.fuzz.mutations import mutated
from tests.fuzz.readers import READERS, Reader

_MUTATIONS = 300


@pytest.fixture(params=READERS, ids=lambda reader: reader.name)
def reader(request: pytest.FixtureRequest) -> Reader:
    assert isinstance(request.param, Reader)
    return request.param


def test_a_reader_reads_or_refuses_every_input_of_the_corpus(reader: Reader) -> None:
    results = {name: reader.run(data) for name, data in inputs(reader).items()}
    assert any(results.values()), "no input is valid, so most of the reader is not reached"


def test_a_reader_reads_or_refuses_changed_inputs(reader: Reader) -> None:
    originals = list(inputs(reader).values())
    for data in mutated(originals, _MUTATIONS, reader.name):
        try:
            reader.run(data)
        except Exception as error:
            error.add_note(f"keep this input in tests/fuzz/corpus/{reader.name}: bytes.fromhex({data.hex()!r})")
            raise


def test_every_folder_of_the_corpus_is_of_a_reader() -> None:
    assert {folder.name for folder in FOLDER.iterdir()} <= {reader.name for reader in READERS}
