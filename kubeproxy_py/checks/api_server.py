"""Check how the API server is reached, whose clock is right, and for how long certificates are valid."""

from collections.abc import Iterator

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.host_facts import Certificate

SKEW_MAX_S = 60.0
"""With a larger skew the clock counts as wrong.  A Date header has whole seconds."""

EXPIRES_SOON_S = 30 * 86400.0
_DAY_S = 86400.0


def check_api_server(situation: Situation) -> Iterator[Finding]:
    """Find an API server that does not answer, or not to us."""
    server = situation.doctor.api_server
    if server and server.error:
        yield Finding(
            "ApiServerUnreachable",
            server.url or "API server",
            "this node goes on with the Services that it has; changes of Services and endpoints are not applied",
            server.hint or f"curl -k {server.url}/healthz",
            server.error,
        )


def api_server_seen(situation: Situation) -> str:
    """Return which API server answered; "" if it did not."""
    server = situation.doctor.api_server
    if server is None:
        return "none is used: objects come from --manifests"
    return "" if server.error else f"{server.url} answers"


def check_clock(situation: Situation) -> Iterator[Finding]:
    """Find a clock that is not the API server's."""
    server = situation.doctor.api_server
    if server and server.skew_s is not None and abs(server.skew_s) > SKEW_MAX_S:
        direction = "ahead of" if server.skew_s > 0 else "behind"
        yield Finding(
            "ClockSkewed",
            "the clock of this host",
            "certificates and tokens are refused as expired or not yet valid, and metrics of delays are wrong",
            "timedatectl set-ntp true; chronyc tracking shows whether it works",
            f"it is {abs(server.skew_s):.0f} s {direction} the API server's",
        )


def clock_blind(situation: Situation) -> str:
    """Return why the clock was not compared."""
    server = situation.doctor.api_server
    if server is None or server.skew_s is not None:
        return ""
    why = "does not answer" if server.error else "has sent no time"
    return f"the API server {why}; nothing was compared"


def clock_seen(situation: Situation) -> str:
    """Return the skew; "" if it is not known."""
    server = situation.doctor.api_server
    if server is None:
        return "no API server to compare with: objects come from --manifests"
    return "" if server.skew_s is None else f"{server.skew_s:+.0f} s against the API server"


def check_certificates(situation: Situation) -> Iterator[Finding]:
    """Find certificates that are expired, not yet valid, or expire soon."""
    now_s = situation.doctor.now_s
    for certificate in situation.doctor.certificates:
        left_s = certificate.not_after_s - now_s
        if now_s < certificate.not_before_s:
            ahead_s = certificate.not_before_s - now_s
            yield _finding("CertificateNotYetValid", certificate, f"it is valid only in {_days(ahead_s)}")
        elif left_s <= 0:
            yield _finding("CertificateExpired", certificate, f"it expired {_days(-left_s)} ago")
        elif left_s < EXPIRES_SOON_S:
            yield _finding("CertificateExpiresSoon", certificate, f"it expires in {_days(left_s)}")


def _finding(reason: str, certificate: Certificate, cause: str) -> Finding:
    is_soon = reason == "CertificateExpiresSoon"
    when = "then " if is_soon else ""
    effect = f"{when}the API server refuses this agent, or the agent the API server, and no change is applied"
    remedy = (
        "kubeadm certs renew all, or have the cluster sign a new one (kubeadm kubeconfig user); openssl x509 -noout "
        "-dates shows the dates; timedatectl, if it is the clock that is wrong"
    )
    return Finding(
        reason, f"{certificate.role} of {certificate.place}", effect, remedy, cause, "warning" if is_soon else "error"
    )


def certificates_seen(situation: Situation) -> str:
    """Return the certificates, and for how long they are valid."""
    doctor = situation.doctor
    return ", ".join(
        f"{certificate.role} for {_days(certificate.not_after_s - doctor.now_s)}" for certificate in doctor.certificates
    ) or ("none is used" if "certificates" not in situation.unread else "")


def _days(seconds: float) -> str:
    return f"{seconds / _DAY_S:.0f} days" if seconds >= 2 * _DAY_S else f"{seconds / 3600:.1f} hours"
