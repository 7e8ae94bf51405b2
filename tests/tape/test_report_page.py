"""The page of a taped call in a real browser: places, sound, no request, and how it looks."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from gateway.tape.report import report_html
from gateway.tape.story import story_of
from tests.running import ROOT
from tests.tape.test_report import told
from tests.web.browser import (
    SCHEMES,
    WIDTHS,
    Watched,
    keep_picture,
    look_as,
    new_page,
    opened_browser,
)

CHECKS = (ROOT / "tests" / "web" / "page_checks.js").read_text("utf-8")
# Screens have whole pixels, and browsers round to 64ths of one.
PIXEL = 0.6
AA = 4.5
EVIL = "<img src=http://127.0.0.1:9/x onerror=alert(1)><script>alert(2)</script>"

pytestmark = [pytest.mark.xdist_group("chromium"), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests of this file."""
    async with opened_browser(ROOT / "tests" / "sounds" / "caller-short.wav") as browser:
        yield browser


@pytest.fixture(scope="module")
def shown(file: Path) -> Any:
    """What that page was given to show."""
    return told(file.read_text("utf-8"))


@pytest.fixture(scope="module")
def spoiled(file: Path, shown: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same page, with markup for words."""
    safe = EVIL.replace("<", "\\u003c").replace(">", "\\u003e")
    text = file.read_text("utf-8").replace(
        f'"text":"{shown["rows"][0]["text"]}"', f'"text":"{safe}"'
    )
    path = tmp_path_factory.mktemp("evil") / "call.html"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture(scope="module")
def file(call_on_tape: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a call with an interruption."""
    path = tmp_path_factory.mktemp("page") / "call.html"
    path.write_text(report_html(call_on_tape), "utf-8")
    return path


@pytest_asyncio.fixture(loop_scope="module")
async def opened(browser: Browser, file: Path) -> AsyncIterator[Watched]:
    """The page, with its sound ready."""
    context = await browser.new_context()
    watched = await new_page(context)
    await watched.page.goto(file.as_uri())
    await _until(watched.page, "sound.readyState >= 2")
    yield watched
    await context.close()
    assert watched.hosts <= {""}, "a request left the page"
    assert watched.complaints == []


async def _until(page: Page, condition: str) -> None:
    """Wait for it as the page's policy allows: without code made from text."""
    look = f"{condition} ? done() : requestAnimationFrame(look)"
    await page.evaluate(f"() => new Promise((done) => {{const look = () => {look}; look();}})")


_PLACES = """lane => {
  const zero = track.getBoundingClientRect().left + gutter;
  return [...document.querySelectorAll(`[data-lane="${lane}"] [data-start]`)].map((element) => {
    const box = element.getBoundingClientRect();
    return [(box.left - zero) / pxPerS, box.width / pxPerS, 1 / pxPerS];
  });
}"""


# How many pixels of the agent's wave are painted at each of these times.
_HEIGHTS = """times => {
  const ratio = window.devicePixelRatio, rows = WAVE_PX * ratio;
  const top = (AXIS_PX + WAVE_PX) * ratio, pen = waves.getContext("2d");
  const picture = pen.getImageData(0, top, waves.width, rows).data;
  return times.map((t) => {
    const at = Math.round((x(t) - view.scrollLeft) * ratio);
    let found = 0;
    for (let row = 0; row < rows; row += 1) {
      if (picture[(row * waves.width + at) * 4 + 3] > 200) found += 1;
    }
    return found;
  });
}"""


@pytest.mark.parametrize("zooms", [0, 3])
async def test_what_was_heard_stands_where_the_ledger_says(
    opened: Watched, call_on_tape: Path, zooms: int
) -> None:
    """Each bar's place and length in pixels, at any zoom, is that of the story."""
    for _ in range(zooms):
        await opened.page.click("#zoom-in")
    heard = [times for speech in story_of(call_on_tape).agent for times in speech.heard]

    places = await opened.page.evaluate(_PLACES, "playout")

    assert len(places) == len(heard) >= 3
    for (left_s, width_s, pixel_s), (start_s, end_s) in zip(places, heard, strict=True):
        assert left_s == pytest.approx(start_s, abs=PIXEL * pixel_s)
        assert width_s == pytest.approx(end_s - start_s, abs=max(PIXEL * pixel_s, 2 * pixel_s))


async def test_the_wave_is_drawn_where_the_sound_is(opened: Watched, call_on_tape: Path) -> None:
    """Pixels of the agent's colour in the middle of what was heard, a bare line elsewhere."""
    story = story_of(call_on_tape)
    heard = [times for speech in story.agent for times in speech.heard]
    times = [start + (end - start) * part for start, end in heard for part in (0.3, 0.5, 0.6)]

    *loud, before = await opened.page.evaluate(_HEIGHTS, [*times, heard[0][0] / 2])

    assert max(loud) > 20
    assert before <= 2


async def test_the_sound_plays(opened: Watched) -> None:
    """The button starts it, time moves, the cursor with it; a click in the picture seeks."""
    page = opened.page
    await page.click("#play")
    await _until(page, "sound.currentTime > 0.2")
    assert await page.inner_text("#play") == "Pause"
    await page.click("#play")
    moved = await page.evaluate("[sound.currentTime, parseFloat($('cursor').style.left)]")
    assert moved[1] == pytest.approx(await page.evaluate("x(sound.currentTime)"), abs=1)

    await page.evaluate("view.scrollLeft = 0")
    at = await page.evaluate("x(3.0)")
    await page.click("#view", position={"x": at, "y": 60})
    assert await page.evaluate("sound.currentTime") == pytest.approx(3.0, abs=0.05)
    await page.select_option("#speed", "2")
    assert await page.evaluate("sound.playbackRate") == 2


async def test_the_sound_has_its_energy_where_it_was_heard(
    opened: Watched, call_on_tape: Path
) -> None:
    """What the browser decodes, not what we meant: each voice in its channel, silence between."""
    story = story_of(call_on_tape)
    decoded = await opened.page.evaluate(
        """async () => {
          const context = new OfflineAudioContext(2, 8000, 8000);
          const buffer = await context.decodeAudioData(bytes(story.sound.base64).buffer);
          const step = Math.round(buffer.sampleRate / 50);
          return [0, 1].map((channel) => {
            const data = buffer.getChannelData(channel), found = [];
            for (let n = 0; n + step <= data.length; n += step) {
              let sum = 0;
              for (let k = n; k < n + step; k += 1) sum += data[k] * data[k];
              found.push(Math.sqrt(sum / step));
            }
            return found;
          });
        }"""
    )
    levels = np.array(decoded[1])
    inside = np.zeros(levels.size, bool)
    near = np.zeros(levels.size, bool)
    for speech in story.agent:
        for start, end in speech.heard:
            inside[int(start * 50) : int(end * 50)] = True
            near[max(0, int((start - 0.1) * 50)) : int((end + 0.15) * 50)] = True

    assert levels[inside].mean() > 0.02
    assert levels[~near].max() < 0.005
    assert decoded[0] != decoded[1]


async def test_a_click_on_words_goes_there(opened: Watched, shown: Any) -> None:
    """Each line of the conversation is a button; the line that is heard is marked."""
    rows = shown["rows"]
    await opened.page.click("#words li:nth-child(3) button")

    await _until(opened.page, "!sound.seeking")
    at = await opened.page.evaluate("sound.currentTime")
    assert at == pytest.approx(rows[2]["t"], abs=0.05)
    assert await opened.page.locator("#words li.now").count() == 1
    struck = await opened.page.locator("#words del").all_inner_texts()
    assert struck == [row["unheard"] for row in rows if row["unheard"]]


async def test_the_keyboard_is_enough(opened: Watched) -> None:
    """Space plays, arrows seek, plus and minus zoom; the slider tells where one is."""
    page = opened.page
    await page.keyboard.press("Space")
    await _until(page, "!sound.paused")
    await page.keyboard.press("Space")
    await _until(page, "sound.paused")
    before = await page.evaluate("[sound.currentTime, pxPerS]")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("+")
    after = await page.evaluate("[sound.currentTime, pxPerS]")

    assert after[0] == pytest.approx(before[0] + 2, abs=0.1)
    assert after[1] > before[1]
    assert (await page.get_attribute("#position", "aria-valuetext") or "").startswith("0:0")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", list(WIDTHS))
async def test_it_can_be_read_on_any_screen_by_day_and_by_night(
    opened: Watched, width: str, scheme: str
) -> None:
    """Contrast as WCAG AA asks, a name for everything that can be used, nothing sticks out."""
    assert scheme in SCHEMES
    await look_as(opened.page, width, "dark" if scheme == "dark" else "light")
    await opened.page.evaluate("seek(3)")
    await keep_picture(opened.page, f"tape-report-{width}-{scheme}")

    faint = [
        [ratio, element]
        for ratio, element in await opened.page.evaluate(f"() => {{{CHECKS}; return contrasts();}}")
        if ratio < AA
    ]
    assert faint == []
    assert await opened.page.evaluate(f"() => {{{CHECKS}; return unnamed();}}") == []
    assert await opened.page.evaluate(f"() => {{{CHECKS}; return overflow();}}") <= 0


async def test_markup_stays_text_in_the_browser(browser: Browser, spoiled: Path) -> None:
    """What a caller said runs nothing, and the policy would not let it."""
    context = await browser.new_context()
    watched = await new_page(context)
    await watched.page.goto(spoiled.as_uri())

    assert EVIL in await watched.page.inner_text("#words")
    assert await watched.page.locator("#words img").count() == 0
    async with watched.page.expect_console_message() as said:
        await watched.page.evaluate("new Image().src = 'http://127.0.0.1:9/x'")
    assert "Content Security Policy" in (await said.value).text
    await context.close()
