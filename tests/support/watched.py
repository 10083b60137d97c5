"""A real browser on the console, and a page of it that must raise no error and violate no policy."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from console.words import CATALOGUES
from tests.support.machine import CHROMIUM_NAMES
from tests.support.running_host import RunningHost

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=OPTIONS)
        yield started
        started.close()


class Watched:
    """A page that must raise no error and violate no policy."""

    def __init__(self, browser: Browser, language: str, **options: Any) -> None:
        self.language = language
        self.words = CATALOGUES[language]
        self.context = browser.new_context(locale="ja-JP" if language == "ja" else "en-US", **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def look(self, name: str, at: str) -> None:
        """The page is accessible, in the reader's language, and untouched by what the Pack wrote."""
        page = self.page
        page.wait_for_url(re.compile(re.escape(f"/_rumi/{at}") + "$"))
        assert page.evaluate("document.documentElement.lang") == self.language
        assert "owned" not in page.title()
        assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), f"{name} is wider than the window"
        self.shot(name)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()

    def shot(self, name: str) -> None:
        shots = os.environ.get("RUMI_SHOTS")
        if shots:
            self.page.screenshot(path=f"{shots}/{name}-{self.language}.png", full_page=True)

    def click(self, word: str) -> None:
        self.page.get_by_role("button", name=self.words[word], exact=True).first.click()


def opened(host: RunningHost, browser: Browser, language: str, **options: Any) -> Watched:
    made = Watched(browser, language, **options)
    made.page.goto(Path(host.ok("POST", "/api/console/open")["path"]).as_uri())
    if options.get("java_script_enabled") is False:
        made.page.get_by_role("button").click()
    expect(made.page.get_by_role("heading", level=1)).to_have_text(made.words["overview"])
    return made
