"""What every page of a built site must keep: links, requests, console, accessibility.

PYTHONPATH=tests python -m helpers.site_checks FOLDER

checks all pages of a site in Chromium, from the disk and from a local server, and ends with status
1 if something is wrong.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGEST = 80e6
"""Bytes that a site may have."""

ADDRESSES = {"a": "href", "link": "href", "script": "src", "img": "src", "source": "src"}
ELSEWHERE = ("http", "https", "mailto", "data")


class _Page(HTMLParser):
    """Addresses and ids of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids |= {value for key in ("id", "name") if (value := named.get(key))}
        address = named.get(ADDRESSES.get(tag, ""))
        if address:
            self.links.append((tag, address))


def pages(site: Path) -> list[str]:
    """All pages of a site, relative to its folder."""
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def dead_links(site: Path) -> list[str]:
    """Links within the site that lead nowhere, and files that a page would load from elsewhere."""
    read = {path.resolve(): _Page(path) for path in site.rglob("*.html")}
    wrong = []
    for path, page in read.items():
        for tag, address in page.links:
            parts = urlsplit(address)
            where = f"{path.relative_to(site.resolve())}: {address}"
            if parts.scheme in ELSEWHERE:
                if tag != "a" and parts.scheme != "data":
                    wrong.append(f"{where} is loaded from elsewhere")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                wrong.append(f"{where} does not exist")
            elif parts.fragment and unquote(parts.fragment) not in read[target].ids:
                wrong.append(f"{where} has no such place")
    return wrong


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; yields the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

        def handle(self) -> None:
            with suppress(ConnectionError):  # the next page was opened in the meantime
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Visit:
    """Opens pages in a browser and collects what is wrong with them."""

    def __init__(self, browser: Any, address: str, scheme: str = "light", width: int = 1400):
        self.address = address
        self.wrong: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self._add(str(error)))
        self.page.on("request", self._asked)
        self.page.on("requestfailed", self._failed)
        self.name = ""

    def _add(self, text: str) -> None:
        self.wrong.append(f"{self.name}: {text}")

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self._add(f"console: {message.text}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self._add(f"request: {request.url}")

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # the next page was opened in the meantime
            self._add(f"not loaded: {request.url}")

    def open(self, name: str, axe: bool = False) -> None:
        """Open a page of the site, and check it with axe."""
        self.name = name
        self.page.goto(f"{self.address}/{name}", wait_until="load")
        if axe:
            self._check()

    def _check(self) -> None:
        from axe_playwright_python.sync_playwright import Axe

        # axe would read the style sheets once more, which is not allowed from the disk.
        options = {"resultTypes": ["violations"], "preload": False}
        results = Axe().run(self.page, options=options)
        for violation in results.response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:150] for node in violation["nodes"]]
                self._add(f"axe: {violation['id']} in {len(nodes)}: {nodes[0]}")

    def overflows(self) -> bool:
        """Whether the page is wider than the window."""
        return bool(
            self.page.evaluate(
                "document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"
            )
        )

    def close(self) -> list[str]:
        """Close the page; return all that was wrong."""
        self.context.close()
        return self.wrong


def check(browser: Any, site: Path) -> list[str]:
    """All that is wrong with a site, in both colour schemes, from the disk and from a server."""
    wrong = dead_links(site)
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    if size > LARGEST:
        wrong.append(f"the site has {size / 1e6:.0f} MB")
    for scheme in ("light", "dark"):
        visit = Visit(browser, site.resolve().as_uri(), scheme)
        for name in pages(site):
            visit.open(name, axe=True)
        wrong += visit.close()
    with served(site) as address:
        visit = Visit(browser, address, width=390)
        for name in pages(site):
            visit.open(name)
            if visit.overflows():
                wrong.append(f"{name}: wider than a phone")
        wrong += visit.close()
    return wrong


def main() -> None:
    """Check a site."""
    from playwright.sync_api import sync_playwright

    site = Path(sys.argv[1])
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        wrong = check(browser, site)
    print("\n".join(wrong) or f"{len(pages(site))} pages: nothing wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
