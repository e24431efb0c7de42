"""Every page, on a phone and on a desk, by day and by night, and the report of `nox -s own`: `nox -s browser`."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

import adaption
from adaption import functional, layers

WIDTHS = {"phone": 390, "desktop": 1280}
PUBLIC = [f"{door.__name__}.{name}" for door in (adaption, functional, layers) for name in door.__all__]
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# Elements of the text that reach beyond the window, but for those in a box that scrolls.
SPILLED = """() => {
    const scrolls = element => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
    const boxed = element => element.tagName !== "ARTICLE" && (scrolls(element) || boxed(element.parentElement));
    const wide = element => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
    return [...document.querySelectorAll("article *")]
        .filter(element => wide(element) && !boxed(element.parentElement))
        .map(element => element.outerHTML.slice(0, 100));
}"""
# Formulas that are not in the colour of the text around them.
DISCOLOURED = """() => [...document.querySelectorAll("svg[aria-label]")].filter(svg =>
    getComputedStyle(svg.querySelector("path")).fill !== getComputedStyle(svg.parentElement).color).length"""
BLANK = "() => [...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
TOO_WIDE = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("localhost", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def browser(pytestconfig: pytest.Config) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=pytestconfig.getoption("--chromium"), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page(pytestconfig: pytest.Config, browser: Browser, address: str, page: str, theme: Any) -> None:
    faults: list[str] = []
    tab = browser.new_page(color_scheme=theme)
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("response", lambda response: faults.append(f"missing: {response.url}") if not response.ok else None)
    tab.on("request", lambda request: faults.append(request.url) if not request.url.startswith(address) else None)
    tab.goto(address + page)
    for device, width in WIDTHS.items():
        tab.set_viewport_size({"width": width, "height": 900})
        if folder := pytestconfig.getoption("--screenshots"):
            tab.screenshot(path=folder / f"{page.removesuffix('.html')}-{device}-{theme}.png", full_page=True)
        assert tab.evaluate(SPILLED) == [], f"on a {device} this reaches beyond the window"
        assert not tab.evaluate(TOO_WIDE), f"on a {device} the page scrolls sideways"
    assert tab.evaluate(BLANK) == [], "pictures are missing"
    assert tab.evaluate(DISCOLOURED) == 0, "formulas are not in the colour of the text"
    assert faults == [], "errors of the page, or requests to elsewhere"
    tab.close()


def test_nothing_is_cut_off_at_any_width(browser: Browser, address: str, page: str) -> None:
    tab = browser.new_page()
    tab.goto(address + page)
    for width in range(360, 1921, 40):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate(SPILLED) == [], f"at {width} pixels this reaches beyond the window"
        assert not tab.evaluate(TOO_WIDE), f"at {width} pixels the page scrolls sideways"
    tab.close()


def test_search_finds_every_public_name(browser: Browser, address: str) -> None:
    tab = browser.new_page()
    for name in PUBLIC:
        tab.goto(f"{address}search.html?q={name.rpartition('.')[2]}")
        tab.locator(f'#search-results a[href$="#{name}"]').first.wait_for(timeout=10_000)
    tab.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of `nox -s own`, on 60 samples of three classes."""
    folder, draw = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    y = np.arange(60) % 3
    for name, shift in (("source", 0), ("target", 1)):
        np.savez(folder / f"{name}.npz", X=3 * np.eye(3)[y] + draw.normal(size=(60, 3)) + shift, y=y)
    options = [f"--{name}={folder / name}.npz" for name in ("source", "target")]
    command = [sys.executable, "-m", "own_data", *options, "--minutes=0.01", "--seeds=1", "--weights=1"]
    examples = Path(__file__).parents[2] / "docs" / "examples"
    subprocess.run([*command, f"--out={folder}"], check=True, env={**os.environ, "PYTHONPATH": str(examples)})
    return folder / "report.html"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_report(pytestconfig: pytest.Config, browser: Browser, report: Path, theme: Any) -> None:
    faults: list[str] = []
    tab = browser.new_page(color_scheme=theme)
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
    tab.goto(report.as_uri())
    for device, width in WIDTHS.items():
        tab.set_viewport_size({"width": width, "height": 900})
        if folder := pytestconfig.getoption("--screenshots"):
            tab.screenshot(path=folder / f"own-data-report-{device}-{theme}.png", full_page=True)
        assert not tab.evaluate(TOO_WIDE), f"on a {device} the report scrolls sideways"
    boxes = [picture.bounding_box() for picture in tab.locator("svg").all()]
    assert [box and box["width"] > 100 and box["height"] > 50 for box in boxes] == [True] * 3
    assert faults == [], "errors of the report, or requests to elsewhere"
    tab.close()
