"""What the settings of a Service (model/settings.py) amount to on this node."""

from kubeproxy_py.model.refusal import SETTING_IGNORED, Refusal
from kubeproxy_py.model.services import Service


def setting_refusals(service: Service) -> tuple[Refusal, ...]:
    """Return the settings of *service* that are ignored."""
    return tuple(
        Refusal(
            SETTING_IGNORED,
            service.name,
            f"{problem.annotation}={problem.value}",
            f"{problem.message}; ignored",
            problem.hint,
        )
        for problem in service.settings.problems
    )
