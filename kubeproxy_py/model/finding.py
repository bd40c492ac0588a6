"""A finding: something on this host that hurts Service traffic and that the agent does not decide."""

from msgspec import Struct


class Finding(Struct, frozen=True, gc=False):
    """What was found, on what, what follows from it, and the remedy.

    Printed as ``subject: message (hint)``.
    """

    reason: str  # in one word of CamelCase; also the reason of the Kubernetes Event and a label of the metric
    subject: str  # what it was found on: "bridge cni0", "IPv4 filter INPUT", "Node node-b"
    message: str
    hint: str = ""  # the remedy

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.subject}: {self.message}{hint}"
