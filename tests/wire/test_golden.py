"""The bytes of every message that the agent sends, against files that were checked with the header files."""

import sys

import pytest

from tests.wire.annotate import annotate, read_back
from tests.wire.messages import FILES, Sample
from tests.wire.regenerate import FOLDER, render

SAMPLES = [sample for samples in FILES.values() for sample in samples]


@pytest.mark.skipif(sys.byteorder == "big", reason="the files have the bytes of little-endian hosts")
@pytest.mark.parametrize("name", FILES)
def test_messages_equal_the_golden_files(name: str) -> None:
    assert render(FILES[name]) == (FOLDER / f"{name}.txt").read_text()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.title)
def test_annotations_contain_every_byte(sample: Sample) -> None:
    assert read_back(annotate(sample.body, sample.fixed_size, sample.names)) == sample.body


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.title)
def test_the_length_of_a_body_is_a_multiple_of_four(sample: Sample) -> None:
    assert len(sample.body) % 4 == 0
