"""What holds of every configuration: it can be written and read back, and no input is met with anything but reasons."""

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.flags import FLAGS
from kubeproxy_py.config.load import load
from kubeproxy_py.config.types import upstream_name
from kubeproxy_py.config.write import as_document, as_yaml
from tests.config.build import all_fields, document
from tests.config.test_fields import PATHS, ROWS

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["0s", "-1h", "10.0.0.0/8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
VALID = {row.path: row.written for row in ROWS if row.path != "logging.vmodule"}  # which needs the format text


@given(st.sets(st.sampled_from(sorted(VALID))))
def test_what_is_written_is_read_back(paths: set[str]) -> None:
    config = load({"config": "x"}, document({path: VALID[path] for path in paths})).config
    assert load({"config": "x"}, as_yaml(config).encode()).config == config
    assert load({"config": "x"}, json.dumps(as_document(config)).encode()).config == config


@given(st.dictionaries(st.sampled_from(PATHS), ANYTHING, max_size=4))
def test_no_value_of_any_field_is_met_with_anything_but_reasons(fields: dict[str, Any]) -> None:
    with suppress(ConfigError):
        load({"config": "x"}, document(fields))


@given(st.binary(max_size=60))
def test_no_bytes_are_met_with_anything_but_reasons(content: bytes) -> None:
    with suppress(ConfigError):
        load({"config": "x"}, content)


@given(st.dictionaries(st.sampled_from([flag.name for flag in FLAGS]), st.text(max_size=8), max_size=4))
def test_no_text_of_any_flag_is_met_with_anything_but_reasons(given_flags: dict[str, str]) -> None:
    with suppress(ConfigError):
        load(given_flags)


def test_a_setting_is_called_in_the_file_as_its_name_says() -> None:
    assert [field.key for _, field in all_fields()] == [upstream_name(field.name) for _, field in all_fields()]
