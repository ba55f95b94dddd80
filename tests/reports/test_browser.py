"""The page in a real browser: it stands alone, fits narrow and wide screens, and its tables sort."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.render import ReportResult
from tests.reports.browser import Page, chromium

OVERFLOWING = """
[...document.querySelectorAll('main *')]
  .filter(e => !e.closest('.scroll, .plot, pre, .sr') && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + '.' + e.className)
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as tab:
        yield tab


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_fits_the_screen_and_asks_nobody_for_anything(page: Page, built: ReportResult, width: int) -> None:
    page.open(built.html, width)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(OVERFLOWING) == []
    assert page.console == []
    assert page.network == [built.html.resolve().as_uri()]


def test_a_table_sorts_by_number_both_ways_and_says_so(page: Page, built: ReportResult) -> None:
    page.open(built.html, 1600)
    table = "document.querySelector('#latency-secondary table.sort')"
    heading = f"[...{table}.tHead.rows[0].cells].find(h => h.textContent.includes('Change'))"
    values = f"[...{table}.tBodies[0].rows].map(r => r.cells[4].dataset.v).filter(v => v)"
    page.run(f"{heading}.querySelector('button').click()")
    up = [float(value) for value in page.run(values)]
    assert up == sorted(up)
    assert page.run(f"{heading}.getAttribute('aria-sort')") == "ascending"
    page.run(f"{heading}.querySelector('button').click()")
    assert [float(value) for value in page.run(values)] == sorted(up, reverse=True)
    assert page.run(f"{heading}.getAttribute('aria-sort')") == "descending"
    assert len(up) > 8


def test_a_table_sorts_by_text_and_from_the_keyboard(page: Page, built: ReportResult) -> None:
    page.open(built.html, 1600)
    page.run("document.querySelectorAll('table#ledger th button')[2].focus()")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)
    words = page.run("[...document.querySelectorAll('table#ledger tbody tr')].map(r => r.cells[2].textContent.trim())")
    assert words == sorted(words)
    assert len(set(words)) > 1


def test_rows_filter_copy_and_can_be_linked_to(page: Page, built: ReportResult) -> None:
    page.open(built.html, 1600)
    shown = "[...document.querySelectorAll('#ledger tbody tr')].filter(r => !r.hidden).length"
    every = page.run(shown)
    page.run(
        "(() => { const i = document.querySelector('#ledger').closest('.scroll').previousElementSibling"
        ".querySelector('input'); i.value = 'memory'; i.dispatchEvent(new Event('input')) })()"
    )
    assert 0 < page.run(shown) < every
    assert page.run("document.querySelectorAll('.tools button').length") == page.run(
        "document.querySelectorAll('table.sort').length"
    )
    links = "[...document.querySelectorAll('a.row')].every(a => document.getElementById(a.hash.slice(1)))"
    assert page.run(links)
    page.run("location.hash = '#runs-2'")
    page.run("new Promise(done => setTimeout(done, 50))")
    assert page.run("document.querySelector('#runs').open")


def test_the_first_screen_holds_the_answer(page: Page, built: ReportResult) -> None:
    page.open(built.html, 1600, 1000)
    visible = "[...document.querySelectorAll('h1, #first, #answer .lead')].map(e => e.getBoundingClientRect().bottom)"
    assert max(page.run(visible)) < 1000
    assert "Olla wins" in page.run("document.querySelector('h1').textContent")
    page.open(built.html, 400, 900)
    assert max(page.run(visible)) < 1800  # one scroll


def test_every_control_has_a_name_and_every_scrolling_region_can_be_reached(page: Page, built: ReportResult) -> None:
    page.open(built.html, 400)
    unnamed = (
        "[...document.querySelectorAll('a, button, [role]')].filter(e => !(e.textContent.trim() || e.ariaLabel)).length"
    )
    assert page.run(unnamed) == 0
    unreachable = (
        "[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 "
        "&& ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length"
    )
    assert page.run(unreachable) == 0
    levels = page.run("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_text_can_be_read_in_light_and_dark(page: Page, built: ReportResult) -> None:
    contrast = """
    (() => {
      const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
        .map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
        return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] };
      const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!c.startsWith('rgba(0, 0, 0, 0')) return c } return 'rgb(255, 255, 255)' };
      return [...document.querySelectorAll('main *, nav *')].filter(e => e.checkVisibility()
          && !e.closest('svg, .sr') && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
        .map(e => { const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
          return [(a + .05) / (b + .05), e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 20)] })
        .filter(([ratio]) => ratio < 4.5).slice(0, 5)
    })()
    """
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.open(built.html, 1600)
        assert page.run(contrast) == [], scheme


def test_axe_finds_nothing_serious(page: Page, built: ReportResult) -> None:
    found = [Path(os.environ["PROXY_ENGINES_AXE"])] if "PROXY_ENGINES_AXE" in os.environ else []
    script = next((path for path in (*found, Path("node_modules/axe-core/axe.min.js")) if path.exists()), None)
    if script is None:
        pytest.skip("axe-core is not here: npm install axe-core, or name its axe.min.js in PROXY_ENGINES_AXE")
    for width, scheme in ((400, "light"), (1600, "light"), (1600, "dark")):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.open(built.html, width)
        page.run(f"{script.read_text()};0")
        page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
        violations = page.run("axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes[0].html]))")
        assert violations == [], (width, scheme)
