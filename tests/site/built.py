"""The built pages, read without a browser: `nox -s docs` runs this on the site it has just built."""

from __future__ import annotations

import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import adaption
from adaption import functional, layers

PUBLIC = [f"{door.__name__}.{name}" for door in (adaption, functional, layers) for name in door.__all__]
# what a browser fetches without being asked; a link in the text may lead anywhere
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "embed": "src", "object": "data"}


class Page(HTMLParser):
    """What a page can be entered at, where it leads, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if "id" in attributes:
            self.anchors.add(attributes["id"])
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag == "link" and re.search("stylesheet|icon|pre", attributes["rel"]):
            self.loads.append(attributes["href"])
        if attributes.get(LOADED.get(tag, "")):
            self.loads.append(attributes[LOADED[tag]])


@functools.cache
def read(path: Path) -> Page:
    return Page(path)


def inside(address: str) -> bool:
    """Whether an address, relative to the page, stays on the site."""
    parts = urlsplit(address)
    return not parts.scheme and not parts.netloc


def test_links_lead_somewhere(site: Path, page: str) -> None:
    here = site / page
    for link in filter(inside, read(here).links):
        path, anchor = unquote(urlsplit(link).path), unquote(urlsplit(link).fragment)
        goal = (here.parent / path).resolve() if path else here
        assert goal.is_relative_to(site), f"{page} links to {link}, which is not on the site"
        assert goal.is_file(), f"{page} links to {link}, and there is no such file"
        assert not anchor or anchor in read(goal).anchors, f"{page} links to {link}, which has no such anchor"


def test_nothing_is_loaded_from_elsewhere(site: Path, page: str) -> None:
    for address in read(site / page).loads:
        assert inside(address), f"{page} loads {address}. A page must be whole without a network."


def test_no_style_is_loaded_from_elsewhere(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        loaded = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", sheet.read_text(encoding="utf-8"))
        for address in map("".join, loaded):
            assert inside(address) or address.startswith("data:"), f"{sheet.name} loads {address}"


@pytest.mark.parametrize("name", PUBLIC)
def test_api_page_leads_to_every_public_name(site: Path, name: str) -> None:
    links = [urlsplit(link) for link in read(site / "api.html").links]
    pages = [site / link.path for link in links if link.fragment == name]
    assert len(pages) == 1, f"`{name}` is not on the API page"
    assert name in read(pages[0]).anchors


def test_formulas_are_drawn(site: Path) -> None:
    text = (site / "methods" / "mmd.html").read_text(encoding="utf-8")
    labels = re.findall('<svg[^>]* aria-label="([^"]*)"', text)
    assert any("\\sum" in label for label in labels), "no formula is drawn, or none has a word for who cannot see it"
    assert "\\sum" not in re.sub('aria-label="[^"]*"', "", text), "LaTeX is left in the page"
