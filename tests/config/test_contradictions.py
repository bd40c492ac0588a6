"""Settings that contradict each other: what cannot work is a problem, what is hardly meant is a warning."""

import pytest

from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import load
from tests.config.build import document


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            {"iptables-backend": "libiptc", "iptables-flavour": "nft"},
            "--iptables-backend: libiptc writes legacy tables only, but --iptables-flavour is nft",
        ),
        ({"manifests": ""}, "--manifests: is empty (name the directory, or leave the flag out to use the API server)"),
    ],
)
def test_settings_that_cannot_work_are_refused(flags: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(flags)
    assert [str(problem)[: len(text)] for problem in raised.value.problems] == [text]


ALL_ADDRESSES = {"healthz-at-service-addresses": "true"}


@pytest.mark.parametrize(
    ("flags", "warnings"),
    [
        ({}, []),
        ({"iptables-backend": "libiptc"}, []),
        (ALL_ADDRESSES, []),
        (
            {**ALL_ADDRESSES, "healthz-bind-address": "127.0.0.1:10256"},
            ["--healthz-at-service-addresses: has no effect, because the health server does not listen"],
        ),
        (
            {**ALL_ADDRESSES, "healthz-port": "0"},
            ["--healthz-at-service-addresses: has no effect, because the health server does not listen"],
        ),
        (
            {"metrics-bind-address": "127.0.0.1:10256"},
            ["healthzBindAddress: the health server and the metrics server cannot both listen on port 10256"],
        ),
        ({"metrics-bind-address": "127.0.0.1:9", "healthz-bind-address": "127.0.0.2:9"}, []),
        ({"manifests": "/m", "kubeconfig": "/k"}, ["--kubeconfig: ignored, because --manifests is given"]),
        ({"manifests": "/m", "master": "https://a"}, ["--master: ignored, because --manifests is given"]),
        ({"hostname-override": "a b/c"}, ["--hostname-override: 'a b/c' cannot be the name of a Node"]),
        ({"hostname-override": " Node-A.example "}, []),  # trimmed and in lower case, as by kube-proxy
        (
            {"ipvs-sync-period": "1ns", "ipvs-min-sync-period": "0s"},
            ["--ipvs-sync-period: 1ns compares all kernel state nearly without a pause"],
        ),
        ({"ipvs-sync-period": "1s"}, []),
    ],
)
def test_settings_that_are_hardly_meant_are_warned_of(flags: dict[str, str], warnings: list[str]) -> None:
    found = [str(warning) for warning in load(flags).warnings]
    assert len(found) == len(warnings)
    assert all(text.startswith(start) for text, start in zip(found, warnings, strict=True)), found


def test_kubeconfig_of_a_file_besides_manifests_is_warned_of() -> None:
    content = document({"clientConnection.kubeconfig": "/k"})
    (warning,) = load({"config": "x", "manifests": "/m"}, content).warnings
    assert str(warning).startswith("clientConnection.kubeconfig: ignored, because --manifests is given")


def test_zero_in_a_file_is_the_default() -> None:
    assert load({"config": "x"}, document({"ipvs.syncPeriod": "0s"})).config.ipvs.sync_period_s == 30.0
