"""A finding: something seen on this host that hurts Service traffic, and that this agent does not decide."""

from msgspec import Struct


class Finding(Struct, frozen=True, gc=False):
    """What was found, on what, what follows from it, and what to do about it."""

    reason: str  # in one word of CamelCase; also a metric label and the reason of the Event
    subject: str = ""  # what it is about: a process, a rule, a sysctl
    message: str = ""  # what follows for packets
    hint: str = ""  # the remedy

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return ": ".join(part for part in (self.subject, self.message) if part) + hint
