"""The page of a server in a browser, for its tests; and what a user does there."""

import contextlib

import pytest
from chromium import browser, pytestmark, sync_api  # noqa: F401
from conftest import DATA
from serving import serving

import charlm

expect = sync_api.expect

LSTM, GRU = (str(DATA / f"golden-{name}.safetensors") for name in ("lstm", "gru"))
PROMPT = "The sea was calm, and"


class Servers:
    """Servers that run until they are stopped together."""

    def __init__(self):
        self.running = contextlib.ExitStack()

    def __call__(self, *runs, key=None, port=0):
        return self.running.enter_context(serving(*runs, key=key, port=port)).address

    def stop(self):
        self.running.close()


@pytest.fixture(scope="module")
def goldens():
    """The address of a server for the frozen models."""
    servers = Servers()
    yield servers(LSTM, GRU)
    servers.stop()


@pytest.fixture
def serve():
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture
def show(browser):
    """Open the page of a server; at the end, nothing may have gone wrong in it."""
    problems, contexts = [], []

    def show(address, width=1280, path="/", context=None, clock=False, **options):
        if context is None:
            viewport = {"width": width, "height": 800}
            context = browser.new_context(viewport=viewport, **options)
            context.set_default_timeout(10_000)
            contexts.append(context)
        page = context.new_page()
        if clock:  # which a test may put forward
            page.clock.install()

        def check(request):
            if not request.url.startswith((address + "/", f"blob:{address}/", "data:image/svg")):
                problems.append(request.url)

        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append("a dialog"))
        page.on("request", check)
        page.goto(address + path)
        page.address = address
        return page

    show.problems = problems
    yield show
    for context in contexts:
        context.close()
    assert not problems


def refused(show):
    """Forget what the browser tells of answers that are errors; other problems stay."""
    left = [one for one in show.problems if not one.startswith("Failed to load resource")]
    show.problems[:] = left


def text_of(page):
    return page.evaluate("tree.read().characters.join('')")


def shown(page):
    """Return the text as the page shows it."""
    return page.locator("#characters").text_content().replace("↵", "\n")


def idle(page):
    expect(page.locator("#stop")).to_have_attribute("aria-disabled", "true", timeout=20_000)


def set_up(page, **settings):
    page.evaluate("byId('more').open = byId('dials').open = true")
    for name, value in settings.items():
        page.fill(f"#{name.replace('_', '-')}", str(value))


def go_on(page):
    page.click("#continue")
    idle(page)


def write(page, prompt=PROMPT, **settings):
    set_up(page, **({"seed": 5, "length": 60} | settings))
    page.fill("#editor", prompt)
    go_on(page)


def rows(page):
    """Return what the branches show: level, who wrote it, whether it is the current one."""
    return [
        (
            int(row.get_attribute("aria-level")),
            row.locator(".who").inner_text(),
            row.get_attribute("aria-selected") == "true",
        )
        for row in page.locator("#branches [role=treeitem]").all()
    ]


def expected(run=LSTM, prompt=PROMPT, index=0, **settings):
    """Return what Python writes."""
    settings = {"seed": 5, "length": 60} | settings
    samples = charlm.load(run).samples(prompt, num_samples=index + 1, **settings)
    return "".join(list(samples)[index])
