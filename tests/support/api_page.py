"""The table of docs/support.md of Kubernetes releases: which fields are new, and what servers write of them.

Usage: python -m tests.support.api_page writes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from lab.job import REPOSITORY
from tests.sources.api_fields import META, MINORS, OPAQUE, known, leaves
from tests.sources.api_versions import objects_of
from tests.support.page import PAGE, line, replace_part

BEGIN = "<!-- written by python -m tests.support.api_page: begin -->\n"
END = "<!-- written by python -m tests.support.api_page: end -->\n"

EFFECTS = {
    20: "Endpoints only: its EndpointSlices are v1beta1, which the agent does not read; Services of one family",
    21: "EndpointSlices v1, with the condition ready alone; dual-stack Services",
    22: "pods that terminate serve while no other does; internalTrafficPolicy",
    24: "hints for zones; load balancers of several protocols",
    30: "ipMode Proxy leaves an address to the load balancer",
    31: "hints for zones, of trafficDistribution: PreferClose",
    34: "hints for nodes, of trafficDistribution: PreferSameNode",
}
"""What the agent can do from a release on, by minor version."""
_COLUMNS = ("release", "new in the API", "in the objects from then on", "for the agent")

_Fields = set[tuple[str, str]]
"""Kind and path; the kind of metadata is META."""


def table() -> str:
    """Return the table: a row for each release that changed something."""
    rows = [row for minor in MINORS if (row := _row(minor))]
    return "\n".join(["", line(_COLUMNS), "|---" * len(_COLUMNS) + "|", *rows, ""]) + "\n"


def _row(minor: int) -> str:
    """Return the row of a release; "" if it changed nothing, as compared with the one before."""
    changes = [_change(of, minor) if minor > MINORS[0] else "" for of in (_in_api, _written)]
    effect = EFFECTS.get(minor, "")
    return line((f"1.{minor}", *changes, effect)) if any((*changes, effect)) else ""


def _change(of: Callable[[int], _Fields], minor: int) -> str:
    now, before = of(minor), of(minor - 1)
    new, gone = list(_listed(now - before, before)), list(_listed(before - now, now))
    return ", ".join(new) + ("; " if new and gone else "") + (f"no more: {', '.join(gone)}" if gone else "")


def _listed(fields: _Fields, others: _Fields) -> Iterator[str]:
    """Yield the names of *fields*; only the name of a kind, or of a list, that *others* do not have."""
    kinds = {kind for kind, _ in others}
    yield from sorted({f"`{kind}`" for kind, _ in fields if kind not in kinds})
    lists = {(kind, each) for kind, path in others for each in _lists(path)}
    yield from sorted({_name(kind, _new_part(kind, path, lists)) for kind, path in fields if kind in kinds})


def _new_part(kind: str, path: str, lists: _Fields) -> str:
    """Return the outermost list of *path* that is not in *lists*, or else *path*."""
    return next((each for each in _lists(path) if (kind, each) not in lists), path)


def _lists(path: str) -> list[str]:
    """Return the lists that contain *path*, outermost first."""
    return [path[: found.end()] for found in re.finditer(re.escape("[]"), path)]


def _name(kind: str, path: str) -> str:
    plain = path.replace("[]", "").removesuffix(".*")
    return f"`{plain}`" if kind == META else f"`{kind}.{plain}`"


def _in_api(minor: int) -> _Fields:
    return {(kind, path) for kind, fields in known().items() for path, field in fields.items() if field.is_in(minor)}


def _written(minor: int) -> _Fields:
    """Return the fields of the objects of a release, with the keys of labels and annotations."""
    return {
        (item["kind"], path)
        for item in objects_of(minor)
        for path, _ in leaves(item, with_keys=True)
        if not path.startswith(OPAQUE)
    }


def main() -> None:
    """Write the table to the page."""
    replace_part(PAGE, BEGIN, END, table())
    print(f"wrote {PAGE.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
