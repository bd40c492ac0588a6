"""Agent: settings of a Service that need what the kernel may lack."""

from errno import ENOENT

from kubeproxy_py.model.events import ServiceUpserted, SliceUpserted
from kubeproxy_py.model.refusal import SETTING_IGNORED
from kubeproxy_py.model.rows import RealServerSpec, VirtualServerSpec
from kubeproxy_py.model.steps import Step
from kubeproxy_py.sources.decode.settings import read_settings
from tests.builders import endpoint_slice, name, service
from tests.reconcile.harness import POD, SERVER, AgentHarness, serving

TWOS = read_settings({"kubeproxy-py.io/scheduler": "twos"})
LIMITED = read_settings({"kubeproxy-py.io/max-connections": "7"})


def lacks_twos(step: Step) -> int:
    """As the kernel answers where it has no ip_vs_twos."""
    return ENOENT if isinstance(step.spec, VirtualServerSpec) and step.spec.scheduler == "twos" else 0


def test_service_whose_scheduler_the_kernel_lacks_is_served_by_that_of_the_node() -> None:
    harness = AgentHarness()
    harness.kernel.fault = lacks_twos
    harness.handle(ServiceUpserted(service(settings=TWOS)), SliceUpserted(endpoint_slice()))
    harness.run_all_due()
    assert harness.kernel.rows[SERVER] == VirtualServerSpec("rr")
    assert POD in harness.kernel.rows
    assert not harness.agent.state.pending
    (refusal,) = harness.agent.compiler.refusals.of(name("web"))
    assert (refusal.reason, refusal.hint) == (SETTING_IGNORED, "modprobe ip_vs_twos")


def test_service_that_is_changed_to_a_scheduler_that_the_kernel_lacks_keeps_its_own() -> None:
    harness = serving()
    harness.kernel.fault = lacks_twos
    harness.handle(ServiceUpserted(service(settings=TWOS)))
    harness.run_all_due()
    assert harness.kernel.rows[SERVER] == VirtualServerSpec("rr")
    assert not harness.agent.state.pending


def test_thresholds_that_another_program_set_are_repaired_by_the_full_compare() -> None:
    for settings, wanted in ((None, RealServerSpec(1)), (LIMITED, RealServerSpec(1, 7, 7))):
        harness = serving()
        if settings:
            harness.handle(ServiceUpserted(service(settings=settings)))
            harness.run_all_due()
        harness.kernel.rows[POD] = RealServerSpec(1, 50, 20)
        harness.advance(60)
        harness.run_all_due()
        assert harness.kernel.rows[POD] == wanted


def test_settings_that_come_and_go_change_rows_in_place() -> None:
    harness = serving()
    harness.handle(ServiceUpserted(service(settings=LIMITED)))
    assert harness.applied_steps() == [("update", POD)]
    harness.now_s += 2
    harness.handle(ServiceUpserted(service()))
    assert harness.applied_steps() == [("update", POD)]
    assert harness.kernel.rows[POD] == RealServerSpec(1)
