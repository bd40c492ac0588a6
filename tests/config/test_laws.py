"""Properties of every configuration: it can be written and read back, and any input gives a value or a ConfigError."""

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
from tests.config.fields_table import PATHS, ROWS

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["0s", "-1h", "10.0.0.0/8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
VALID = {row.path: row.written for row in ROWS if row.path != "logging.vmodule"}  # which requires the log format text


@given(st.sets(st.sampled_from(sorted(VALID))))
def test_a_written_configuration_reads_back_the_same(paths: set[str]) -> None:
    config = load({"config": "x"}, document({path: VALID[path] for path in paths})).config
    assert load({"config": "x"}, as_yaml(config).encode()).config == config
    assert load({"config": "x"}, json.dumps(as_document(config)).encode()).config == config


@given(st.dictionaries(st.sampled_from(PATHS), ANYTHING, max_size=4))
def test_any_value_of_any_field_is_accepted_or_a_config_error(fields: dict[str, Any]) -> None:
    with suppress(ConfigError):
        load({"config": "x"}, document(fields))


@given(st.binary(max_size=60))
def test_any_file_is_accepted_or_a_config_error(content: bytes) -> None:
    with suppress(ConfigError):
        load({"config": "x"}, content)


@given(st.dictionaries(st.sampled_from([flag.name for flag in FLAGS]), st.text(max_size=8), max_size=4))
def test_any_text_of_any_flag_is_accepted_or_a_config_error(texts: dict[str, str]) -> None:
    with suppress(ConfigError):
        load(texts)


def test_the_name_in_the_file_follows_from_the_name_of_the_setting() -> None:
    assert [field.key for _, field in all_fields()] == [upstream_name(field.name) for _, field in all_fields()]
