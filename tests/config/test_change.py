"""Effects of a changed file: every field has a row, and rows agree with the fields' declarations."""

import pytest

from kubeproxy_py.config.change import EFFECTS, Change, Effect, change_between
from kubeproxy_py.config.types import KubeProxyConfiguration
from tests.config.build import all_fields, from_file

FIELDS = dict(all_fields())
ONLY_VALIDATED = {"featureGates"}  # read, but without effect unless it is rejected


def test_effects_has_a_row_for_every_field_and_no_other() -> None:
    assert sorted(EFFECTS) == sorted(FIELDS)


@pytest.mark.parametrize("path", sorted(FIELDS))
def test_exactly_the_fields_declared_unused_have_no_effect(path: str) -> None:
    field_type = FIELDS[path].field_type
    assert field_type is not None
    is_unused = field_type.unused or path in ONLY_VALIDATED
    assert (EFFECTS[path] is Effect.NONE) == is_unused


def test_equal_configurations_have_no_change() -> None:
    assert change_between(KubeProxyConfiguration(), KubeProxyConfiguration()) == Change()


def test_changed_fields_are_listed_by_their_effect() -> None:
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
