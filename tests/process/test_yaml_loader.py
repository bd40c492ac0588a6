"""The bounded YAML loader: plain data, with limits on nesting and on the size of expanded aliases."""

import pytest

from kubeproxy_py import yaml_loader
from kubeproxy_py.yaml_loader import DuplicateKey, YamlError, load_yaml

LONG = "#" * 1001 + "\n"  # texts up to 1000 characters are not measured


def load(text: str, max_depth: int = 8, max_expanded_values: int | None = 1000) -> object:
    return load_yaml(text, max_depth=max_depth, max_expanded_values=max_expanded_values).value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1\nb: [x, 2.5, true, null]\n", {"a": 1, "b": ["x", 2.5, True, None]}),
        ("date: 2024-01-31\n", {"date": "2024-01-31"}),
        ("a: &a [1]\nb: *a\n", {"a": [1], "b": [1]}),
        ("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
    ],
    ids=["empty", "scalars", "date", "alias", "merge key"],
)
def test_a_document_is_loaded_as_plain_data(text: str, value: object) -> None:
    assert load(text) == value


def test_bytes_are_decoded_as_yaml_requires() -> None:
    assert load_yaml("a: ü".encode("utf-16"), max_depth=8).value == {"a": "ü"}


def test_duplicate_keys_are_reported_and_the_last_one_is_used() -> None:
    document = load_yaml("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n", max_depth=8)
    assert document.value == {"a": 3, "b": {"c": 2}}
    assert set(document.duplicate_keys) == {DuplicateKey("a", 5), DuplicateKey("c", 4)}


def test_a_key_that_overrides_a_merged_one_is_no_duplicate() -> None:
    text = "a: &a {x: 1}\nb: &b\n  <<: *a\n  x: 2\nc:\n  <<: *b\n  x: 3\n"
    document = load_yaml(text, max_depth=8, max_expanded_values=100)
    assert document.value == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}}
    assert document.duplicate_keys == ()


@pytest.mark.parametrize("depth", [8, 9])
def test_nesting_is_limited(depth: int) -> None:
    text = f"{LONG}{'[' * depth}{']' * depth}"
    if depth == 8:
        assert load(text, max_depth=8) == [[[[[[[[]]]]]]]]
        return
    with pytest.raises(YamlError, match="nested deeper than 8 levels") as raised:
        load(text, max_depth=8)
    assert (raised.value.line, raised.value.column) == (2, 9)


@pytest.mark.parametrize("opening", ["[", "{", "- "])
def test_nesting_that_would_exhaust_the_stack_is_an_error(opening: str) -> None:
    with pytest.raises(YamlError):
        load(opening * 100_000)


ALIAS_BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize("bomb", [ALIAS_BOMB, MERGE_BOMB], ids=["aliases", "merge keys"])
def test_expanded_aliases_are_limited(bomb: str) -> None:
    with pytest.raises(YamlError, match="more than 1000 values once its aliases are expanded"):
        load(bomb)


def test_a_value_that_contains_itself_is_an_error() -> None:
    with pytest.raises(YamlError, match=r"the alias \*a is inside the value that it names"):
        load("a: &a [*a]\n")


def test_without_a_limit_aliases_share_their_value() -> None:
    value = load(ALIAS_BOMB, max_expanded_values=None)
    assert isinstance(value, dict)
    assert value["a29"][0] is value["a28"]


def test_without_a_limit_merge_keys_are_refused() -> None:
    with pytest.raises(YamlError, match="merge keys") as raised:
        load("a: &a {x: 1}\nb:\n  <<: *a\n", max_expanded_values=None)
    assert (raised.value.line, raised.value.column) == (3, 3)


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("a: [1\nb: 2", "did not find expected", 2),
        ("a: b\n---\nc: d\n", "expected a single document in the stream, but found another document", 2),
        (
            "a: !!python/object/apply:os.system [id]",
            "the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not supported",
            1,
        ),
        ("? [a]\n: b", "a key must be text", 1),
        ("a: *b", "found undefined alias", 1),
        ("a: " + "9" * 5000, "Exceeds the limit", 0),
    ],
    ids=["syntax", "two documents", "object", "key", "alias", "huge number"],
)
def test_an_error_has_its_reason_and_place(text: str, message: str, line: int) -> None:
    with pytest.raises(YamlError) as raised:
        load(text)
    assert message in raised.value.message
    assert raised.value.line == line


def test_short_values_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_loader, "VALUES_MAX", 1000)
    assert load("a: [" + "x," * 900 + "]", max_expanded_values=None) == {"a": ["x"] * 900}
    with pytest.raises(YamlError, match="more than 1,000 values"):
        load("a: [" + "x," * 1000 + "]", max_expanded_values=None)
