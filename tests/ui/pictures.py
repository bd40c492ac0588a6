"""docs/ui-light.png and docs/ui-dark.png: the page with a forged agent, in Chromium (`make ui-pictures`)."""

from __future__ import annotations

from pathlib import Path

from tests.ui.browser import Browser
from tests.ui.served import Served, demo_agent

DOCS = Path(__file__).parents[2] / "docs"
SCHEMES = ("light", "dark")
_SIZE = (1280, 760)
_POINTS = 20  # of each plot


def take(folder: Path, points: int = _POINTS) -> None:
    """Write a picture of each scheme to *folder*, when each plot has *points*."""
    served = Served(demo_agent())
    with Browser() as browser:
        browser.size(*_SIZE)
        for scheme in SCHEMES:
            browser.prefer(scheme)
            browser.open("about:blank#")
            browser.call("Page.navigate", url=f"{served.url}#services/shop%2Fweb")
            browser.wait_for("location.href.startsWith('http') && performance.getEntriesByName('update').length > 0")
            counts = (
                "[...document.querySelectorAll('polyline')].map(one => one.getAttribute('points').split(' ').length)"
            )
            browser.wait_for(f"{counts}.length > 0 && {counts}.every(count => count >= {points})")
            browser.picture(folder / f"ui-{scheme}.png")
    served.close()


if __name__ == "__main__":
    take(DOCS)
