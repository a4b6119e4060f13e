"""The report as a person sees it, in a real browser: at a desk and on a telephone, light and dark."""

import shutil

import pytest

from flows.pages import page
from tests.flows.test_report import SECTIONS, hostile
from tests.pages import facts

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.long, pytest.mark.skipif(BROWSER is None, reason="no browser is here: 'apt install chromium' brings one")]
CONTRAST = """() => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = color => { const [r, g, b] = numbers(color).map(v => linear(v / 255)); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = one => { for (; one; one = one.parentElement) { const found = getComputedStyle(one).backgroundColor;
    if (numbers(found)[3] !== 0) return found; } return getComputedStyle(document.documentElement).backgroundColor; };
  const worst = [];
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || one.closest('svg') || !one.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) worst.push(one.className + ' ' + ratio.toFixed(2) + ' ' + one.textContent.slice(0, 30));
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: 'make setup' brings it")
    with playwright.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"the browser cannot be started here: {str(error).splitlines()[0][:200]}")
        yield opened
        opened.close()


@pytest.fixture
def shown(browser, tmp_path):
    """Opens a page; after the test nothing was said on the console, and nothing asked for but the file."""
    pages, heard, asked = [], [], []

    def show(found, width=1100, scheme="light", **more):
        path = tmp_path / "report.html"
        path.write_text(page.render(found), encoding="utf-8")
        opened = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more).new_page()
        opened.on("console", lambda message: heard.append(message.text))
        opened.on("pageerror", lambda error: heard.append(str(error)))
        opened.on("dialog", lambda dialog: heard.append(dialog.message))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(path.as_uri())
        pages.append(opened)
        return opened

    yield show
    for opened in pages:
        opened.context.close()
    assert heard == []
    assert all(url.endswith("report.html") for url in asked), asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 390])
def test_the_page_fits_and_can_be_read_whatever_stands_in_it(shown, width, scheme):
    opened = shown(hostile(), width, scheme)
    assert opened.evaluate("document.scrollingElement.scrollWidth") <= width, "nothing is to be scrolled sideways"
    assert [opened.locator(f"#{name}").is_visible() for name in SECTIONS] == [True] * len(SECTIONS)
    charts = opened.locator(".chart")
    kinds = [charts.first.locator(f".{kind}").is_visible() for kind in ("wide", "narrow")]
    assert kinds == ([True, False] if width > 736 else [False, True])
    assert opened.evaluate(CONTRAST) == [], "text stands out from what is behind it by 4.5 to 1 (WCAG 2.1, 1.4.3)"


def test_the_keyboard_reaches_the_verdict_first_and_opens_what_is_folded(shown):
    opened = shown(facts())
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    folded = opened.locator("#scores details").first
    folded.locator("summary").focus()
    opened.keyboard.press("Enter")
    assert folded.evaluate("one => one.open")


def test_the_numbers_that_are_seen_are_those_of_the_facts(shown):
    found = facts()
    opened = shown(found)
    opened.locator("#scores details summary").first.click()
    rows = opened.locator("#scores details").first.locator("tbody tr").all_inner_texts()
    assert [row.split("\t")[:3] for row in rows] == [["quiz", model, "0.700 ± 0.030"] for model in found["scores"]["quiz"]]


def test_on_paper_what_is_folded_is_shown_and_the_way_around_is_not(shown):
    opened = shown(facts())
    opened.emulate_media(media="print")
    assert not opened.locator("nav").is_visible()
    assert opened.locator("#verdict").is_visible()
