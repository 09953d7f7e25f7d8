"""A real browser for the tests of the page: Chromium of the system, driven by playwright."""

import contextlib
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SLOW = 120_000  # ms, on a machine that has other things to do
ALONE = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@contextlib.contextmanager
def opened(*flags):
    """A browser; the test is skipped, with the reason, where there is none. flags: more of its
    command line."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(NAMES)})")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*ALONE, *flags])
        yield browser
        browser.close()


@contextlib.contextmanager
def shown(browser, file, address="", *, width=1200, dark=False, served=""):
    """The page in a window of its own. At its end nothing may have been asked for but the file, and
    nothing may have been complained of. served: the address of a server, instead of the file."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    context.set_default_timeout(SLOW)
    page = context.new_page()
    faults, asked = [], []
    page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((served or file.resolve().as_uri()) + address)
    yield page
    context.close()
    own = served or file.resolve().as_uri()
    assert faults == []
    assert not [url for url in asked if not url.startswith((own, "data:", f"blob:{own}"))]
