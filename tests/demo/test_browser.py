"""The page in a real browser: keyboard, a phone's width, and no request but to this computer."""

import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="the page is of the extra [demo]")
pytest.importorskip("playwright", reason="playwright drives the browser: pip install playwright")
from playwright.sync_api import Browser, Error, sync_playwright

IMAGES = (
    "() => !document.querySelector('#result').classList.contains('busy') && document.querySelector('#images figure')"
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(settings, tmp_path_factory) -> Iterator[str]:
    """Start ``atlf demo`` in an empty folder; see afterwards that nothing was written there."""
    folder = tmp_path_factory.mktemp("demo")
    environment = settings["env"] | {"TMPDIR": str(folder), "PYTHONPATH": str(settings["cwd"])}
    code = "from atlf_jax.commands import run; run('demo', ['--port', '0', '--no-browser'])"
    command = [sys.executable, "-u", "-c", code]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline().startswith("starting; ")
        yield server.stdout.readline().split()[0]
        written = list(folder.iterdir())
        server.terminate()
    assert not written


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        try:
            found = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no Chromium: playwright install chromium ({str(error).splitlines()[0]})")
        yield found
        found.close()


@pytest.mark.parametrize("width", [1366, 390])
def test_the_page(address, browser, width) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.set_default_timeout(300_000)  # ms: the machine may have other work
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    page.wait_for_function(IMAGES)
    assert page.locator("#images figure").count() == 5
    assert page.inner_text("#headline").startswith("With its own CT: ")
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out

    page.focus("[name=ct][value=own]")
    page.keyboard.press("ArrowDown")  # by keyboard alone: no CT
    page.wait_for_function("() => document.querySelector('#headline').textContent.startsWith('Network without a CT')")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => document.querySelector('#warnings').textContent.includes('do not match in place')")
    assert page.is_visible("#warnings li") and page.is_visible("#move")
    for _ in range(60):  # each setting can be reached by the tabulator
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "solver":
            break
    assert page.evaluate("document.activeElement.id") == "solver"
    unnamed = "[...document.querySelectorAll('input, select, button')].filter(e => !e.labels?.length && !e.textContent)"
    assert page.evaluate(f"{unnamed}.length") == 0 and page.evaluate("[...document.images].every(i => i.alt)")
    assert {url for url in asked if not url.startswith(("data:", address))} == set() and not faults
    page.close()
