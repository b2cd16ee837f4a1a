"""The demo's page in a real browser: each task, errors, dark and narrow screens, the keyboard alone, hostile texts.

Needs playwright and Chromium; skipped without them, but failed if KD_REQUIRE_BROWSER is set. KD_SCREENSHOTS names a
folder for pictures.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.nn.int8 import quantize
from tests.conftest import ROOT, TEXTS, tiny_model

NAME = "<i>int8</i>"  # a model's name is a text like any other
HOSTILE = "<img src=x onerror=window.hit=1> <script>window.hit=1</script> & \"quoted\" 'text' 😀 the fox"
LOOKS = re.compile("” looks (most )?at “")


@pytest.fixture(scope="session")
def url(browser, tmp_path_factory, tokenizer):
    """A demo of tiny models in a process of its own; it must end with status 0 and without a word of errors."""
    folder, named = tmp_path_factory.mktemp("models"), []
    labels = {"span": (), "token": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), "sequence": ("no", "yes", "maybe")}

    def save(name: str, head: str, int8: bool = False, **shape) -> None:
        model = tiny_model(head, vocab_size=tokenizer.vocab_size, max_positions=300, **shape)
        place = folder / str(len(named))
        save_model(quantize(model) if int8 else model, place)
        tokenizer.save(place, max_length=300)
        named.append(f"{name}={place}")

    for head in labels:
        for seed, name in enumerate(("teacher", "distilled", NAME)):
            save(name, head, labels=labels[head], seed=seed, int8=name == NAME)
    save("news", "sequence", labels=("trade", "sport"))
    save("several", "sequence", labels=("toxic", "threat", "insult", "spam"), multi_label=True, threshold=0.01)
    command = [sys.executable, "-m", "kd_scratch", "demo", "--device", "cpu", "--threads", "1", "--port", "0"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen([*command, "--models", *named], cwd=ROOT, **pipes) as process:
        try:
            yield re.match(r"open (http://127\.0\.0\.1:\d+/) ", process.stdout.readline())[1]
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0 and out.endswith("stopped\n") and err == ""
        finally:
            process.kill()


@contextmanager
def visit(browser, url: str, expected: str = "$^", **context):
    """The page, open in a window of its own. Errors in the console that do not match `expected` fail."""
    window = browser.new_context(**context)
    page, errors = window.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: request.url.startswith((url, "data:,")) or errors.append(request.url))
    page.goto(url)
    page.wait_for_selector("[role=tab]")
    page.set_default_timeout(20_000)
    yield page
    window.close()
    assert not [error for error in errors if not re.search(expected, error)]


def open_tab(page, i: int):
    """The panel of a tab."""
    page.get_by_role("tab").nth(i).click()
    return page.locator("[role=tabpanel]").nth(i)


def try_example(panel, i: int = 0):
    """Choose an example, wait for its answer."""
    panel.locator(".example").nth(i).click()
    panel.get_by_text(re.compile("answered\\.$")).wait_for()


def picture(page, name: str) -> None:
    """A screenshot, where those are wanted."""
    if os.environ.get("KD_SCREENSHOTS"):
        page.screenshot(path=Path(os.environ["KD_SCREENSHOTS"]) / f"{name}.png", full_page=True)


def overflow(page) -> int:
    """How many pixels of the page lie beyond its right edge."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


TASKS = ("Ask a question", "Mark entities", "Classify a text: 3 labels", "Classify a text: 2 labels")
TASKS += ("Classify a text: 4 labels",)


def test_there_is_a_tab_for_each_task(browser, url):
    with visit(browser, url) as page:
        assert page.get_by_role("tab").all_inner_texts() == list(TASKS)
        for i, name in enumerate(TASKS):
            panel = open_tab(page, i)
            assert page.get_by_role("tab", selected=True).inner_text() == name
            assert [panel.is_visible() for panel in page.locator("[role=tabpanel]").all()].count(True) == 1
            assert panel.locator(".example").count() == 3


@pytest.mark.parametrize("task", range(3))
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_example_is_answered_by_all_models_side_by_side(browser, url, task, scheme):
    with visit(browser, url, color_scheme=scheme, viewport={"width": 1100, "height": 800}) as page:
        panel = open_tab(page, task)
        try_example(panel, 1)
        assert all(field.input_value() for field in panel.locator("form input, textarea").all())
        cards = panel.locator(".card")
        assert cards.locator("h2").all_inner_texts() == ["teacher", "distilled", NAME]
        assert len({card.bounding_box()["y"] for card in cards.all()}) == 1
        for card in cards.all():
            assert re.search(r"\d\.\d MB · 3 layers · [\d.]+ ms", card.inner_text())
            assert card.locator(".bars li").count() == {0: 6, 2: 3}.get(task, card.locator("mark").count())
        assert re.fullmatch("(✓ agrees with|≠ differs from) teacher", cards.nth(1).locator(".good, .bad").inner_text())
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 23, 26)"}[scheme]
        picture(page, f"{scheme}-{task}")


@pytest.mark.parametrize("task", range(3))
def test_a_narrow_screen_shows_everything_without_scrolling_sideways(browser, url, task):
    with visit(browser, url, viewport={"width": 360, "height": 740}) as page:
        panel = open_tab(page, task)
        try_example(panel)
        panel.locator("summary").click()
        panel.locator(".pieces button").nth(1).click()
        page.locator("#programs summary").click()
        panel.get_by_text(LOOKS).wait_for()
        assert overflow(page) == 0
        boxes = [card.bounding_box() for card in panel.locator(".card").all()]
        assert len({box["x"] for box in boxes}) == 1 and all(box["width"] <= 360 for box in boxes)
        panel.locator("textarea").fill("a" * 3000 + " " + "W" * 300)
        panel.get_by_role("button", name="Run").click()
        panel.get_by_text("Computing").wait_for(state="detached")
        assert overflow(page) == 0
        picture(page, f"narrow-{task}")


def test_each_of_several_labels_has_a_bar_of_its_own_and_a_tick_where_it_is_given(browser, url):
    with visit(browser, url) as page:
        panel = open_tab(page, 4)
        try_example(panel)
        rows = panel.locator(".card .bars li")
        ticked = [text for text in rows.all_inner_texts() if text.startswith("✓ ")]
        assert rows.count() == 4 and ticked and f"✓ {len(ticked)} label" in panel.locator(".card").inner_text()
        assert "all of 1.0% or more, each by itself" in panel.locator(".card").inner_text()


def test_a_chosen_answer_is_marked_in_the_passage(browser, url):
    with visit(browser, url) as page:
        panel = open_tab(page, 0)
        panel.get_by_label("Question").fill("who jumps?")
        panel.get_by_label("Passage").fill("😀 " + TEXTS[0])
        panel.get_by_label("Passage").press("Control+Enter")
        panel.get_by_text("3 models have answered.").wait_for()
        mark, choices = panel.locator(".passage mark"), panel.locator(".choices button")
        assert panel.locator(".choices [aria-pressed=true]").count() == 1
        for i in (0, 3, choices.count() - 1):
            choices.nth(i).click()
            chosen = panel.locator(".choices [aria-pressed=true]")
            assert chosen.count() == 1 and chosen.locator(".what").inner_text() == mark.inner_text()
            assert panel.locator(".passage .text").inner_text() == "😀 " + TEXTS[0]


def test_entities_are_marked_with_their_types_in_words(browser, url):
    with visit(browser, url) as page:
        panel = open_tab(page, 1)
        panel.get_by_label("Text").fill(TEXTS[0])
        panel.get_by_role("button", name="Run").click()
        panel.locator("mark").first.wait_for()
        card = panel.locator(".card", has=page.locator("mark")).first
        marks = [mark.inner_text() for mark in card.locator("mark").all()]
        assert marks and all(re.search("(PER|LOC)$", mark) for mark in marks)
        rows = [row.inner_text().replace(" ", "") for row in card.locator(".bars .what").all()]
        assert rows == [mark.replace(" ", "") for mark in marks]


def test_errors_are_told_and_cleared(browser, url):
    with visit(browser, url, expected="status of 400") as page:
        panel = open_tab(page, 2)
        alert = panel.get_by_role("alert").first
        panel.get_by_role("button", name="Run").click()
        panel.get_by_text("Text: is empty").wait_for()
        assert alert.inner_text() == "Text: is empty" and panel.locator(".card").count() == 0
        try_example(panel)
        assert alert.inner_text() == "" and panel.locator(".card").count() == 3
        panel.locator("textarea").evaluate("field => { field.value = 'half \\ud800' }")
        panel.get_by_role("button", name="Run").click()
        panel.get_by_text("Text: holds half a character").wait_for()


def test_where_the_server_is_busy_the_page_tries_again(browser, url):
    with visit(browser, url, expected="status of 503") as page:
        panel, calls = open_tab(page, 3), []

        def busy(route):
            calls.append(route.request.post_data)
            if len(calls) < 3:
                route.fulfill(status=503, headers={"Retry-After": "1"}, body=json.dumps({"error": "too much"}))
            else:
                route.continue_()

        page.route("**/api/classify", busy)
        panel.locator(".example").first.click()
        panel.get_by_text("The server is busy; trying again (2 of 5)").wait_for()
        panel.get_by_text("One model has answered.").wait_for()
        assert len(calls) == 3 and len(set(calls)) == 1


def test_where_the_server_is_gone_the_page_says_so(browser, url):
    with visit(browser, url, expected="ERR_FAILED") as page:
        panel = open_tab(page, 3)
        page.route("**/api/classify", lambda route: route.abort())
        panel.locator(".example").first.click()
        panel.get_by_text("The server does not answer. Has it been stopped?").wait_for()
        page.unroute("**/api/classify")
        try_example(panel, 1)
        assert panel.get_by_role("alert").first.inner_text() == ""


def test_a_newer_question_takes_the_place_of_an_older_one(browser, url):
    with visit(browser, url) as page:
        panel, held = open_tab(page, 3), []
        page.route("**/api/classify", lambda route: held.append(route) if not held else route.continue_())
        panel.locator(".example").nth(0).click()
        try_example(panel, 1)
        assert panel.get_by_role("alert").first.inner_text() == "" and len(held) == 1
        assert panel.locator(".cards").get_attribute("aria-busy") == "false"


def test_everything_can_be_done_with_the_keyboard(browser, url):
    with visit(browser, url) as page:

        def focused(expression: str):
            return page.evaluate(f"document.activeElement.{expression}")

        def tab_to(what: str, expression: str, limit: int = 40):
            for _ in range(limit):
                if focused(expression) == what:
                    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                    assert outline == "solid", "what has the focus is seen"
                    return
                page.keyboard.press("Tab")
            raise AssertionError(f"{what} cannot be reached")

        tab_to(TASKS[0], "innerText")
        last = len(TASKS) - 1
        for key, i in (("ArrowRight", 1), ("End", last), ("ArrowRight", 0), ("ArrowLeft", last), ("Home", 0)):
            page.keyboard.press(key)
            assert focused("innerText") == TASKS[i] and focused("getAttribute('aria-selected')") == "true"
        page.keyboard.press("ArrowRight")
        panel = page.locator("[role=tabpanel]").nth(1)
        tab_to("text", "name")
        page.keyboard.type("the fox and a dog")
        page.keyboard.press("Control+Enter")
        panel.locator(".card").first.wait_for()
        tab_to("A loan", "innerText")
        page.keyboard.press("Enter")
        panel.locator(".text", has_text="World Bank").first.wait_for()
        tab_to("SUMMARY", "tagName")
        page.keyboard.press("Enter")
        tab_to("[CLS]", "innerText")
        for key, i in (
            ("ArrowRight", 1),
            ("ArrowRight", 2),
            ("ArrowLeft", 1),
            ("End", -1),
            ("Home", 0),
            ("ArrowRight", 1),
        ):
            page.keyboard.press(key)
            assert focused("innerText") == panel.locator(".pieces button").all()[i].inner_text()
        page.keyboard.press("Enter")
        panel.get_by_text(LOOKS).wait_for()
        assert focused("getAttribute('aria-pressed')") == "true"


def shades(panel) -> list[float]:
    """How strongly each piece is shaded."""
    return panel.locator(".pieces button").evaluate_all("all => all.map(b => Number(b.style.getPropertyValue('--p')))")


def test_pieces_are_shaded_by_probability_or_by_attention(browser, url):
    with visit(browser, url) as page:
        panel = open_tab(page, 0)
        try_example(panel)
        panel.locator("summary").click()
        select = {name: panel.get_by_label(name, exact=True) for name in ("Model", "Shaded by", "Layer", "Head")}
        starts = shades(panel)
        assert max(starts) == 1 and not select["Layer"].is_visible()
        select["Shaded by"].select_option("end_probability")
        assert shades(panel) != starts
        chips = panel.locator(".pieces button")
        chips.last.hover()
        assert panel.locator(".readout").inner_text() == "“[SEP]”: no place for an answer"
        chips.nth(2).click()
        panel.get_by_text(LOOKS).wait_for()
        assert panel.locator(".pieces [aria-pressed=true]").inner_text() == chips.nth(2).inner_text()
        seen = [shades(panel)]
        assert max(seen[0]) == 1 and min(seen[0]) < 1
        for name, value in (("Layer", "1"), ("Head", "2"), ("Model", NAME)):
            select[name].select_option(value)
            page.wait_for_timeout(300)
            panel.get_by_text(LOOKS).wait_for()
            assert shades(panel) not in seen, name
            seen.append(shades(panel))
        chips.first.hover()
        assert re.match("“.*” looks at “\\[CLS\\]” with [\\d.]+%", panel.locator(".readout").inner_text())
        select["Shaded by"].select_option("start_probability")
        assert max(shades(panel)) == 1 and panel.locator(".pieces [aria-pressed=true]").count() == 0


def test_attention_of_a_long_text_is_refused_below_it(browser, url):
    with visit(browser, url, expected="status of 400") as page:
        panel = open_tab(page, 3)
        panel.locator("textarea").fill("a " * 280)
        panel.get_by_role("button", name="Run").click()
        panel.locator(".card").first.wait_for()
        panel.locator("summary").click()
        panel.get_by_text("attention is shown for inputs of up to 256 pieces").wait_for()
        panel.locator("textarea").fill("a b")
        panel.get_by_role("button", name="Run").click()
        panel.get_by_text(LOOKS).wait_for()
        assert "256" not in panel.inner_text()


@pytest.mark.parametrize("task", range(3))
def test_a_hostile_text_is_shown_as_text(browser, url, task):
    with visit(browser, url) as page:
        panel = open_tab(page, task)
        for field in panel.locator("form input, textarea").all():
            field.fill(HOSTILE)
        panel.get_by_role("button", name="Run").click()
        panel.locator(".card").first.wait_for()
        panel.locator("summary").click()
        panel.locator(".pieces button").nth(3).click()
        panel.get_by_text(LOOKS).wait_for()
        if task == 0:
            assert panel.locator(".passage .text").inner_text() == HOSTILE
        assert page.locator("img, iframe, i, main script").count() == 0
        assert page.evaluate("window.hit") is None
        assert panel.locator(".card h2").last.inner_text() == NAME


def test_the_page_may_not_be_changed_from_within(browser, url):
    """Should a text ever become HTML, the browser still runs nothing of it, and sends nothing away."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        other = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        with visit(browser, url, expected=f"Content Security Policy|violates|Refused|{other}") as page:
            page.evaluate(
                """other => {
                    const script = document.createElement("script");
                    script.textContent = "window.hit = 1";
                    document.body.append(script);
                    const image = document.createElement("img");
                    image.setAttribute("onerror", "window.hit = 2");
                    image.src = other;
                    document.body.append(image);
                }""",
                other,
            )
            asked = "other => fetch(other).then(() => 'sent', error => String(error))"
            assert "TypeError" in page.evaluate(asked, other)
            page.wait_for_timeout(300)
            assert page.evaluate("window.hit") is None
        elsewhere.settimeout(0.1)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_the_documented_calls_give_answers(browser, url):
    if not shutil.which("curl"):
        pytest.skip("there is no curl here")
    with visit(browser, url) as page:
        page.locator("#programs summary").click()
        calls = page.locator("#calls pre").all_inner_texts()
    assert len(calls) == 2 + len(TASKS)
    for call in calls:
        done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, timeout=60)
        assert "error" not in json.loads(done.stdout), call


def test_fields_have_names_and_motion_can_be_switched_off(browser, url):
    with visit(browser, url, reduced_motion="reduce") as page:
        panel = open_tab(page, 0)
        try_example(panel)
        panel.locator("summary").click()
        nameless = "all => all.filter(e => !e.labels.length || !e.labels[0].textContent.trim()).length"
        assert page.locator("input, textarea, select").evaluate_all(nameless) == 0
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        for name in ("aria-controls", "aria-labelledby"):
            named = page.evaluate(f"[...document.querySelectorAll('[{name}]')].map(e => e.getAttribute('{name}'))")
            assert named and set(named) <= set(ids)
        moving = "e => getComputedStyle(e).transitionDuration"
        assert panel.locator(".fill").first.evaluate(moving) in ("", "0s")
