"""The page in a real browser without network: charts are drawn, nothing is fetched, the theme is followed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.report.report import write_report

CHROMIUM = Path("/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield opened
        opened.close()


@pytest.mark.parametrize("several", [False, True], ids=["one run", "two runs"])
def test_charts_are_drawn_and_nothing_is_fetched(
    browser, several, run: Path, narrow: Path, tmp_path: Path
) -> None:
    file = write_report([run, narrow] if several else [run], tmp_path / "page.html")
    complaints, requests = [], []
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    charts = page.locator(".chart").count()
    page.wait_for_function(f"document.querySelectorAll('.chart svg').length == {charts}")
    assert charts >= 5
    assert (complaints, requests) == ([], [file.as_uri()])
    assert page.locator("script").count() == page.evaluate("document.querySelectorAll('script').length")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(20, 23, 26)"
    page.click("#theme")  # from the system's to light
    assert page.evaluate(paper) == "rgb(251, 251, 250)"
    page.close()


def test_a_title_is_shown_on_the_map_and_is_no_script(browser, run: Path, tmp_path: Path) -> None:
    file = write_report([run], tmp_path / "page.html")
    page = browser.new_page()
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.goto(file.as_uri())
    page.wait_for_selector("#map .mark-symbol.role-mark path")
    shown = page.locator("#users li", has_text="alert('title')").first.text_content()
    assert "<script>alert('title')</script> & more" in shown
    for point in page.locator("#map .mark-symbol.role-mark path").all():
        point.hover(force=True)
    assert asked == []
    page.close()
