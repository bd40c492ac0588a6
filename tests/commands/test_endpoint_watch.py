"""EndpointWatch: what the loop hands over, and that it costs nothing where nothing is watched."""

import threading

from kubeproxy_py.commands.endpoint_watch import EndpointWatch
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.model.conditions import EndpointFailures
from kubeproxy_py.model.events import ServiceUpserted, SliceUpserted
from kubeproxy_py.model.settings import ServiceSettings
from tests.builders import endpoint_slice, name, node_context, service


def watching(settings: ServiceSettings, *, watch_nodes: bool = False) -> bool:
    """Return whether a thread watches a Service with *settings*."""
    compiler = Compiler(lambda _node, _addresses: node_context())
    compiler.handle_event(ServiceUpserted(service(settings=settings)))
    compiler.handle_event(SliceUpserted(endpoint_slice()))
    compiler.compile()
    emitted: list[EndpointFailures] = []
    before = set(threading.enumerate())
    watch = EndpointWatch(compiler, MetricsRegistry(), watch_nodes=watch_nodes)
    watch.start(emitted.append)
    watch.update([name("web")])
    return any(thread.name == "endpoint-watch" for thread in set(threading.enumerate()) - before)


def test_there_is_no_thread_without_a_service_to_watch() -> None:
    assert not watching(ServiceSettings())


def test_a_service_that_asks_for_checks_is_watched() -> None:
    assert watching(ServiceSettings(health_check="tcp"))


def test_all_services_are_watched_where_the_node_asks_for_it() -> None:
    assert watching(ServiceSettings(), watch_nodes=True)
