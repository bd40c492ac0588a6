"""The output of `status`."""

from kubeproxy_py.commands.service_names import virtual_server_name
from kubeproxy_py.commands.status_table import refusals_text, saved_text
from kubeproxy_py.model.refusal import Refusal
from kubeproxy_py.model.rows import VirtualServer
from tests.builders import name, service


def refused(subject: str, service_text: str = "malicious") -> Refusal:
    return Refusal("AddressContested", name(service_text), subject, "not served, because", "use another")


def test_refusals_are_printed_one_line_for_each_service_and_cause() -> None:
    refusals = [refused("a:1"), refused("a:2"), refused("a:1", "worse")]
    assert refusals_text(refusals) == (
        "Refused:\n"
        "  AddressContested: Service shop/malicious: a:1, a:2: not served, because (use another)\n"
        "  AddressContested: Service shop/worse: a:1: not served, because (use another)\n"
    )


def test_of_many_subjects_five_are_printed() -> None:
    assert "a:0, a:1, a:2, a:3, a:4 and 2,495 more:" in refusals_text(refused(f"a:{n}") for n in range(2500))


def test_nothing_is_printed_if_nothing_is_refused() -> None:
    assert refusals_text([]) == ""


def test_virtual_server_has_the_name_of_its_holder() -> None:
    services = {name("web"): service("web", external_ips=("203.0.113.7",))}
    server = VirtualServer("203.0.113.7", 80, "TCP")
    assert virtual_server_name(server, name("web"), services) == "shop/web (externalIP)"
    assert virtual_server_name(server, None, services) == ""


def test_names_of_saved_objects_are_marked_as_stale() -> None:
    assert saved_text(None, 1000.0) == ""
    assert saved_text(1000.0, 4661.4).startswith("STALE: the API server does not answer")
    assert saved_text(1000.0, 4661.4).endswith("objects saved 1h1m1s ago\n")
    assert saved_text(1000.0, 900.0).endswith("objects saved 0s ago\n")  # a clock that went back
