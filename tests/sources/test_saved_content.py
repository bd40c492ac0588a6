"""The content of the file of saved objects: what is read is what was written, or nothing."""

import gzip
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import fields

from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import Endpoint, EndpointSlice, ObjectName, Service, ServicePort, SlicePort
from kubeproxy_py.model.settings import ServiceSettings, SettingProblem, Weight
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import SocketAddress
from kubeproxy_py.sources.saved import content
from kubeproxy_py.sources.saved.cluster_ids import cluster_ids
from kubeproxy_py.sources.saved.content import (
    FORMAT,
    Encoder,
    Objects,
    Origin,
    Saved,
    UnusableError,
    decode,
    encode,
    require_usable,
)
from tests.builders import endpoint, endpoint_slice, port, service
from tests.examples import at_most

WEB = service(
    "shop/web",
    ("10.96.0.10", "fd00::10"),
    (port(80, "TCP", "http", 30080), port(53, "UDP", "dns")),
    type="LoadBalancer",
    external_ips=("192.168.3.99",),
    load_balancer_ips=("192.168.3.98",),
    source_ranges=("10.0.0.0/8", "fd00::/8"),
    affinity_timeout_s=10800,
    internal_local=True,
    external_local=True,
    health_check_node_port=32000,
    proxy_name="",
    created_s=1_735_689_600.25,
    settings=ServiceSettings(
        "wrr",
        weights=(Weight("zone", "a", 3), Weight("others", "", 1)),
        drain_deadline_s=1.5,
        affinity_prefixes=(("IPv4", 24),),
        problems=(SettingProblem("kubeproxy-py.io/x", "1", "is unknown", "remove it"),),
    ),
)
OLD = service("shop/of-unknown-age", ("10.96.0.11",))  # created_s is infinite
HINTED = endpoint("10.244.1.5", ready=False, terminating=True, zone_hints=("zone-a", "zone-b"), node_hints=("node-a",))
SLICE = endpoint_slice("shop/web", (HINTED, "10.244.1.6"), label="http")
PARTS = tuple(endpoint_slice("shop/old", ("10.244.1.7",), suffix=f"/{index}") for index in range(2))
NODE = Node("node-a", "zone-a", ("192.168.3.10", "fd00:3::10"), ("10.244.1.0/24",), being_deleted=True)
OBJECTS: Objects = {
    ("Service", WEB.name): (WEB,),
    ("Service", OLD.name): (OLD,),
    ("EndpointSlice", SLICE.name): (SLICE,),
    ("Endpoints", ObjectName("shop", "old")): PARTS,
    ("Node", ObjectName("", "node-a")): (NODE,),
}
ORIGIN = Origin(("ca 0123",), 1_700_000_000.0, (SocketAddress("192.168.3.1", 6443), SocketAddress("fd00::1", 6443)))
SAVED = Saved(ORIGIN, OBJECTS)
FILE = encode(SAVED)


def test_what_is_read_is_what_was_written() -> None:
    assert decode(FILE) == SAVED
    assert OLD.created_s == NEVER
    assert decode(encode(Saved(ORIGIN, {}))) == Saved(ORIGIN, {})


def test_the_file_can_be_read_with_zcat() -> None:
    lines = [json.loads(line) for line in gzip.decompress(FILE).splitlines()]
    assert [line["kind"] for line in lines] == [
        "kubeproxy-py saved objects", "Service", "Service", "EndpointSlice", "Endpoints", "Node", "end",
    ]  # fmt: skip
    assert lines[0]["origin"]["written_s"] == ORIGIN.written_s


def test_objects_are_encoded_in_steps_between_which_other_threads_run() -> None:
    many: Objects = {("Service", value.name): (value,) for value in (service(f"s-{number}") for number in range(1000))}
    encoder = Encoder(ORIGIN)
    pieces = list(encoder.steps(many))
    assert len(pieces) > 10
    assert decode(b"".join(pieces)).objects == many


def test_digest_tells_whether_objects_differ_whatever_the_time() -> None:
    def digest(objects: Objects, written_s: float) -> bytes:
        encoder = Encoder(Origin(("a",), written_s))
        list(encoder.steps(objects))
        return encoder.digest

    assert digest(OBJECTS, 1.0) == digest(OBJECTS, 2.0)
    assert digest(OBJECTS, 1.0) != digest({**OBJECTS, ("Service", OLD.name): (WEB,)}, 1.0)


def test_equal_values_share_memory_after_reading() -> None:
    values = [endpoint_slice(f"shop/s-{number}", (f"10.244.1.{number}",)) for number in range(1, 3)]
    read = decode(encode(Saved(ORIGIN, {("EndpointSlice", value.name): (value,) for value in values}))).objects
    first, second = (part for parts in read.values() for part in parts if isinstance(part, EndpointSlice))
    assert first.ports is second.ports
    assert first.endpoints[0].node is second.endpoints[0].node
    assert first.name.namespace is second.service.namespace


# Files that cannot be used


def lines_of(file: bytes = FILE) -> list[bytes]:
    return gzip.decompress(file).splitlines(keepends=True)


def with_header(**changed: Any) -> bytes:
    header, *rest = lines_of()
    return gzip.compress(json.dumps({**json.loads(header), **changed}).encode() + b"\n" + b"".join(rest))


def with_origin(*, written_s: float | str) -> bytes:
    """The file with another time, as a number or as text that takes its place."""
    header, *rest = lines_of()
    origin = {**json.loads(header)["origin"], "written_s": "TIME"}
    changed = json.dumps({**json.loads(header), "origin": origin}).replace('"TIME"', str(written_s))
    return gzip.compress(changed.encode() + b"\n" + b"".join(rest))


DAMAGED = {
    "empty": (b"", "is damaged: it is cut off"),
    "no gzip": (b"x" * 100, "is damaged: it is not gzip"),
    "cut off": (FILE[:-9], "is damaged"),
    "longer": (FILE + b"more", "is damaged: it goes on after its end"),
    "twice": (FILE + FILE, "is damaged: it goes on after its end"),
    "empty gzip": (gzip.compress(b""), "is damaged: it ends too early"),
    "a line is missing": (gzip.compress(b"".join([lines_of()[0], *lines_of()[2:]])), "damaged: its checksum is wrong"),
    "no end": (gzip.compress(b"".join(lines_of()[:-1])), "is damaged: it ends too early"),
    "lines after the end": (gzip.compress(b"".join([*lines_of(), b"{}\n"])), "is damaged: it goes on after its end"),
    "no newline": (gzip.compress(b"".join(lines_of())[:-1]), "is damaged: its last line is incomplete"),
    "no header": (gzip.compress(b"".join(lines_of()[1:])), "is of an older version of this agent (format 0"),
    "no JSON": (gzip.compress(b"{\n"), "is damaged: its header cannot be read"),
    "no UTF-8": (gzip.compress(b"".join([lines_of()[0], b'{"kind":"\xff"}\n'])), "is damaged: a line cannot be read"),
    "two headers": (gzip.compress(b"".join([lines_of()[0], *lines_of()])), "is damaged"),
    "a wrong type": (gzip.compress(lines_of()[0] + b'{"kind":"Node","node":{"name":7}}\n'), "a line cannot be read"),
    "a newer version's kind": (gzip.compress(lines_of()[0] + b'{"kind":"Pod"}\n'), "unless another version"),
    "a newer version": (with_header(format=FORMAT + 1), "is of a newer version of this agent (format 2, not 1)"),
    "an older version": (with_header(format=0), "is of an older version of this agent"),
    "a time after the year 9999": (with_origin(written_s=253402300800.0), "its time of writing is no time"),
    "a time that no float has": (with_origin(written_s="1e999"), "is damaged"),
    "a time before 1970": (with_origin(written_s=-1.0), "its time of writing is no time"),
    "a time that is no number": (with_origin(written_s="NaN"), "is damaged"),
    "another origin": (with_header(origin={}), "is damaged: a line cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_file_that_cannot_be_used_is_an_error_with_cause_and_remedy(kind: str) -> None:
    file, message = DAMAGED[kind]
    with pytest.raises(UnusableError) as raised:
        decode(file)
    assert message in str(raised.value)
    assert "it is written again when the API server answers" in raised.value.hint


def test_file_is_bounded_in_every_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    endless_line = gzip.compress(lines_of()[0] + b" " * (content.LINE_MAX_BYTES + (1 << 20)))
    with pytest.raises(UnusableError, match="a line is larger than 8 MiB"):
        decode(endless_line)
    monkeypatch.setattr(content, "UNPACKED_MAX_BYTES", 1000)
    with pytest.raises(UnusableError, match="when unpacked"):
        decode(FILE)
    monkeypatch.setattr(content, "PACKED_MAX_BYTES", len(FILE) - 1)
    with pytest.raises(UnusableError, match="is larger than"):
        decode(FILE)


@at_most(300)
@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_file_with_a_changed_byte_is_rejected_or_says_the_same(index: int, change: int) -> None:
    changed = bytearray(FILE)
    changed[index] ^= change
    with suppress(UnusableError):
        assert decode(bytes(changed)) == SAVED  # the header of gzip has bytes without a meaning


@at_most(200)
@given(st.binary(max_size=200))
def test_lines_of_any_bytes_are_rejected(line: bytes) -> None:
    for file in (line, gzip.compress(line), gzip.compress(lines_of()[0] + line + b"\n")):
        with pytest.raises(UnusableError):
            decode(file)


def test_model_has_the_fields_that_this_format_was_made_for() -> None:
    """A changed meaning needs another FORMAT; then, or for a new field with a default, correct the list."""
    types: tuple[type[Struct], ...] = (Service, ServicePort, EndpointSlice, Endpoint, SlicePort, Node, Origin)
    assert {each.__name__: " ".join(field.name for field in fields(each)) for each in types} == {
        "Service": "name type cluster_ips ports external_ips load_balancer_ips source_ranges affinity_timeout_s "
        "internal_local external_local health_check_node_port proxy_name created_s problems settings",
        "ServicePort": "name protocol port node_port",
        "EndpointSlice": "name service family endpoints ports pods problems",
        "Endpoint": "address ready serving terminating node zone_hints node_hints zone",
        "SlicePort": "name protocol port",
        "Node": "name zone addresses pod_cidrs being_deleted labels",
        "Origin": "cluster written_s api_servers",
    }
    assert FORMAT == 1


# Whether a file may be used

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n"
OTHER = b"-----BEGIN CERTIFICATE-----\nZGVm\n-----END CERTIFICATE-----\n"
URL = "https://10.0.0.1:6443"


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ((URL, CERTIFICATE), (URL, CERTIFICATE), True),
        ((URL, CERTIFICATE), ("https://elsewhere:6443", CERTIFICATE), True),  # its address may change
        ((URL, CERTIFICATE), (URL, OTHER), False),
        ((URL, CERTIFICATE), (URL, OTHER + CERTIFICATE), True),  # the authority is being replaced
        ((URL, b""), (URL, b""), True),
        ((URL, b""), ("https://elsewhere:6443", b""), False),
        ((URL, CERTIFICATE), (URL, b""), False),
        ((URL, b"-----BEGIN CERTIFICATE-----\n=\n-----END CERTIFICATE-----"), (URL, b""), True),  # it is none
    ],
)
def test_cluster_is_recognized_by_its_authority_or_else_by_its_address(
    before: tuple[str, bytes], after: tuple[str, bytes], *, is_same: bool
) -> None:
    origin = Origin(cluster_ids(*before), 1000.0)
    if is_same:
        require_usable(origin, cluster_ids(*after), 1000.0, 0.0)
        return
    with pytest.raises(UnusableError, match="is of another cluster"):
        require_usable(origin, cluster_ids(*after), 1000.0, 0.0)


@pytest.mark.parametrize(
    ("age_s", "max_age_s", "is_usable"), [(10, 0, True), (10, 10, True), (11, 10, False), (-99, 10, True)]
)
def test_objects_are_usable_up_to_an_age(age_s: float, max_age_s: float, *, is_usable: bool) -> None:
    origin = Origin(("a",), 1000.0)
    if is_usable:  # also from the future: a machine without a clock of its own boots in the past
        require_usable(origin, ("a",), 1000.0 + age_s, max_age_s)
        return
    with pytest.raises(UnusableError, match="--state-max-age"):
        require_usable(origin, ("a",), 1000.0 + age_s, max_age_s)
