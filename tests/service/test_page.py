"""The page in a real browser without a screen: what one sees, types, hears and loads."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.processes import Service, running
from tests.service.standin import SPECIAL, write_export

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(write_export(tmp_path_factory.mktemp("page") / "films")) as service:
        yield service


@pytest.fixture
def page(browser, service: Service) -> Iterator:
    """A page that fails the test where its console shows an error, or it asks another host."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith(service.url) else faults.append(sent.url))
    page.set_default_timeout(10_000)
    yield page
    page.close()
    assert faults == []


def ranked(page) -> list[str]:
    return page.locator("#ranked .title").all_inner_texts()


def wait_for_first(page, title: str) -> None:
    playwright.expect(page.locator("#ranked .title").first).to_have_text(title)


def test_a_user_is_picked_and_their_list_is_shown_with_reasons_and_past(page, service: Service) -> None:
    page.goto(service.url)
    playwright.expect(page.locator("#ranked > li")).to_have_count(10)  # somebody, at random
    page.get_by_label("User id").fill("1")
    playwright.expect(page.locator("#user-options [role=option]")).to_have_count(8)
    page.keyboard.press("Enter")
    playwright.expect(page.locator("h1")).to_have_text("For user 1")
    wait_for_first(page, "Film 0 (1960)")
    first = page.locator("#ranked > li").first
    playwright.expect(first.locator(".why")).to_have_text(
        "Because of Film 3 (1963), Film 2 (1962) and Film 1 (1961)"
    )
    playwright.expect(first.locator(".facts")).to_have_text("Comedy")  # the year stands in the title
    assert page.locator("#past-items li").all_inner_texts() == [
        "Film 3 (1963)",
        "Film 2 (1962)",
        "Film 1 (1961)",
    ]
    assert page.url.endswith("#user=1")
    first.get_by_role("button", name="More like Film 0").click()
    assert first.locator(".similar li").first.inner_text().startswith("Film 1 (1961)")


def test_filters_narrow_the_list_and_are_cleared(page, service: Service) -> None:
    page.goto(f"{service.url}#user=1")
    wait_for_first(page, "Film 0 (1960)")
    page.get_by_label("Genres").select_option("Drama")
    wait_for_first(page, "Film 4 (1964)")
    page.get_by_label("Release year from").fill("1990")
    page.keyboard.press("Tab")
    wait_for_first(page, "Film 31 (1991)")
    assert set(page.locator("#ranked .facts").all_inner_texts()) == {"Drama"}
    page.get_by_label("Include what they have").check()
    page.get_by_role("button", name="Clear filters").click()
    wait_for_first(page, "Film 0 (1960)")
    assert ranked(page)[1] == "Film 1 (1961)"


def test_titles_are_typed_for_someone_new_by_keyboard_alone(page, service: Service) -> None:
    page.goto(f"{service.url}#user=1")
    wait_for_first(page, "Film 0 (1960)")
    page.get_by_label("A user").focus()
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator("#message")).to_have_text("Type a few titles that they like.")
    page.keyboard.press("Tab")
    page.keyboard.type("film 1")
    playwright.expect(page.locator("#title-options [role=option]")).to_have_count(8)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("h1")).to_have_text("For someone who likes Film 10 (1970)")
    playwright.expect(page.locator("#ranked .why").first).to_have_text("Because of Film 10 (1970)")
    page.keyboard.type("amé")
    # A title is text, whatever stands in it.
    playwright.expect(page.locator("#title-options [role=option]")).to_have_text(SPECIAL[7])
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#chosen li")).to_have_count(2)
    assert page.locator("script").count() == 1
    page.get_by_role("button", name="Remove Film 10").press("Enter")
    playwright.expect(page.locator("h1")).to_have_text(f"For someone who likes {SPECIAL[7]}")


def test_the_page_fits_a_telephone(page, service: Service) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    for address in ("#user=7", "docs"):
        page.goto(service.url + address)
        page.wait_for_selector("#ranked > li, article")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_every_field_has_a_name_for_readers_of_the_screen(page, service: Service) -> None:
    page.goto(f"{service.url}#user=1")
    wait_for_first(page, "Film 0 (1960)")
    fields = """[...document.querySelectorAll("input, select, button")].filter((each) => !each.hidden && !(
        each.labels?.length || each.getAttribute("aria-label") || each.textContent.trim()))"""
    assert page.evaluate(f"{fields}.map((each) => each.outerHTML)") == []


def test_the_page_of_addresses_lists_them_all(page, service: Service) -> None:
    page.goto(f"{service.url}docs")
    playwright.expect(page.locator("article")).to_have_count(10)
    assert "POST/recommend" in page.locator("article h3").all_inner_texts()


def test_an_unknown_user_is_a_sentence(browser, service: Service) -> None:
    page = browser.new_page()
    page.goto(f"{service.url}#user=nobody")
    playwright.expect(page.get_by_role("alert")).to_contain_text("user nobody: no such user")
    page.close()


def test_a_key_is_asked_for_and_kept_for_the_tab(browser, tmp_path: Path) -> None:
    with running(write_export(tmp_path / "films"), SHARDTOWER_API_KEY="right") as service:
        page = browser.new_page()
        page.goto(f"{service.url}#user=1")
        page.locator("#key").fill("wrong")
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#key-about")).to_have_text("This key is not one of the service's.")
        page.locator("#key").fill("right")
        page.get_by_role("button", name="Continue").click()
        wait_for_first(page, "Film 0 (1960)")
        page.reload()
        wait_for_first(page, "Film 0 (1960)")
        page.close()


def test_a_policy_keeps_the_page_from_loading_anything_else(page, service: Service) -> None:
    answer = page.goto(service.url)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert page.request.get(f"{service.url}page/app.js").headers["content-type"].startswith("text/javascript")
