"""The page /ui: who is answered, with which headers, and the documents that it reads."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest

from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import load
from kubeproxy_py.diagnose.document import Counters, TrafficDocument
from kubeproxy_py.net import SocketAddress
from kubeproxy_py.server.http_messages import Request
from kubeproxy_py.server.ui import is_loopback_host, page
from tests.reconcile.harness import POD
from tests.server.test_debug_socket import documents
from tests.ui.served import Served, demo_agent


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served(demo_agent())
    yield served
    served.close()


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:10247", "127.1.2.3:1", "[::1]", "[::1]:10247"]
)
def test_names_of_this_machine_are_answered(served: Served, host: str) -> None:
    assert is_loopback_host(host)
    assert [served.get(path, host)[0] for path in ("/ui", "/", "/v1/status?realServers=false")] == [200, 200, 200]


OTHER_HOSTS = (
    *("", "evil.example", "evil.example:10247", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"),
    *("[2001:db8::1]", "localhost:80:80", "localhost@evil", "127.0.0.1:x", "0.0.0.0:10247", "[::]:10247", "node-a:1"),
)


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_other_names_are_refused_so_that_dns_rebinding_reads_nothing(served: Served, host: str) -> None:
    for path in ("/ui", "/v1/status?realServers=false", "/other"):
        status, _, body = served.get(path, host)
        assert (status, "localhost only" in body) == (403, True)
    assert served.asked == []


def test_documents_are_not_for_other_sites(served: Served) -> None:
    status, headers, _ = served.get("/v1/status?realServers=false", Sec_Fetch_Site="cross-site")
    assert status == 403
    assert served.asked == []
    status, headers, _ = served.get("/v1/status?realServers=false", Sec_Fetch_Site="same-origin")
    assert (status, headers["cross-origin-resource-policy"]) == (200, "same-origin")
    assert "access-control-allow-origin" not in headers


def test_headers_admit_the_own_script_and_style_only(served: Served) -> None:
    _, headers, body = served.get("/ui")
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in headers["content-security-policy"]
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy["script-src"])
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy["style-src"])
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    assert body.encode() == page().body


def test_page_is_self_contained_and_has_no_inline_handlers() -> None:
    text = page().body.decode()
    outside = re.sub("<script>.*?</script>", "", text, flags=re.DOTALL)
    assert [link for link in re.findall(r"""(?:src|href)\s*=\s*["'](.{5})""", outside) if link != "data:"] == []
    assert re.findall(r"\son[a-z]+\s*=|\sstyle\s*=|javascript:", outside) == []
    assert "@import" not in text
    assert "innerHTML" not in text
    assert len(text) < 60_000


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(served: Served, method: str) -> None:
    status, headers, _ = served.get("/ui", method=method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_other_paths_are_not_found(served: Served) -> None:
    assert [served.get(path)[0] for path in ("/metrics", "/ui/index.html", "/ui/../v1", "/favicon.ico")] == [404] * 4


# The setting


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", SocketAddress("127.0.0.1", 10247)),
        ("127.0.0.2:80", SocketAddress("127.0.0.2", 80)),
        ("[::1]:8080", SocketAddress("::1", 8080)),
        ("", None),
    ],
)
def test_setting_is_a_loopback_address(text: str, address: SocketAddress | None) -> None:
    assert load({"ui": text}, None).agent.ui == address


@pytest.mark.parametrize("text", ["0.0.0.0:10247", "[::]:10247", "10.0.0.1:80", "localhost:10247", "true"])
def test_setting_that_others_could_reach_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({"ui": text}, None)
    assert "--ui" in str(refused.value)


def test_nothing_is_served_by_default() -> None:
    assert load({}, None).agent.ui is None


# Traffic


def test_traffic_of_a_service_is_that_of_its_real_servers() -> None:
    response = documents().answer(Request("GET", "/v1/traffic", "service=shop/web"))
    document = msgspec.json.decode(response.body, type=TrafficDocument)
    assert (document.api_version, document.kind) == ("kubeproxy-py/v1", "Traffic")
    assert document.real_servers is not None
    (real,) = document.real_servers
    assert (real.virtual_server, real.address, real.port) == (str(POD.virtual_server), POD.address, POD.port)
    assert (real.active, real.inactive, real.counters) == (3, 1, Counters(10, 20, 30, 400, 500))


@pytest.mark.parametrize(
    ("query", "status"), [("service=shop/none", 404), ("", 400), ("x=1", 400), ("service=shop/web&x=1", 400)]
)
def test_traffic_of_what_is_not_known_is_an_error(query: str, status: int) -> None:
    assert documents().answer(Request("GET", "/v1/traffic", query)).status == status
