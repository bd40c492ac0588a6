"""Service ports that got no mark are logged once, and that all have one again."""

import logging

import pytest

from kubeproxy_py.commands.marks_log import MarksLog
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import PolicyEntry
from kubeproxy_py.model.services import Service
from tests.builders import node_context, service

LIMITED = MarkRange(0b11)  # one number


def local(name: str, number: int) -> Service:
    vip = f"203.0.113.{number}"
    return service(name, (f"10.96.0.{number}",), type="LoadBalancer", external_local=True, load_balancer_ips=(vip,))


def test_service_ports_beyond_the_last_number_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=LIMITED))
    marks_log = MarksLog(compiler)
    for number, name in enumerate(("a", "b"), 1):
        compiler.handle_event(ServiceUpserted(local(name, number)))
        compiler.compile()
        marks_log.check([])
        marks_log.check([])
    (record,) = caplog.records
    assert record.getMessage().startswith("No firewall mark is left for some Service ports")
    assert "shop/b" in str(vars(record))
    entries = {key.entry for key in compiler.desired.rows if isinstance(key, PolicyEntry)}
    assert entries == {"203.0.113.1,tcp:80"}

    compiler.handle_event(ServiceDeleted(local("a", 1).name))
    compiler.compile()
    compiler.end_rest(lambda _server: False)
    compiler.compile()
    marks_log.check([])
    assert caplog.records[-1].getMessage() == "Every Service port with externalTrafficPolicy Local has a mark again"
    entries = {key.entry for key in compiler.desired.rows if isinstance(key, PolicyEntry)}
    assert entries == {"203.0.113.2,tcp:80"}
