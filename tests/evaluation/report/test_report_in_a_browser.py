"""The page as Chromium shows it: on a phone and a screen, light, dark and printed."""

from __future__ import annotations

import pytest

PHONE, SCREEN = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture
def opened(opens, page_path):
    """Opens the page in a window; the tab and what it said and asked for."""

    def opened(viewport, scheme="light"):
        shown = opens(page_path, viewport, scheme)
        shown.tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        return shown

    return opened


BEYOND = """found => found.filter(e => !e.closest('.scroll, .skip') && e.getBoundingClientRect().right > innerWidth + 1)
                          .map(e => e.className)"""
"""Elements that stick out of the window, but for those in a box that scrolls."""

OUTSIDE = """found => found.filter(e => {
    const own = e.getBoundingClientRect(), box = e.ownerSVGElement.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1;
}).map(e => e.textContent)"""
"""Texts that stick out of their picture."""


def colours(tab, selector, name):
    """The computed values of a property of the elements that a selector finds."""
    return set(tab.eval_on_selector_all(selector, f"found => found.map(e => getComputedStyle(e)['{name}'])"))


def test_it_asks_for_nothing_and_complains_of_nothing(opened, page_path):
    shown = opened(SCREEN)
    assert shown.said == []
    assert [url for url in shown.asked if not url.startswith("data:")] == [page_path.as_uri()]


@pytest.mark.parametrize("viewport", [PHONE, SCREEN], ids=["phone", "screen"])
def test_it_is_never_wider_than_the_window_and_tables_scroll_inside(opened, viewport):
    tab = opened(viewport).tab
    assert tab.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    assert tab.eval_on_selector_all("body *", BEYOND) == []
    if viewport is PHONE:
        assert tab.eval_on_selector_all(".scroll", "found => found.some(e => e.scrollWidth > e.clientWidth)")


def test_names_of_methods_stay_in_sight_while_a_table_scrolls(opened):
    tab = opened(PHONE).tab
    places = """found => found.filter(e => e.scrollWidth > e.clientWidth + 100).map(e => {
        e.scrollLeft = 100;
        const box = selector => e.querySelector(selector).getBoundingClientRect();
        const cell = box('tbody th[scope=row]'), name = box('.name');
        return [cell.left - e.getBoundingClientRect().left, box('td').left < cell.right, name.width / name.height];
    })"""
    found = tab.eval_on_selector_all(".scroll", places)
    assert len(found) >= 3
    for left, is_covered, shape in found:
        assert 0 <= left <= 1.5
        assert is_covered
        assert shape > 1


def test_a_table_has_a_shade_at_its_edges_but_for_paper(opened):
    tab = opened(PHONE).tab
    assert all("radial-gradient" in image for image in colours(tab, ".scroll", "backgroundImage"))
    tab.emulate_media(media="print")
    assert colours(tab, ".scroll", "backgroundImage") == {"none"}


def test_every_picture_has_a_title_and_is_drawn(opened):
    tab = opened(SCREEN).tab
    found = tab.eval_on_selector_all(
        "svg:not([aria-hidden])", "found => found.map(e => [e.querySelector(':scope > title')?.textContent, e.clientHeight])"
    )
    # three of each question at least
    assert len(found) > 12
    assert all(title and height > 30 for title, height in found)
    images = tab.eval_on_selector_all("img", "found => found.map(e => [e.alt, e.naturalWidth])")
    assert len(images) > 50
    assert all(text and width == 8 for text, width in images)


def test_texts_of_pictures_stay_within_them(opened):
    tab = opened(PHONE).tab
    assert tab.eval_on_selector_all("svg text", OUTSIDE) == []


def test_what_sticks_out_is_seen(opened):
    tab = opened(PHONE).tab
    tab.evaluate("""() => {
        document.querySelector('main').insertAdjacentHTML('beforeend', '<div class="wide" style="width: 500px">x</div>');
        document.querySelector('svg.picture text').setAttribute('x', -40);
    }""")
    assert tab.eval_on_selector_all("body *", BEYOND) == ["wide"]
    assert tab.evaluate("document.documentElement.scrollWidth") > PHONE["width"]
    assert len(tab.eval_on_selector_all("svg text", OUTSIDE)) == 1


def test_dark_mode_changes_paper_ink_and_pictures(opened):
    light, dark = opened(SCREEN).tab, opened(SCREEN, "dark").tab
    for selector, name in (("body", "backgroundColor"), ("body", "color"), ("svg text.axis", "fill"), ("svg .grid", "stroke")):
        assert colours(light, selector, name).isdisjoint(colours(dark, selector, name)), (selector, name)
    assert light.screenshot() != dark.screenshot()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_the_paper(opened, scheme):
    tab = opened(SCREEN, scheme).tab
    (paper,) = colours(tab, "body", "backgroundColor")
    for selector, name in (("p", "color"), ("svg text:not(.full)", "fill"), ("a", "color"), ("summary", "color")):
        for colour in colours(tab, selector, name):
            assert contrast(colour, paper) >= 4.5, (selector, colour, paper)
    for colour in colours(tab, "svg.picture .dots, svg.picture .line", "color"):
        assert contrast(colour, paper) >= 2, colour


def contrast(first, second):
    """Of two colours as ``rgb(1, 2, 3)`` (WCAG 2.2, "contrast ratio")."""

    def luminance(colour):
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_the_first_key_skips_to_the_results_and_tables_take_the_focus(opened):
    tab = opened(SCREEN).tab
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    focused = []
    for _ in range(12):
        tab.keyboard.press("Tab")
        focused.append(tab.evaluate("document.activeElement.className"))
    assert "scroll" in focused


def test_on_paper_it_is_black_on_white_and_all_of_it_is_there(opened):
    shown = opened(SCREEN, "dark").tab
    shown.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")
    shown.emulate_media(media="print")
    assert colours(shown, "body", "backgroundColor") == {"rgb(255, 255, 255)"}
    assert colours(shown, "body", "color") == {"rgb(0, 0, 0)"}
    assert "rgb(232, 234, 237)" not in colours(shown, "svg.picture .dots", "color")
    assert not shown.is_visible("nav")
    assert shown.locator("details figure").count() == 5
    assert all(figure.bounding_box()["height"] > 100 for figure in shown.locator("details figure").all())
    assert shown.pdf().startswith(b"%PDF")
