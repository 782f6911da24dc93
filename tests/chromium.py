"""A real browser, for the tests of pages; they are skipped where there is none."""

import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open a page from a file; at the end, nothing may have gone wrong in it."""
    problems, contexts = [], []

    def show(html, width=1280, **options):
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        viewport = {"width": width, "height": 800}
        contexts.append(browser.new_context(viewport=viewport, offline=True, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append("a dialog"))
        page.on("request", lambda request: problems.append(request.url))
        page.goto(path.as_uri())
        address = path.as_uri()
        problems[:] = [problem for problem in problems if problem != address]
        return page

    show.problems = problems
    yield show
    assert not problems
    for context in contexts:
        context.close()
