"""The reader study's page in Chromium: rating by keyboard, going on after a restart, marking, and giving
nothing away.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest
from command import MEDSD, printed_address
from playwright.sync_api import expect
from reader_study import make_study

from medsd_ray.reader_study.answers import Answer, Answers
from medsd_ray.reader_study.study import ANSWERS, KEY, open_study, order

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route


@contextmanager
def served(study: Path, *words: str, **environment: str) -> Iterator[str]:
    """`medsd reader-study serve`, ended by SIGTERM as well as it should be. Yields the address that it
    printed.
    """
    process = subprocess.Popen(
        [MEDSD, "reader-study", "serve", str(study), "--port", "0", *words], env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield printed_address(process)
    finally:
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, ""), said


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path, num_images=6)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own on which nothing may go wrong: no error in the console, no refusal by the CSP."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page, wrong = context.new_page(), []
        page.on(
            "console",
            lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.set_default_timeout(10_000)
        yield page
        assert [
            line for line in wrong if "ERR_CONNECTION_REFUSED" not in line
        ] == []  # of a server that a test has ended


def begin(page: Page, address: str, name: str) -> None:
    page.goto(address)
    page.keyboard.type(name)  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector("#rating:not([hidden]), #end:not([hidden])")


def press(page: Page, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def at(page: Page, place: str) -> None:
    """Waits until this place is shown, such as `2 of 6`. The CSP lets no test evaluate code of its own."""
    expect(page.locator("#place")).to_have_text(place)


def ended(page: Page) -> None:
    expect(page.locator("#end")).to_be_visible()


def answers(study: Path, reader: str) -> dict[str, Answer]:
    return {one.image: one for one in Answers(study / ANSWERS).read(reader)}


def test_rating_by_keyboard_from_name_to_end(page: Page, study: Path):
    images = order(open_study(study), "dr key")
    with served(study) as address:
        begin(page, address, "Dr Key")
        for index, keys in enumerate(["4 a r", "1 n g", "5 n r", "2 a g", "3 n r", "1 a g"]):
            at(page, f"{index + 1} of 6")
            assert page.get_attribute("#image", "src") == f"images/{images[index]}.png"
            press(page, keys + " Enter")
            at(page, f"{index + 2} of 6") if index < 5 else ended(page)
            assert len(answers(study, "dr key")) == index + 1  # on disk before the next image shows
        ended(page)
        press(page, "Backspace 5")  # back from the end, and a change
        expect(page.locator("#image")).to_have_css(
            "visibility", "visible"
        )  # though its address is the one that it had
        press(page, "Enter")
        ended(page)
    kept = answers(study, "dr key")
    given = [(kept[name].realism, kept[name].abnormal, kept[name].judged) for name in images]
    real, made = "real", "generated"
    assert given == [
        (4, True, real),
        (1, False, made),
        (5, False, real),
        (2, True, made),
        (3, False, real),
        (5, True, made),
    ]
    assert all(one.seconds > 0 for one in kept.values())


def test_an_incomplete_answer_stays_and_says_so(page: Page, study: Path):
    with served(study) as address:
        begin(page, address, "hasty")
        press(page, "3 r Enter")
        assert "all three questions" in page.inner_text("#problem")
        assert page.get_attribute("#abnormal", "class") == "asked"
        at(page, "1 of 6")
        assert answers(study, "hasty") == {}
        press(page, "n Enter")
        at(page, "2 of 6")


def test_a_session_goes_on_after_the_server_was_restarted(browser: Browser, page: Page, study: Path):
    with served(study) as address:
        begin(page, address, "Resumed")
        for number in (1, 2):
            press(page, "4 a r Enter")
            at(page, f"{number + 1} of 6")
    press(page, "4 a r Enter")  # while there is no server
    expect(page.locator("#problem")).to_contain_text("Not saved")
    at(page, "3 of 6")
    with served(study) as address, browser.new_context() as context:
        other = context.new_page()
        begin(other, address, "resumed")
        at(other, "3 of 6")
        press(other, "Backspace")
        assert (
            other.get_attribute("#realism [data-value='4']", "aria-pressed") == "true"
        )  # the answer that was kept
        begin(other, address, "somebody else")
        at(other, "1 of 6")


def test_a_click_marks_a_point_and_a_drag_a_box(page: Page, study: Path):
    first, second, *_ = order(open_study(study), "marker")
    with served(study) as address:
        begin(page, address, "marker")
        box = page.locator("#frame").bounding_box()
        assert box is not None
        x, y, side = box["x"], box["y"], box["width"]
        page.mouse.click(x + 0.25 * side, y + 0.5 * side)
        assert page.get_attribute("#abnormal [data-value='true']", "aria-pressed") == "true"
        press(page, "3 r Enter")
        at(page, "2 of 6")
        assert page.is_hidden("#mark")
        page.mouse.move(x + 0.8 * side, y + 0.9 * side)
        page.mouse.down()
        page.mouse.move(x + 0.6 * side, y + 0.7 * side, steps=4)
        page.mouse.up()
        assert page.is_visible("#mark")
        press(page, "3 g Enter")
        at(page, "3 of 6")
        page.mouse.click(x + 0.5 * side, y + 0.5 * side)
        press(page, "n")
        assert page.is_hidden("#mark")  # normal has no place
    kept = answers(study, "marker")
    assert kept[first].region == pytest.approx((0.25, 0.5, 0.25, 0.5), abs=0.005)
    assert kept[second].region == pytest.approx((0.6, 0.7, 0.8, 0.9), abs=0.005)


def test_an_image_that_is_slow_to_come_has_its_place_and_the_last_one_is_gone(page: Page, study: Path):
    first, second, *_ = order(open_study(study), "patient")
    held: dict[str, Route] = {}
    page.route("**/images/*.png", lambda route: held.update({Path(route.request.url).stem: route}))
    image = page.locator("#image")

    def let_go(name: str) -> None:
        while name not in held:
            page.wait_for_timeout(20)  # in milliseconds
        held[name].continue_()

    with served(study) as address:
        begin(page, address, "patient")
        box = page.locator("#frame").bounding_box()
        assert box is not None and box["width"] == pytest.approx(box["height"], rel=0.01)
        page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
        expect(page.locator("#mark")).to_be_visible()
        expect(image).to_have_css("visibility", "hidden")
        let_go(first)
        expect(image).to_have_css("visibility", "visible")
        press(page, "3 r Enter")
        at(page, "2 of 6")
        expect(image).to_have_css("visibility", "hidden")
        let_go(second)
        expect(image).to_have_css("visibility", "visible")
        page.unroute_all()
    assert answers(study, "patient")[first].region == pytest.approx((0.25, 0.5, 0.25, 0.5), abs=0.005)


def test_a_name_is_shown_as_text(page: Page, study: Path):
    with served(study) as address:
        begin(page, address, "<img src=x onerror=document.title=1>")
        assert page.inner_text("#reader") == "<img src=x onerror=document.title=1>"
        assert page.locator("#reader img").count() == 0 and page.title() == "Reader study"


def test_nothing_that_the_browser_gets_tells_the_groups_apart(page: Page, study: Path):
    """The key has moved away; every response of a whole session is held against it."""
    key = json.loads((study / KEY).read_text())["images"]
    (study / KEY).rename(study.parent / KEY)
    seen: list = []
    page.on("response", lambda response: seen.append(response))
    with served(study) as address:
        begin(page, address, "observer")
        for number in range(6):
            at(page, f"{number + 1} of 6")
            press(page, "3 n r Enter")
        ended(page)
        assert all(response.url.startswith(address) for response in seen)
        images = [r for r in seen if "/images/" in r.url]
        assert {re.sub(r".*/images/|\.png", "", r.url) for r in images} == set(key)
        headers = [{n: v for n, v in r.headers.items() if n != "date"} for r in images]
        assert (
            all(one == headers[0] for one in headers)
            and "etag" not in headers[0]
            and "last-modified" not in headers[0]
        )
        texts = [r.text() for r in seen if "/images/" not in r.url and r.status == 200]
        words = {one[field] for one in key.values() for field in ("source", "text")}
        assert len(texts) >= 4 and not any(word in text for word in words for text in texts)
        for text in texts:
            if text.startswith("{"):
                assert set(json.loads(text)) == {"reader", "width", "height", "images"}


def test_an_exposed_page_asks_for_its_token(page: Page, study: Path):
    with served(study, "--host", "0.0.0.0", MEDSD_READER_TOKEN="a-token-for-this-test") as printed:
        assert printed.endswith("/?token=a-token-for-this-test")
        local = printed.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(Exception, match="401"):
            urlopen(local.partition("?")[0])
        page.goto(local)
        assert "token" not in page.url
        page.keyboard.type("within")
        page.keyboard.press("Enter")
        page.wait_for_selector("#rating:not([hidden])")
        request = Request(local.partition("?")[0], headers={"Authorization": "Bearer a-token-for-this-test"})
        assert urlopen(request).status == 200
