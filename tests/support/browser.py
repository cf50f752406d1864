"""A real browser: Debian's Chromium, driven by Playwright. `.ci/run` installs it."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM: Final = shutil.which("chromium")
TIMEOUT_MILLISECONDS: Final = 15_000
_OPTIONS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

requires_chromium: Final = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium on the PATH; the gate installs Debian's"
)


@contextmanager
def running_browser() -> Generator[Browser]:
    """Start the browser without a window, and end it afterwards."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*_OPTIONS])
        try:
            yield browser
        finally:
            browser.close()
