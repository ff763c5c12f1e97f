"""The site as Chromium shows it: sorted and filtered by mouse and keyboard, light, dark, on a phone, on paper, to axe."""

from __future__ import annotations

import pytest

PHONE, SCREEN = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
BOARD = "tables/generalization-digits-cnn-v1-test_accuracy.html"
PAGES = ("index.html", "submissions.html", "history.html", BOARD, "submissions/hostile.html", "submissions/aleph.html")

NAMES = """table => [...table.tBodies].map(body => [...body.querySelectorAll('tr:not(.heading)')]
    .filter(row => row.checkVisibility()).map(row => row.dataset.method)).filter(names => names.length)"""
"""Rows of a table that are seen, track by track."""


@pytest.fixture
def shows(opens, planted_site):
    """Opens a page of the site."""
    return lambda name, viewport=SCREEN, scheme="light", **options: opens(planted_site.folder / name, viewport, scheme, **options)


def names(tab, table="scores"):
    return tab.eval_on_selector(f"#{table}", NAMES)


def field(tab, name):
    return tab.locator(f"form.filters [name={name}]")


def test_pages_ask_for_nothing_and_complain_of_nothing(shows, planted_site):
    for name in PAGES:
        shown = shows(name)
        shown.tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert shown.said == [], name
        asked = [url for url in shown.asked if not url.startswith("data:")]
        assert asked == [(planted_site.folder / name).as_uri()]


def test_a_heading_sorts_the_rows_of_each_track_and_says_so(shows):
    tab = shows(BOARD).tab
    assert names(tab) == [["aleph", "beth", "gimel", "hostile"], ["prober"], ["nothing"]]
    heading = tab.locator("#scores th", has=tab.get_by_role("button", name="Kendall", exact=False)).first
    assert heading.get_attribute("aria-sort") == "descending"
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert names(tab) == [["hostile", "gimel", "beth", "aleph"], ["prober"], ["nothing"]]
    heading.get_by_role("button").click()
    assert names(tab)[0] == ["aleph", "beth", "gimel", "hostile"]


def test_a_heading_sorts_numbers_as_numbers_and_words_as_words(shows):
    tab = shows(BOARD).tab
    tab.locator("#scores").get_by_role("button", name="permuted", exact=True).click()
    # gimel, which is third as trained, falls behind
    assert names(tab)[0] == ["aleph", "beth", "hostile", "gimel"]
    tab.locator("#scores").get_by_role("button", name="parameters").click()
    numbers = tab.eval_on_selector_all("#scores tbody:first-of-type td:nth-child(6)", "found => found.map(e => +e.dataset.value)")
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 4
    tab.locator("#scores").get_by_role("button", name="method").click()
    # a name in angle brackets comes before letters
    assert names(tab)[0] == ["hostile", "aleph", "beth", "gimel"]
    assert tab.locator("#scores th[aria-sort]").count() == 1


def test_headings_are_reached_and_pressed_with_the_keyboard(shows):
    tab = shows(BOARD).tab
    tab.locator("#scores").get_by_role("button", name="parameters").focus()
    assert tab.evaluate("document.activeElement.matches(':focus')")
    tab.keyboard.press("Enter")
    assert tab.locator("#scores th[aria-sort]").inner_text().startswith("parameters")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    assert tab.locator("#scores th[aria-sort]").inner_text().startswith("training")
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_rows_are_filtered_by_track_method_and_text_and_counted(shows):
    from playwright.sync_api import expect

    tab = shows(BOARD).tab
    status = tab.locator("form.filters output")
    assert status.inner_text() == "All 6 shown"
    field(tab, "track").select_option("probes-8")
    assert names(tab) == [["prober"]]
    assert status.inner_text() == "1 of 6 shown"
    field(tab, "track").select_option("")
    field(tab, "method").select_option("gimel")
    assert names(tab) == [["gimel"]]
    tab.get_by_role("button", name="Show all").click()
    # a form is reset after the click's own handlers have run
    expect(status).to_have_text("All 6 shown")
    field(tab, "text").fill("zoë SECOND")
    assert names(tab) == [["hostile"]]
    field(tab, "text").fill("nobody at all")
    assert names(tab) == []
    assert status.inner_text() == "0 of 6 shown"


def test_a_filtered_view_has_an_address(shows, planted_site):
    tab = shows(BOARD).tab
    field(tab, "track").select_option("weights")
    field(tab, "text").fill("aleph")
    address = tab.evaluate("location.href")
    assert address.endswith("#track=weights&text=aleph")
    tab.goto("about:blank")
    tab.goto(address)
    assert names(tab) == [["aleph"]]
    assert field(tab, "track").input_value() == "weights"
    # what is no choice is left alone
    tab.goto("about:blank")
    tab.goto((planted_site.folder / BOARD).as_uri() + "#track=%3Cb%3E&method=none")
    assert tab.locator("form.filters output").inner_text() == "All 6 shown"


def test_sorted_rows_stay_filtered(shows):
    tab = shows(BOARD).tab
    field(tab, "text").fill("author of")
    tab.locator("#scores").get_by_role("button", name="Kendall").click()
    assert names(tab) == [["gimel", "beth", "aleph"], ["prober"], ["nothing"]]


def test_links_lead_from_the_overview_to_a_table_to_a_submission_and_back(shows):
    shown = shows("index.html")
    tab = shown.tab
    tab.get_by_role("link", name="Predicting generalization on digits-cnn", exact=True).click()
    assert tab.locator("h1").inner_text() == "Predicting generalization on digits-cnn"
    tab.locator("#scores").get_by_role("link", name="ALEPH").click()
    assert tab.locator("h1").inner_text() == "ALEPH"
    tab.get_by_role("link", name="ngbench leaderboard").click()
    assert tab.locator("h1").inner_text() == "Methods that read neural networks"
    tab.get_by_role("navigation").get_by_role("link", name="History").click()
    assert tab.locator("[aria-current=page]").inner_text() == "History"
    assert shown.said == []


def test_data_is_downloaded(shows):
    tab = shows(BOARD).tab
    with tab.expect_download() as download:
        tab.get_by_role("link", name="This table as CSV").click()
    assert download.value.path().read_text(encoding="utf-8").startswith("task,zoo,target,track,rank,submission,")


def test_without_script_all_is_there_and_no_control_that_does_nothing(shows):
    tab = shows(BOARD, java_script_enabled=False).tab
    assert tab.locator("#scores tbody tr").count() == 9
    assert tab.locator("#scores").get_by_role("link", name="ALEPH").is_visible()
    assert not tab.locator("form.filters").is_visible()
    assert tab.locator("button:visible").count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_never_wider_than_a_phone(shows, name):
    tab = shows(name, PHONE).tab
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def colour(tab, selector, name):
    return tab.eval_on_selector(selector, f"e => getComputedStyle(e)['{name}']")


def test_dark_mode_changes_paper_ink_and_marks(shows):
    light, dark = shows(BOARD).tab, shows(BOARD, scheme="dark").tab
    for selector, name in (("body", "backgroundColor"), ("h1", "color"), (".where .mean", "fill"), (".filters input", "color")):
        assert colour(light, selector, name) != colour(dark, selector, name), (selector, name)


def test_on_paper_it_is_black_on_white_without_controls(shows):
    tab = shows(BOARD, scheme="dark").tab
    tab.emulate_media(media="print")
    assert colour(tab, "body", "backgroundColor") == "rgb(255, 255, 255)"
    assert colour(tab, "body", "color") == "rgb(0, 0, 0)"
    assert not tab.locator("form.filters").is_visible()
    assert not tab.locator(".top nav").is_visible()
    assert tab.locator("#scores").is_visible()
    assert tab.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(shows, name, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab = shows(name, scheme=scheme).tab
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = Axe().run(tab)
    assert found.violations_count == 0, found.generate_report()


def test_axe_finds_what_is_wrong(shows):
    from axe_playwright_python.sync_playwright import Axe

    tab = shows(BOARD).tab
    tab.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<input><button></button>')")
    assert {violation["id"] for violation in Axe().run(tab).response["violations"]} >= {"label", "button-name"}
