"""A finding: something seen on this host that hurts Service traffic, and that this agent does not decide."""

from typing import Literal

from msgspec import Struct

Severity = Literal["warning", "error", "unknown"]
"""warning: it hurts only some, or not yet.  error: it hurts Service traffic.  unknown: it hides the rest from us."""


class Finding(Struct, frozen=True, gc=False):
    """What was found, on what, what follows from it, and what to do about it."""

    reason: str  # in one word of CamelCase; also a metric label and the reason of the Event
    subject: str = ""  # what it is about: a process, a rule, a sysctl
    message: str = ""  # the effect: what follows for packets
    hint: str = ""  # the remedy
    cause: str = ""  # how the subject is; "": that it exists is the cause
    severity: Severity = "error"

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        what = "; ".join(part for part in (self.cause, self.message) if part)
        return ": ".join(part for part in (self.subject, what) if part) + hint
