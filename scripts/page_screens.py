"""Pictures of the HTML page for docs/page.md: at a desk's width and light, at a telephone's and dark.

``python scripts/page_screens.py RUNS docs`` writes ``page-1280.png`` and ``page-390.png`` into ``docs``. Needs Chromium
and the extra html; RUNS are those of ``cptlite demo``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from chromium import Page, find_chromium, open_browser

from cptlite.errors import UsageError
from cptlite.reporting import load_results
from cptlite.reporting.page import write_page

DESK, TELEPHONE = (1280, 1400), (390, 1240)  # pixels
POINTED = 5  # marker of the first curve whose value is shown, from the last


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of runs")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    given = parser.parse_args()
    program = find_chromium()
    if program is None:
        raise UsageError("wanted chromium, found none: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, open_browser(program) as browser:
        file = write_page(load_results([given.runs]), Path(folder) / "page.html")
        for (width, height), dark in ((DESK, False), (TELEPHONE, True)):
            page = browser.open(file, width=width, height=height, dark=dark)
            page.wait("document.querySelectorAll('.curve svg .mark-symbol path').length > 0")
            point_at_marker(page)
            # What is below is drawn a little later.
            page.wait(
                "[...document.querySelectorAll('.chart')].every((each) => each.querySelector('svg')"
                " || each.getBoundingClientRect().top > innerHeight || !each.checkVisibility())"
            )
            (given.out / f"page-{width}.png").write_bytes(page.screenshot())


def point_at_marker(page: Page) -> None:
    """Show the value of one marker."""
    marker = f"[...document.querySelectorAll('.curve svg .mark-symbol path')].at(-{POINTED}).getBoundingClientRect()"
    x, y = page.evaluate(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({marker})")
    page.point(x, y)
    page.wait("document.getElementById('told').checkVisibility()")


if __name__ == "__main__":
    main()
