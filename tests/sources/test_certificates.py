"""From when until when certificates are valid, compared with what the library that wrote them says."""

from __future__ import annotations

import base64
import datetime
from pathlib import Path

import pytest
from cryptography import x509

from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.kubernetes.certificates import validity_periods
from kubeproxy_py.sources.kubernetes.examine import read_certificates
from tests.apiserver.certificates import Authority

KUBECONFIG = """\
current-context: default
clusters: [{{name: default, cluster: {{server: "https://192.0.2.1", {cluster}}}}}]
contexts: [{{name: default, context: {{cluster: default, user: default}}}}]
users: [{{name: default, user: {{{user}}}}}]
"""


@pytest.mark.parametrize("years", [-70, -1, 0, 1, 24, 300])  # two digits of the year until 2049, four from 2050 on
def test_times_are_those_of_the_certificate(tmp_path: Path, years: int) -> None:
    file, _ = Authority(tmp_path).issue("agent", valid=datetime.timedelta(days=365 * years, hours=1))
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    times = (certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())
    assert list(validity_periods(file.read_bytes())) == [times]


def test_every_certificate_of_a_bundle_is_read(tmp_path: Path) -> None:
    authorities = [Authority(tmp_path / name, name) for name in ("a", "b")]
    bundle = b"# two\n" + b"\n".join(authority.file.read_bytes() for authority in authorities)
    assert len(list(validity_periods(bundle))) == 2


@pytest.mark.parametrize("length", [0, 1, 2, 5, 20, 60, 100])
def test_truncated_certificate_is_a_value_error(tmp_path: Path, length: int) -> None:
    der = base64.b64decode("".join(Authority(tmp_path).file.read_text().splitlines()[1:-1]))[:length]
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"
    with pytest.raises(ValueError, match="certificate"):
        list(validity_periods(pem))


@pytest.mark.parametrize("as_data", [False, True])
def test_certificates_of_a_kubeconfig_are_named_by_their_place(tmp_path: Path, as_data: bool) -> None:
    authority = Authority(tmp_path)
    client, _ = authority.issue("agent")
    files = {"certificate-authority": authority.file, "client-certificate": client}
    texts = {
        field: f'{field}-data: "{base64.b64encode(file.read_bytes()).decode()}"' if as_data else f"{field}: {file.name}"
        for field, file in files.items()
    }
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.format(cluster=texts["certificate-authority"], user=texts["client-certificate"]))
    found = read_certificates(str(kubeconfig))
    assert [each.role for each in found] == ["client certificate", "certificate authority"]
    places = [f"{kubeconfig} ({field}-data)" for field in ("client-certificate", "certificate-authority")]
    assert [each.place for each in found] == (places if as_data else [str(client), str(authority.file)])


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("certificate-authority: missing.crt", "missing.crt: "),
        ('certificate-authority-data: "%"', "certificate-authority-data: is not base64"),
    ],
)
def test_certificate_that_cannot_be_read_is_named(tmp_path: Path, cluster: str, message: str) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.format(cluster=cluster, user=""))
    with pytest.raises(SourceError) as raised:
        read_certificates(str(kubeconfig))
    assert message in str(raised.value)


def test_without_a_kubeconfig_only_a_pod_has_certificates() -> None:
    assert read_certificates("", "https://192.0.2.1") == ()
    with pytest.raises(SourceError, match="pass --kubeconfig or --config"):
        read_certificates("")
