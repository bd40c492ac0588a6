"""Resource versions: which of two is older.

Clients should treat them as opaque, but etcd's are numbers that only grow, and since Kubernetes 1.35 the API says so.
A version that goes back therefore means that the server lost what came after it: it was restored from a backup.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Resource versions".
"""


def goes_back(version: str, known: str) -> bool:
    """Return whether *version* is older than *known*; False if either is not a number."""
    return _is_number(version) and _is_number(known) and int(version) < int(known)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX


_DIGITS_MAX = 20  # of a 64-bit number
