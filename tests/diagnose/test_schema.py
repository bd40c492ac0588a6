"""docs/state.md: it is current, and live documents match its schema."""

from __future__ import annotations

import json
from collections.abc import Callable

import jsonschema
import msgspec
import pytest

from kubeproxy_py.diagnose.document import Document, ErrorDocument
from kubeproxy_py.model.rows import Connections
from kubeproxy_py.server.documents import config_page
from tests.builders import endpoint_slice, port, service
from tests.diagnose.state_page import PAGE, fields_of, page, schema_in
from tests.diagnose.view import explained, snapshot_with, state_of
from tests.reconcile.harness import POD


def test_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run `make state-page`"


def test_every_member_has_a_type() -> None:
    assert all(type_text for name, type_text, _ in fields_of(ErrorDocument))


@pytest.mark.parametrize("kind", ["state", "explanation", "config", "error"])
def test_live_document_matches_the_schema_of_the_page(kind: str) -> None:
    exposed = service(type="NodePort", ports=(port(node_port=30_080),), external_ips=("203.0.113.7",))
    snapshot = snapshot_with(exposed, endpoint_slice(), service("lone", ("10.96.0.11",)))
    documents: dict[str, Callable[[], Document]] = {
        "state": lambda: state_of(snapshot, {POD: Connections(1, 2)}),
        "explanation": lambda: explained(snapshot, "shop/web"),
        "config": lambda: config_page(snapshot, {}),
        "error": lambda: ErrorDocument("text", ("nearest",)),
    }
    plain = json.loads(msgspec.json.encode(documents[kind]()))
    jsonschema.Draft202012Validator(schema_in(PAGE.read_text())).validate(plain)
    broken = {**plain, next(iter(plain)): 5}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema_in(PAGE.read_text())).validate(broken)
