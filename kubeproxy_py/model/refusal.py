"""A refusal: the agent declines part of what an object asks for, and serves the rest."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.model.services import ServiceName

ADDRESS_CONTESTED = "AddressContested"
"""Another Service has the better claim to an address and port."""

ADDRESS_IN_USE = "AddressInUse"
"""An external address belongs to another machine or to a pod, as far as this node knows."""

FORBIDDEN_ADDRESS = "ForbiddenAddress"
"""No Service can have the address: loopback, link-local, multicast, broadcast."""

SETTING_IGNORED = "SettingIgnored"
"""An annotation of ours has a wrong value, an unknown name, or does not fit the others or this node."""

REASONS: tuple[str, ...] = (ADDRESS_CONTESTED, ADDRESS_IN_USE, FORBIDDEN_ADDRESS, SETTING_IGNORED)
"""Every reason; each is also the reason of a Kubernetes Event and the value of a metric's label."""

_SUBJECTS_MAX = 5  # addresses in one text; annotations are all named
_SUBJECT_MAX = 80  # bytes of an annotation with its value, where a text has several


class Refusal(Struct, frozen=True, gc=False, order=True):
    """What is refused, and why.

    Printed as ``Service: subject: message (hint)``.
    """

    reason: str
    service: ServiceName
    subject: str  # an address, address:port/protocol, or annotation=value
    message: str
    hint: str = ""  # the remedy

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"Service {self.service}: {self.subject}: {self.message}{hint}"


def grouped(refusals: Iterable[Refusal]) -> Iterator[Refusal]:
    """Return one refusal for each Service and cause of *refusals*, with its subjects: of many addresses the first."""
    groups: dict[Refusal, list[str]] = {}
    for refusal in refusals:
        groups.setdefault(replace(refusal, subject=""), []).append(refusal.subject)
    for group, subjects in groups.items():
        yield replace(
            group, subject=_annotations(subjects) if group.reason == SETTING_IGNORED else _addresses(subjects)
        )


def _addresses(subjects: Sequence[str]) -> str:
    more = f" and {len(subjects) - _SUBJECTS_MAX:,} more" if len(subjects) > _SUBJECTS_MAX else ""
    return ", ".join(subjects[:_SUBJECTS_MAX]) + more


def _annotations(subjects: Sequence[str]) -> str:
    """Return *subjects* with values that are shortened, so that a text with many has the name of each."""
    if len(subjects) == 1:
        return subjects[0]
    return ", ".join(cut(text, _SUBJECT_MAX) for text in subjects)


def cut(text: str, most: int) -> str:
    """Return *text*, or its beginning and three dots, in at most *most* bytes."""
    encoded = text.encode()
    return text if len(encoded) <= most else f"{encoded[: max(0, most - 3)].decode(errors='ignore')}..."
