"""A real browser without a window, for the pages that this package writes."""

import contextlib
import os
import shutil

import pytest


def executable():
    """Where the browser is; .ci/run installs one, elsewhere its tests say that they need it."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        absent = "needs chromium, such as Debian's package of that name"
        pytest.fail(absent) if os.environ.get("CI") else pytest.skip(absent)
    return found


@contextlib.contextmanager
def opened(path, *, width=1280, height=900, **options):
    """A page from disk, once it says that it is ready; whatever it asks for or complains of fails.

    Args:
        path: of the page.
        width: of the window.
        height: of the window.
        **options: of a context of playwright, such as `color_scheme`.
    """
    from playwright.sync_api import sync_playwright

    faults = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        size = {"width": width, "height": height}
        page = browser.new_context(viewport=size, **options).new_page()
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on(
            "console",
            lambda said: said.type in ("error", "warning") and faults.append(said.text),
        )
        own = (path.as_uri(), "data:", "blob:")
        page.on(
            "request",
            lambda request: request.url.startswith(own) or faults.append(f"asks: {request.url}"),
        )
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        yield page
        browser.close()
    assert not faults, faults
