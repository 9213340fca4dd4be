"""Writes docs/dashboard.png, the README's picture of the dashboard: `python scripts/dashboard_screenshot.py
[STUDY] [PNG]`.

STUDY is the output of a `medsd tune`; a made-up one where absent. Needs Chromium on the PATH.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import studies  # noqa: E402
from chromium import find_chromium  # noqa: E402

WIDTH, HEIGHT = 1440, 2624


def main() -> None:
    given = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(given[1]) if len(given) > 1 else ROOT / "docs" / "dashboard.png"
        image = photograph(Path(given[0]) if given else made_up(Path(folder)))
    image.convert("RGB").quantize(256).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size // 1000} kB")


def made_up(folder: Path) -> Path:
    studies.PROMPTS = (*studies.PROMPTS[:2], "A chest x-ray with bilateral pleural effusions")
    studies.write_study(folder, 48)
    return folder


def photograph(study: Path) -> Image.Image:
    with studies.served(study) as (address, _), sync_playwright() as playwright:
        path = find_chromium()
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(f"{address}#/study/")
        page.locator("#trials th button").nth(3).wait_for()
        for _ in range(2):  # highest value of the first metric first
            page.locator("#trials th button").nth(2).click()
        for row in (0, 3):
            page.locator("#trials tbody input").nth(row).check()
        page.wait_for_function("document.querySelector('.chart.parallel').data?.length === 1")
        page.wait_for_timeout(4000)
        data = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(data))


if __name__ == "__main__":
    main()
