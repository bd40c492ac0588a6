"""IPv6 addresses that another program bound so that the kernel may select them as a source."""

from kubeproxy_py.model.rows import PREFERRED, Address
from kubeproxy_py.model.steps import Plan, Step
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.plan.render import plan_text

ADDRESS = Address("fd00:10:96::1")


def test_preferred_address_is_updated_and_not_deleted() -> None:
    plan = make_plan({ADDRESS: None}, {ADDRESS: PREFERRED})
    assert plan == Plan((Step("update", ADDRESS, None, PREFERRED),))
    assert plan_text(plan) == "~ Address       fd00:10:96::1  (was preferred)\n"


def test_preferred_address_that_nobody_wants_is_deleted() -> None:
    assert make_plan({}, {ADDRESS: PREFERRED}) == Plan((Step("delete", ADDRESS, None, PREFERRED),))
