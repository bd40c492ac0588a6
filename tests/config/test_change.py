"""What a changed file asks for: every field has its row, and rows say what the code does with the field."""

import pytest

from kubeproxy_py.config.change import EFFECTS, Change, Effect, change_between
from kubeproxy_py.config.types import KubeProxyConfiguration
from tests.config.build import all_fields, from_file

FIELDS = dict(all_fields())
MEANINGLESS_BY_NATURE = {"featureGates"}  # read, but only to be refused


def test_every_field_has_its_row_and_no_other_has() -> None:
    assert sorted(EFFECTS) == sorted(FIELDS)


@pytest.mark.parametrize("path", sorted(FIELDS))
def test_what_is_declared_unused_changes_nothing_and_all_else_does(path: str) -> None:
    kind = FIELDS[path].kind
    assert kind is not None
    is_unused = kind.unused or path in MEANINGLESS_BY_NATURE
    assert (EFFECTS[path] is Effect.NONE) == is_unused


def test_the_same_configuration_asks_for_nothing() -> None:
    assert change_between(KubeProxyConfiguration(), KubeProxyConfiguration()) == Change()


def test_fields_are_named_by_what_they_take() -> None:
    old = from_file({"clusterCIDR": "10.0.0.0/8"}).config
    new = from_file({
        "clusterCIDR": "10.0.0.0/16",
        "logging.verbosity": 4,
        "hostnameOverride": "b",
        "ipvs.strictARP": True,
        "iptables.syncPeriod": "5s",
    }).config  # fmt: skip
    assert change_between(old, new) == Change(
        live=("logging.verbosity", "clusterCIDR"), restart=("hostnameOverride", "ipvs.strictARP")
    )
