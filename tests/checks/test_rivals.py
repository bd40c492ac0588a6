"""Another service proxy is told by its process, by what answers at its ports, and by rows that it changes again."""

import pytest

from kubeproxy_py.checks.rivals import Facts, ProxyProcess, find_rivals, service_proxy


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("/usr/local/bin/kube-proxy --config=/var/lib/kube-proxy/config.conf", "kube-proxy"),
        ("kube-proxy", "kube-proxy"),
        ("/usr/local/bin/kube-router --run-router=true", "kube-router"),
        ("/usr/local/bin/kube-router --run-service-proxy=false", ""),
        ("/hyperkube kube-proxy --v=2", "kube-proxy"),
        ("/hyperkube kubelet", ""),
        ("/opt/kubeproxy-py/bin/python /opt/kubeproxy-py/bin/kubeproxy-py run --config=x", "kubeproxy-py"),
        ("/opt/kubeproxy-py/bin/python /usr/local/bin/kube-proxy --config=x", "kubeproxy-py"),  # in the image
        ("python3 -m kubeproxy_py run", "kubeproxy-py"),
        ("python3 -m kubeproxy_py --manifests=x", "kubeproxy-py"),
        ("python3 -m kubeproxy_py status", ""),
        ("python3 -m kubeproxy_py run --init-only", ""),
        ("python3 -m pytest kube-proxy", ""),
        ("vim /etc/kube-proxy", ""),
        ("", ""),
    ],
)
def test_a_service_proxy_is_recognized_by_its_command_line(command: str, program: str) -> None:
    assert service_proxy(command.split()) == program


def subjects(facts: Facts) -> list[tuple[str, str]]:
    return [(finding.reason, finding.subject) for finding in find_rivals(facts)]


def test_a_process_is_named_with_its_pid_and_its_ports_are_not_reported_again() -> None:
    facts = Facts((ProxyProcess(12, "kube-proxy"),), ((10249, "iptables"),))
    assert subjects(facts) == [("AnotherServiceProxy", "kube-proxy (pid 12)")]


@pytest.mark.parametrize(
    ("port", "answer", "subject"),
    [
        (10249, "iptables", "a kube-proxy in iptables mode, which answers at port 10249"),
        (10249, "nftables\n", "a kube-proxy in nftables mode, which answers at port 10249"),
        (10249, "<html>404</html>", None),
        (10256, '{"lastUpdated": "2026-01-01","currentTime": "x"}', "a service proxy, which answers health checks at"),
        (10256, "ok", None),
    ],
)
def test_a_proxy_whose_process_is_not_visible_is_recognized_by_its_ports(
    port: int, answer: str, subject: str | None
) -> None:
    found = subjects(Facts(answers=((port, answer),)))
    assert len(found) == (subject is not None)
    assert not subject or found[0][1].startswith(subject)


def test_disputed_rows_are_named_with_the_suspect() -> None:
    rows = tuple(f"Address 10.96.0.{number}" for number in range(5))
    dispute = find_rivals(Facts((ProxyProcess(12, "kube-proxy"),), (), rows))[-1]
    assert dispute.reason == "RepeatedDrift"
    assert dispute.subject == "Address 10.96.0.0, Address 10.96.0.1, Address 10.96.0.2 and 2 more"
    assert dispute.message.startswith("kube-proxy (pid 12) changes them again")
    assert find_rivals(Facts(disputed=rows[:1]))[0].message.startswith("another program changes them again")


def test_programs_that_could_have_changed_disputed_rows_are_named_the_likely_ones_first() -> None:
    programs = ["agetty", "dockerd", "systemd", "wpa", "lldpd", "keepalived"]
    users = tuple(ProxyProcess(pid, program) for pid, program in enumerate(programs, 10))
    (dispute,) = find_rivals(Facts(disputed=("Address 10.96.0.1",), netlink_users=users))
    assert dispute.message.endswith(
        "sockets to do so: keepalived (pid 15), agetty (pid 10), dockerd (pid 11), systemd (pid 12), wpa (pid 13)"
    )


def test_nothing_is_found_on_a_node_with_one_proxy() -> None:
    assert find_rivals(Facts()) == ()
