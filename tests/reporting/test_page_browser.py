"""The HTML page in headless Chromium, at a telephone's width and at a desk's: quiet, narrow enough, drawn, sorted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, Page, find_chromium, open_browser
from page_runs import CLASSES, SUITES, file_run, file_suite

from cptlite.reporting import load_results
from cptlite.reporting.page import write_page

PROGRAM = find_chromium()
WIDTHS = (390, 1280)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium (Debian: apt-get install chromium)"),
    pytest.mark.usefixtures("one_bundle"),
]
NAMES = ("</script><img src=x onerror=window.ran=1>", '{"signal": "ran"}', "datum.x", "'+(window.ran=1)+'", "a" * 90)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with open_browser(PROGRAM) as opened:
        yield opened


@pytest.fixture(scope="module")
def suite_page(vega: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    file_suite(folder / "runs")
    return write_page(load_results([folder / "runs"]), folder / "page.html")


def drawn(page: Page) -> None:
    """Open everything, in a window as high as the page, and wait until every chart is there."""
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.resize(page.evaluate("innerWidth"), min(16000, page.evaluate("document.documentElement.scrollHeight")))
    page.wait("document.querySelectorAll('[data-chart]').length === document.querySelectorAll('.chart svg').length")


def check_quiet(page: Page, file: Path) -> None:
    assert page.complaints == []
    assert page.requests == [file.as_uri()]


def check_fits(page: Page, width: int) -> None:
    assert page.evaluate("innerWidth") == width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('body *')].filter((each) => !each.closest('.scroll, svg'))"
    assert page.evaluate(f"Math.max(...{wide}.map((each) => each.getBoundingClientRect().right))") <= width


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SUITES)
def test_each_kind_of_runs_is_drawn(name: str, width: int, browser: Browser, tmp_path: Path) -> None:
    SUITES[name](tmp_path / "runs")
    file = write_page(load_results([tmp_path / "runs"]), tmp_path / "page.html")
    page = browser.open(file, width=width)
    drawn(page)
    check_fits(page, width)
    check_quiet(page, file)
    assert page.evaluate("document.querySelectorAll('.matrix svg .mark-rect path').length") > len(CLASSES["leaf"])
    has_curves = page.evaluate("document.querySelectorAll('.curve svg .mark-symbol path').length") > 0
    assert has_curves == (name != "zero-shot alone")


@pytest.mark.parametrize("width", WIDTHS)
def test_names_run_nothing_and_fit(width: int, browser: Browser, tmp_path: Path) -> None:
    named = {NAMES[0]: NAMES, NAMES[1]: NAMES, NAMES[4]: NAMES}
    for seed in (1, 2):
        file_run(tmp_path / "runs", named=named, seed=seed, context_init="datum.x " * 20)
    names = {"suite": NAMES[0] * 4, "backbone": NAMES[3], "variant": NAMES[4]}
    results = [{**each, **names} for each in load_results([tmp_path / "runs"])]
    file = write_page(results, tmp_path / "page.html")
    page = browser.open(file, width=width)
    drawn(page)
    check_fits(page, width)
    check_quiet(page, file)
    assert page.evaluate("window.ran") is None
    labels = "[...document.querySelectorAll('.matrix svg text')].map((each) => each.textContent)"
    assert set(page.evaluate(labels)) >= set(NAMES[1:3])  # longer ones are cut


def test_what_is_foreign_is_refused_and_heard(suite_page: Path, browser: Browser) -> None:
    page = browser.open(suite_page, width=1280)
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.ran = 1' }),"
        " Object.assign(new Image(), { src: 'http://127.0.0.1:9/x.png' }))"
    )
    page.wait("new Promise((done) => setTimeout(() => done(true), 200))")
    assert page.evaluate("window.ran") is None
    assert len([each for each in page.complaints if "Content Security Policy" in each]) == 2
    page.evaluate("setTimeout(() => { throw new Error('loud'); })")
    page.wait("new Promise((done) => setTimeout(() => done(true), 50))")
    assert any("loud" in each for each in page.complaints)


def test_a_heading_sorts_by_click_and_by_key(suite_page: Path, browser: Browser) -> None:
    page = browser.open(suite_page, width=390)
    column = "[...document.querySelectorAll('table.sorts')[0].tBodies[0].rows].map((row) => row.cells[{}].textContent)"
    head = "document.querySelectorAll('table.sorts')[0].tHead.rows[0].cells[{}]"
    names = page.evaluate(
        "[...document.querySelectorAll('table.sorts')[0].tHead.rows[0].cells].map((x) => x.innerText)"
    )
    place = names.index("4 shots")
    assert page.evaluate(f"{head.format(place)}.getAttribute('aria-sort')") == "none"
    page.evaluate(f"{head.format(place)}.querySelector('button').click()")
    figures = [float(each.split()[0]) for each in page.evaluate(column.format(place)) if each]
    assert figures == sorted(figures, reverse=True) and len(figures) == 3
    assert page.evaluate(column.format(place))[-1] == ""  # zero-shot has none there
    assert page.evaluate(f"{head.format(place)}.getAttribute('aria-sort')") == "descending"
    page.evaluate(f"{head.format(place)}.querySelector('button').focus()")
    page.press("Enter")
    assert page.evaluate(f"{head.format(place)}.getAttribute('aria-sort')") == "ascending"
    assert [float(each.split()[0]) for each in page.evaluate(column.format(place)) if each] == sorted(figures)
    page.press("Tab")  # to the next heading
    page.press("Enter")
    assert page.evaluate(f"{head.format(place)}.getAttribute('aria-sort')") == "none"
    assert page.evaluate(f"{head.format(place + 1)}.getAttribute('aria-sort')") == "descending"
    page.evaluate(f"{head.format(0)}.querySelector('button').click()")
    methods = page.evaluate(column.format(0))
    assert methods == sorted(methods) and methods[-1] == "zeroshot"
    check_quiet(page, suite_page)


def test_a_figure_opens_the_runs_behind_it(suite_page: Path, browser: Browser) -> None:
    page = browser.open(suite_page, width=390)
    link = page.evaluate(
        "[...document.querySelectorAll('td a')].map((a) => a.getAttribute('href')).find((a) => /-s4/.test(a))"
    )
    assert page.evaluate(f"document.querySelector('{link}').checkVisibility()") is False
    page.evaluate(f"document.querySelector('td a[href=\"{link}\"]').click()")
    page.wait(f"document.querySelector('{link}').checkVisibility()")
    top = f"document.querySelector('{link}').getBoundingClientRect().top"
    page.wait(f"{top} > 0 && {top} < innerHeight")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_pointer_shows_a_value(width: int, suite_page: Path, browser: Browser) -> None:
    page = browser.open(suite_page, width=width)
    page.evaluate("document.querySelector('.curve').scrollIntoView({ block: 'center' })")
    page.wait("document.querySelectorAll('.curve svg .mark-symbol path').length > 0")
    marker = "[...document.querySelectorAll('.curve svg .mark-symbol path')].at(-1).getBoundingClientRect()"
    box = page.evaluate(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({marker})")
    page.point(box[0], box[1] + 8)
    page.wait("document.getElementById('told').checkVisibility()")
    told = page.evaluate("document.getElementById('told').textContent").split("\n")
    assert told[0].startswith(("coop-mt", "softcpt")) and " %" in told[1] and told[2].startswith("seed")
    check_fits(page, width)
    page.point(2, 2)
    page.wait("!document.getElementById('told').checkVisibility()")


def test_charts_follow_light_and_dark_and_the_width(suite_page: Path, browser: Browser) -> None:
    page = browser.open(suite_page, width=1280)
    drawn(page)
    label = "getComputedStyle(document.querySelector('.curve svg text')).fill"
    light, wide = page.evaluate(label), page.evaluate("document.querySelector('.curve svg').clientWidth")
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.prefer(dark=True)
    page.wait(f"document.querySelector('.curve svg text') && {label} !== {light!r}")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != paper
    page.resize(390, 900)
    page.wait(f"document.querySelector('.curve svg').clientWidth < {wide}")
    check_fits(page, 390)
    check_quiet(page, suite_page)
