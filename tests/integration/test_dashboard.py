"""The dashboard in Chromium, served by `medsd dashboard`: filter, compare, live update, and text of prompts
that runs nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from command import MEDSD, printed_address
from studies import EVIL, drawings, make_trial, summarise, write_json, write_run, write_study

from medsd_ray.spec.load import parse_run
from medsd_ray.storage import open_storage

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SOON = 20_000  # ms: two cores draw many charts


@contextmanager
def served(root: Path | str, *words: str, **environment: str) -> Iterator[str]:
    """`medsd dashboard ROOT`, ended well by SIGTERM. Yields the address that it printed."""
    process = subprocess.Popen(
        [MEDSD, "dashboard", str(root), "--port", "0", *words],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield printed_address(process)
    finally:
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, ""), said + errors


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_study(root / "study", 24)
    write_run(root / "runs/alone", make_trial(0), points=500, pictures=drawings())
    return root


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with served(root) as address:
        yield address


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page on which nothing may go wrong: no error in the console, no refusal by the CSP, no dialog."""
    with browser.new_context(viewport={"width": 1440, "height": 1000}) as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page, wrong = context.new_page(), []
        page.on(
            "console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.set_default_timeout(SOON)
        yield page
        ours = [line for line in wrong if "GL Driver Message" not in line and "404 (Not Found)" not in line]
        assert ours == []


def open_study(page: Page, address: str, at: str = "study") -> None:
    page.goto(f"{address}#/study/{at}")
    page.wait_for_selector("#trials tbody tr")
    page.wait_for_function("document.querySelector('.chart.parallel').data?.length === 1")
    page.wait_for_function("document.querySelector('.chart.curves').data?.length > 0")


def shown(page: Page) -> list[str]:
    return page.locator("#trials tbody tr").evaluate_all("rows => rows.map(row => row.dataset.key)")


def row(page: Page, trial: str):
    return page.locator(f"#trials tr[data-key='{trial}']")


def test_the_list_leads_to_a_study_and_a_run(page: Page, address: str):
    page.goto(address)
    page.get_by_role("link", name="chambon2022").click()
    page.wait_for_selector("#trials tbody tr")
    assert page.locator("h1").inner_text().split() == ["chambon2022", "running"]
    page.get_by_role("link", name="medsd").click()
    page.get_by_role("link", name="alone").click()
    page.wait_for_selector("#losses .main-svg")
    assert page.locator("#checkpoints .chip").all_inner_texts() == ["step 200", "step 400", "step 600"]
    assert page.locator(".tile").first.inner_text().split() == ["Progress", "600/600", "steps"]
    assert "500 points" in page.locator("main").inner_text() and page.locator("#samples img").count() == 9
    page.wait_for_function(
        "[...document.querySelectorAll('#samples img')].every(image => image.naturalWidth === 64)"
    )


def test_filter_and_sort(page: Page, address: str):
    open_study(page, address)
    assert len(shown(page)) == 24
    page.fill("#filter", "lora")
    assert 0 < len(shown(page)) < 24
    assert set(page.locator("#trials tbody tr td:nth-child(9)").all_inner_texts()) == {"lora"}
    page.fill("#filter", "lora seed=1")
    assert set(page.locator("#trials tbody tr td:nth-child(11)").all_inner_texts()) == {"1"}
    page.fill("#filter", "")
    page.get_by_role("button", name="stopped").click()
    stopped = shown(page)
    assert (
        set(page.locator("#trials tbody td:nth-child(3)").all_inner_texts()) == {"stopped"}
        and len(stopped) == 3
    )
    assert page.locator("#count").inner_text() == "3 of 24 trials"
    page.wait_for_function("document.querySelector('.chart.parallel').data[0].line.color.length === 3")
    page.get_by_role("button", name="Clear").click()
    page.select_option("#by-unet", "full")
    assert set(page.locator("#trials tbody tr td:nth-child(9)").all_inner_texts()) == {"full"}
    page.select_option("#by-unet", "")
    page.locator("#trials th button", has_text="insertion accuracy").click()
    page.locator("#trials th button", has_text="insertion accuracy").click()
    values = [
        float(text) for text in page.locator("#trials tbody td:nth-child(4)").all_inner_texts() if text != "–"
    ]
    assert values == sorted(values, reverse=True) and len(values) > 10
    assert page.locator("#trials tbody td:nth-child(4)").all_inner_texts()[-1] == "–"  # without a value: last


def test_compare_two_trials(page: Page, address: str):
    open_study(page, address)
    row(page, "0000").click(position={"x": 300, "y": 8})
    row(page, "0002").get_by_role("checkbox").check()
    page.wait_for_selector("table.difference")
    fields = page.locator("table.difference tbody th").all_inner_texts()
    assert "components.text_encoder.method" in fields or "components.unet.learning_rate" in fields
    assert page.locator("table.difference thead th").all_inner_texts() == [
        "Field",
        "Trial 0000",
        "Trial 0002",
    ]
    assert page.locator("table.images thead th").all_inner_texts()[1].startswith("Trial 0000")
    page.wait_for_function("[...document.querySelectorAll('table.images img')].length === 6")
    page.wait_for_function(
        "[...document.querySelectorAll('table.images img')].every(image => image.naturalWidth === 64)"
    )
    drawn = (
        "document.querySelector('.chart.curves').data"
        ".filter(trace => trace.name.startsWith('trial')).map(trace => trace.name)"
    )
    page.wait_for_function(f"{drawn}.sort().join() === 'trial 0000,trial 0002'")
    row(page, "0000").click(position={"x": 300, "y": 8})
    page.wait_for_selector("table.difference", state="detached")
    page.wait_for_function(f"{drawn}.join() === 'trial 0002'")


def test_a_trials_spec_is_copied_as_a_run(page: Page, address: str):
    open_study(page, address)
    row(page, "0003").get_by_role("button", name="0003").click()
    drawer = page.locator("aside.drawer")
    drawer.get_by_text("max_steps: 600").wait_for()
    drawer.get_by_role("button", name="Copy as RUN.yaml").click()
    drawer.get_by_role("button", name="Copied").wait_for()
    copied = parse_run(yaml.safe_load(page.evaluate("navigator.clipboard.readText()")))
    assert copied.name == "chambon2022-0003" and copied.output.endswith("-again")
    page.keyboard.press("Escape")
    assert drawer.is_hidden()


def test_it_is_live_and_keeps_what_the_reader_has_set(page: Page, browser: Browser, tmp_path: Path):
    trials = write_study(tmp_path, 12, with_images=False)
    with served(tmp_path) as address:
        page.goto(address)  # the root is a study: it opens
        page.wait_for_selector("#trials tbody tr")
        page.evaluate("window.same = true")
        page.fill("#filter", "seed=0")
        row(page, "0002").get_by_role("checkbox").check()
        page.locator("#trials th button", has_text="Trial").click()
        page.locator("#trials th button", has_text="Trial").click()
        assert shown(page) == ["0010", "0008", "0006", "0004", "0002", "0000"]
        assert row(page, "0010").locator("td").nth(2).inner_text() == "running"
        assert "300/600" in row(page, "0010").inner_text()
        points = "document.querySelector('.chart.curves').data?.reduce((n, t) => n + t.x.length, 0)"
        page.wait_for_function(f"{points} > {5 * 13}")  # those of six trials
        before = page.evaluate(points)

        progress = json.loads((tmp_path / "trials/0010/progress.json").read_text())
        write_json(tmp_path / "trials/0010/progress.json", progress | {"step": 450})
        row(page, "0010").get_by_text("450/600").wait_for()

        with (tmp_path / "trials/0010/metrics.jsonl").open("a") as file:
            file.writelines(json.dumps({"step": step, "validation_loss": 0.3}) + "\n" for step in (500, 600))
        trials[10] = make_trial(10)
        write_json(tmp_path / "study.json", summarise([*trials, make_trial(12), make_trial(13)], "done"))
        row(page, "0010").get_by_text("done").wait_for()
        row(page, "0012").wait_for()
        assert shown(page) == ["0012", "0010", "0008", "0006", "0004", "0002", "0000"]
        assert (
            page.input_value("#filter") == "seed=0" and row(page, "0002").get_by_role("checkbox").is_checked()
        )
        assert page.locator("h1 .badge").inner_text() == "done" and page.evaluate("window.same")
        page.wait_for_function(f"{points} === {before + 2}")


def test_text_from_storage_stays_text(page: Page, tmp_path: Path):
    trials = write_study(tmp_path / "s", 8)
    for trial in trials:
        trial["params"][EVIL] = EVIL
        trial["components"]["unet"] = EVIL
        trial["metrics"] = {name + EVIL: value for name, value in trial["metrics"].items()} | trial["metrics"]
    trials[5]["error"] = EVIL
    study = summarise(trials, "running") | {
        "name": EVIL,
        "state": EVIL,
        "importance": {EVIL: 0.5},
        "importance_reason": EVIL,
    }
    write_json(tmp_path / "s/study.json", study)
    write_json(tmp_path / "s/progress.json", {"warnings": [EVIL]})
    progress = json.loads((tmp_path / "s/trials/0000/progress.json").read_text())
    write_json(tmp_path / "s/trials/0000/progress.json", progress | {"warnings": [EVIL], "state": EVIL})
    with served(tmp_path) as address:
        page.goto(address)
        page.get_by_text(EVIL).first.wait_for()
        open_study(page, address, "s")
        assert EVIL in page.locator("h1").inner_text()
        prompt = page.locator("table.images .prompt", has_text="<img")
        prompt.wait_for()
        assert f"Effusion {EVIL}" in prompt.inner_text()
        page.select_option("#by-metric", "fid" + EVIL)
        row(page, "0005").get_by_role("button", name="0005").click()
        page.locator("aside .warning", has_text=EVIL).wait_for()
        page.locator("aside pre", has_text=EVIL).wait_for()
        page.keyboard.press("Escape")
        for chart in (".chart.curves", ".slice", ".chart.importance", ".chart.parallel"):
            page.locator(chart).first.scroll_into_view_if_needed()
            page.locator(chart).first.hover()
        page.goto(f"{address}#/run/s%2Ftrials%2F0000")
        page.locator(".warning", has_text=EVIL).wait_for()
        page.locator("figcaption", has_text=EVIL).first.wait_for()
        assert page.evaluate("window.ran") is None
        assert page.locator("img[src='x'], main script, svg script, svg image[href='x']").count() == 0


def test_what_is_not_there_is_said(page: Page, address: str):
    page.goto(f"{address}#/study/nowhere")
    page.get_by_role("alert").get_by_text("there is no study at 'nowhere'").wait_for()
    page.get_by_role("link", name="medsd").click()
    page.get_by_role("link", name="chambon2022").wait_for()
    assert page.get_by_role("alert").is_hidden()


def test_it_fits_a_narrow_window(page: Page, address: str):
    page.set_viewport_size({"width": 800, "height": 900})
    for where in ("", "#/study/study", "#/run/runs%2Falone"):
        page.goto(f"{address}{where}")
        page.wait_for_timeout(1500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 800


def test_an_exposed_page_asks_for_its_token(page: Page, root: Path):
    with served(root, "--host", "0.0.0.0") as address:
        address = address.replace("0.0.0.0", "localhost")
        bare, _, token = address.partition("?token=")
        with pytest.raises(HTTPError, match="401"):
            urlopen(bare)
        with urlopen(Request(f"{bare}api/overview", headers={"Authorization": f"Bearer {token}"})) as answer:
            assert len(json.load(answer)["studies"]) == 1
        page.goto(address)
        page.get_by_role("link", name="chambon2022").wait_for()
        assert "token" not in page.url
        (cookie,) = page.context.cookies()
        assert cookie.get("httpOnly") and cookie.get("sameSite") == "Strict"


def test_a_root_on_s3(page: Page, s3: str, tmp_path: Path):
    write_study(tmp_path, 8)
    store = open_storage(f"{s3}/studies/one")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            store.upload(path, path.relative_to(tmp_path).as_posix())
    with served(s3) as address:
        page.goto(address)
        page.get_by_role("link", name="chambon2022").click()
        page.wait_for_function(
            "[...document.querySelectorAll('table.images img')].some(image => image.naturalWidth === 64)"
        )
        assert len(shown(page)) == 8
        write_json(tmp_path / "study.json", summarise([make_trial(0)], "done"))
        store.upload(tmp_path / "study.json", "study.json")
        page.wait_for_function("document.querySelectorAll('#trials tbody tr').length === 1")
