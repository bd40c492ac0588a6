"""Check the rights of this process, without which little else can be looked at."""

from collections.abc import Iterator

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding


def check_rights(situation: Situation) -> Iterator[Finding]:
    """Find capabilities that this process lacks."""
    rights = situation.doctor.rights
    if rights and rights.missing:
        yield Finding(
            "RightsMissing",
            f"this process, of UID {rights.user}",
            "the kernel's virtual servers, sets and rules cannot be read, so most checks cannot look",
            "sudo kubeproxy-py doctor ...; in a pod, grant these capabilities",
            f"it lacks {' and '.join(rights.missing)}" + (", and it is not root" if rights.user else ""),
            "unknown",
        )


def rights_seen(situation: Situation) -> str:
    """Return who this process is; "" if it lacks rights."""
    rights = situation.doctor.rights
    return f"UID {rights.user}, with NET_ADMIN and NET_RAW" if rights and not rights.missing else ""
