"""A moving picture of the page that writes, in real time.

    python tests/benchmarks/record_page.py RUN PICTURE.gif [--prompt TEXT] [--seed 1] [--dark]

It exports RUN as a page, opens it in Chromium, writes, looks at what else could stand at one place,
and goes on from another character. It needs Chromium, and the packages playwright and Pillow.
"""

import argparse
import io
import shutil
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright import sync_api

from charlm import checkpoint as checkpoints
from charlm.export import html

SIZE = {"width": 1040, "height": 760}
COLOURS = 96  # of the picture
LONGEST = 900  # milliseconds that a picture stands, but for the last one
LAST = 3000


class Recorder:
    """Takes pictures of a page, each with the time at which it was taken."""

    def __init__(self, page):
        self.page = page
        self.pictures, self.times = [], []

    def take(self, seconds=0.0):
        """Take one picture, or as many as are possible in some time."""
        end = time.monotonic() + seconds
        while True:
            png = self.page.screenshot()
            self.times.append(time.monotonic())
            self.pictures.append(Image.open(io.BytesIO(png)).convert("RGB"))
            if time.monotonic() >= end:
                return

    def save(self, path):
        """Write the moving picture."""
        pairs = zip(self.times, self.times[1:], strict=False)
        lengths = [min(LONGEST, round(1000 * (after - before))) for before, after in pairs]
        colours = self.pictures[-1].quantize(COLOURS)
        first, *others = (p.quantize(palette=colours, dither=0) for p in self.pictures)
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=[*lengths, LAST],
            loop=0,
            optimize=True,
        )


def record(page, recorder, arguments):
    """Use the page as somebody would who sees it for the first time."""
    page.fill("#prompt", arguments.prompt)
    page.fill("#seed", str(arguments.seed))
    page.fill("#length", "1500")
    page.locator("#colours").check()
    page.locator("#settings summary").click()
    recorder.take(0.6)
    page.click("#write")
    while page.locator("#stop").is_enabled():
        recorder.take()
    page.evaluate("byId('characters').scrollTop = 0")
    place = len(arguments.prompt) + 40
    page.locator("#characters span").nth(place).click()
    recorder.take(1.5)
    page.locator("#likeliest button:enabled").first.click()
    while page.locator("#stop").is_enabled():
        recorder.take()
    recorder.take()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run")
    parser.add_argument("picture")
    parser.add_argument("--prompt", default="The sea ")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    found = checkpoints.load(checkpoints.locate(arguments.run), model_only=True)
    with tempfile.TemporaryDirectory() as folder, sync_api.sync_playwright() as playwright:
        file = Path(folder) / "demo.html"
        html.save(found, file, run=arguments.run)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        scheme = "dark" if arguments.dark else "light"
        page = browser.new_page(viewport=SIZE, color_scheme=scheme)
        page.goto(file.as_uri())
        sync_api.expect(page.locator("#write")).to_be_enabled()
        recorder = Recorder(page)
        record(page, recorder, arguments)
        recorder.save(arguments.picture)
        browser.close()
    size = Path(arguments.picture).stat().st_size
    print(f"{arguments.picture}: {len(recorder.pictures)} pictures, {size:,} bytes")


if __name__ == "__main__":
    main()
