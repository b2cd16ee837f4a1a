"""The annotated source in a real browser: no errors, nothing wider than the screen, light and dark, phone and paper."""

import os
from pathlib import Path

import pytest

from data_scripts.make_book import make_book

PAGES = ("index.html", "nn.html#layers.attention", "distillation.html", "tests-nn.html", "example.html")


@pytest.mark.parametrize("width", [1400, 390], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_book_is_readable(browser, book, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for name in PAGES:
        page.goto(f"{book.as_uri()}/{name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 23, 26)")
        if os.environ.get("KD_SCREENSHOTS"):
            picture = f"book-{name.split('.')[0]}-{scheme}-{width}.png"
            page.screenshot(path=Path(os.environ["KD_SCREENSHOTS"]) / picture)
    code, number = (
        page.goto(f"{book.as_uri()}/nn.html") and page.locator(kind).first.bounding_box()
        for kind in (".row:has(.number) > pre", ".row > .number")
    )
    beside = number["x"] >= code["x"] + code["width"]
    assert beside == (width > 1000) and abs(number["y"] - code["y"]) < (5 if beside else 200)
    assert not complaints
    page.close()


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The whole book."""
    folder = tmp_path_factory.mktemp("book")
    make_book(folder)
    return folder
