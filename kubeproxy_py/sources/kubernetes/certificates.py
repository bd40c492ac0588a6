"""From when until when X.509 certificates are valid.

ssl decodes only certificates that it verified, and no expired one; so the few bytes that matter are read here.

Source: RFC 5280, 4.1 (Certificate, Validity, UTCTime, GeneralizedTime); X.690 for lengths.
"""

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_FORMATS = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}
_PIVOT_YEAR = 2050  # a UTCTime has two digits of the year: 50 to 99 are 1950 to 1999


def validity_periods(pem: bytes) -> Iterator[tuple[float, float]]:
    """Yield (not before, not after) of each certificate in *pem*, in seconds since 1970.

    Raises ValueError if one of them is not a certificate.
    """
    for match in _PEM.finditer(pem):
        yield _validity(base64.b64decode(b"".join(match[1].split()), validate=True))


def _validity(der: bytes) -> tuple[float, float]:
    """Return the times of one certificate.  Raises ValueError."""
    certificate, _ = _element(der, _SEQUENCE)
    rest, _ = _element(certificate, _SEQUENCE)  # the part that is signed
    if rest[:1] == bytes((_VERSION,)):
        _, rest = _element(rest, _VERSION)
    for _ in ("serial number", "algorithm", "issuer"):
        _, rest = _element(rest)
    validity, _ = _element(rest, _SEQUENCE)
    first, validity = _time(validity)
    last, _ = _time(validity)
    return first, last


def _time(der: bytes) -> tuple[float, bytes]:
    """Return the time that *der* begins with, and the rest.  Raises ValueError."""
    tag = der[0] if der else 0
    if tag not in _FORMATS:
        raise ValueError("a certificate has no time where one should be")
    content, rest = _element(der, tag)
    time = datetime.strptime(content.decode("ascii"), _FORMATS[tag]).replace(tzinfo=UTC)
    if tag == _UTC_TIME and time.year >= _PIVOT_YEAR:
        time = time.replace(year=time.year - 100)
    return time.timestamp(), rest


def _element(der: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """Return the content of the element that *der* begins with, and the rest.  Raises ValueError."""
    if len(der) < 2 or (tag is not None and der[0] != tag):  # noqa: PLR2004 - tag and length
        raise ValueError("not a certificate")
    length, start = der[1], 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[2 : 2 + size], "big"), 2 + size
    content = der[start : start + length]
    if len(content) != length:
        raise ValueError("a certificate ends too early")
    return content, der[start + length :]
