"""Debian's Chromium with a recording as its microphone, in the hands of a test."""

import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    ViewportSize,
    async_playwright,
)

ROOT = Path(__file__).parents[2]
# Screenshots and recordings of the last run, for people to look at and listen to.
ARTEFACTS = ROOT / ".artefacts"
WIDTHS: Mapping[str, ViewportSize] = {
    "desktop": {"width": 1280, "height": 900},
    "phone": {"width": 360, "height": 740},
}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def chromium() -> str:
    """The path of the browser; skips the test where there is none and none is demanded."""
    path = shutil.which("chromium")
    if path is None:
        missing = "chromium is not installed (Debian: apt-get install chromium)"
        if "chromium" in os.environ.get("GATEWAY_TESTS_REQUIRE", "").split(","):
            pytest.fail(missing)
        pytest.skip(missing)
    return path


@asynccontextmanager
async def opened_browser(microphone: Path) -> AsyncIterator[Browser]:
    """A browser without a window; its microphone, opened anew, plays a WAV file once."""
    sound = f"--use-file-for-fake-audio-capture={microphone}%noloop"
    async with async_playwright() as player:
        browser = await player.chromium.launch(
            executable_path=chromium(),
            # In a container root has no sandbox; there is no sound card.
            args=["--no-sandbox", "--use-fake-device-for-media-stream", sound],
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Watched:
    """A page, the hosts it asked, and what its console complained of."""

    page: Page
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note everything from now on."""
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("websocket", lambda socket: self._note(socket.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._console)

    def _note(self, url: str) -> None:
        # A blob is in the page itself.
        if not url.startswith(("blob:", "data:")):
            self.hosts.add(urlsplit(url).netloc)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


async def new_page(context: BrowserContext) -> Watched:
    """A page that is watched, on a desktop's screen by day."""
    watched = Watched(await context.new_page())
    await look_as(watched.page, "desktop", "light")
    watched.watch()
    return watched


async def look_as(page: Page, width: str, scheme: Literal["light", "dark"]) -> None:
    """On a screen of this size, by day or by night, with no colour half way to another."""
    await page.set_viewport_size(WIDTHS[width])
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")


async def keep_picture(page: Page, name: str) -> None:
    """A screenshot of the whole page among the artefacts."""
    ARTEFACTS.mkdir(exist_ok=True)
    await page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)
