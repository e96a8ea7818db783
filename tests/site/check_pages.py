"""python -m tests.site.check_pages SITE: the built site in a browser, on a phone and on a desk.

No page is wider than the phone, asks for anything elsewhere, or lacks a picture. The search finds,
and the front page comes to "More" within two screens.
"""

import contextlib
import functools
import http.server
import pathlib
import sys
import threading

from playwright.sync_api import sync_playwright

from tests import browser

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1440, "height": 1200}
SEARCHED = {"uniformity": "concepts/uniformity", "nt_xent": "losses", "SIGTERM": "hosts"}


class Silent(http.server.SimpleHTTPRequestHandler):
    """Files of a directory, without a line for each."""

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(site):
    """The address of the site, from a server on this machine."""
    handler = functools.partial(Silent, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def watched(context, address, faults):
    """A page whose errors, failures and requests to elsewhere are faults."""
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
    page.on(
        "response",
        lambda answer: answer.ok or answer.status == 304 or faults.append(f"no {answer.url}"),
    )
    own = (address, "data:", "blob:")
    page.on(
        "request",
        lambda asked: asked.url.startswith(own) or faults.append(f"{page.url} asks {asked.url}"),
    )
    return page


site = pathlib.Path(sys.argv[1])
pages = sorted(path.relative_to(site) for path in site.rglob("index.html"))
assert len(pages) > 50, f"only {len(pages)} pages"
faults: list[str] = []
with served(site) as address, sync_playwright() as playwright:
    chromium = playwright.chromium.launch(
        executable_path=browser.executable(), args=["--no-sandbox"]
    )
    page = watched(chromium.new_context(viewport=PHONE), address, faults)
    for path in pages:
        page.goto(f"{address}{path.parent.as_posix()}/".replace("/./", "/"))
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > PHONE["width"]:
            faults.append(f"{path.parent}: {wide} pixels wide on a phone")
    page = watched(chromium.new_context(viewport=DESK), address, faults)
    page.goto(address)
    top, end = (page.locator(at).bounding_box()["y"] for at in ("article h1", "h2#more"))
    more = end - top
    print(f"README: {more / DESK['height']:.2f} screens before More")
    if more > 2 * DESK["height"]:
        faults.append("README: more than two screens before More")
    for words, found in SEARCHED.items():
        page.goto(address)
        page.keyboard.press("/")
        page.keyboard.type(words)
        page.wait_for_selector(".md-search-result__item a")
        links = page.locator(".md-search-result__link").evaluate_all("all => all.map(a => a.href)")
        if not any(found in link for link in links[:5]):
            faults.append(f"the search for {words} finds {links[:5]}")
    chromium.close()
assert not faults, "\n".join(faults)
print(f"{len(pages)} pages fit a phone, ask for nothing elsewhere, and are found")
