"""The console in a real browser: a call while it runs, its words as text, its end by a button."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Browser, Page, expect
from structlog.testing import capture_logs

from gateway.app import Running
from gateway.audio.wav import read_wav
from gateway.events import CallEnded, ItemPlayed
from gateway.settings import Agent
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan, Utterance, When
from gateway.simulator.callreport import CallReport
from gateway.simulator.server import SimulatorOptions, start_simulator
from tests.running import Facts, metric, ops_url_of, settings_for, url_of, watched_gateway
from tests.web.browser import Watched, chromium, keep_picture, look_as, new_page, opened_browser

RATE_HZ = 24_000
BYTES_PER_MS = RATE_HZ // 1000 * 2
VIEW, ACT, LISTEN = "v" * 32, "o" * 32, "l" * 32
MARKUP = "<b onclick=alert(1)>bold</b><img src=x onerror=alert(2)>"

pytestmark = [pytest.mark.xdist_group("chromium"), pytest.mark.skipif(not chromium(), reason="")]

SCRIPT = f"""
[[turn]]
after = "create"
say = "Good morning, this is the town hall. How can I help you today?"
text = "Good morning, this is the town hall. How can I help you today?"
[[turn]]
after = "speech"
hears = "Good morning. When is the recycling yard open on {MARKUP} Saturdays?"
say = "It is open from eight in the morning until two in the afternoon. Please bring your card."
text = "It is open from eight in the morning until two in the afternoon. Please bring your card."
[[turn]]
after = "speech"
hears = "Thank you, and on Sundays?"
say = "On Sundays it is closed {MARKUP}."
text = "On Sundays it is closed {MARKUP}."
"""


def _sentence(start_ms: int, end_ms: int, when: When) -> Utterance:
    pcm = read_wav(shipped_sound("caller.wav"), RATE_HZ)
    return Utterance(pcm[start_ms * BYTES_PER_MS : end_ms * BYTES_PER_MS], RATE_HZ, when)


# Asks, then interrupts the answer, then listens.
SAYS = (
    _sentence(4300, 6900, When("agent_stops", 0.4)),
    _sentence(7500, 9180, When("agent_starts", 1.5)),
)


@dataclass
class _Scene:
    """A gateway with a console, a model with a script, and a browser."""

    running: Running
    facts: Facts
    browser: Browser

    @property
    def url(self) -> str:
        return ops_url_of(self.running)

    async def page(
        self,
        width: str = "desktop",
        scheme: Literal["light", "dark"] = "light",
        token: str = LISTEN,
    ) -> Watched:
        """The console's page, logged in; as one who may listen, if nothing else is said."""
        watched = await new_page(await self.browser.new_context())
        await look_as(watched.page, width, scheme)
        await watched.page.goto(f"{self.url}/console")
        await watched.page.fill("#token", token)
        await watched.page.click("text=Log in")
        await expect(watched.page.locator("#status-text")).to_have_text("Live")
        return watched

    async def end(self, *callers: "asyncio.Task[CallReport]") -> None:
        """These calls are over."""
        assert self.running.gateway.console is not None
        for line in list(self.running.gateway.console.lines.values()):
            line.hang_up()
        await asyncio.gather(*callers)

    def phone(self, number: str = "+15550100001") -> "asyncio.Task[CallReport]":
        """Somebody calls."""
        plan = CallPlan(
            says=SAYS,
            hang_up_after_s=60,
            parameters={"from": number, "to": "+15550100002"},
        )
        return asyncio.create_task(place_call(f"{url_of(self.running)}/twilio/media", plan))


@asynccontextmanager
async def _scene(folder: Path) -> AsyncIterator[_Scene]:
    script = folder / "script.toml"
    script.write_text(SCRIPT)
    simulator = await start_simulator(SimulatorOptions(script=script))
    changes = {
        "GATEWAY_CONSOLE_VIEW_TOKEN": VIEW,
        "GATEWAY_CONSOLE_TOKEN": ACT,
        "GATEWAY_CONSOLE_LISTEN_TOKEN": LISTEN,
        "GATEWAY_LISTEN_IN": "1",
        "GATEWAY_DATABASE_URL": f"sqlite:///{folder}/calls.db",
    }
    agents = {"default": Agent(transcription={"model": "simulated"})}
    settings = settings_for(simulator, **changes).model_copy(update={"agents": agents})
    try:
        with capture_logs():
            async with (
                watched_gateway(settings) as (running, facts),
                opened_browser(Path(shipped_sound("caller.wav"))) as browser,
            ):
                yield _Scene(running, facts, browser)
    finally:
        await simulator.close()


async def test_a_call_is_shown_while_it_runs_and_hung_up(tmp_path: Path) -> None:
    """Who calls, both states, words said and heard and missed, timings; then a button ends it."""
    async with _scene(tmp_path) as scene:
        watched = await scene.page()
        page = watched.page
        caller = scene.phone()
        await page.click("#now li a")
        await expect(page.locator("#call-title")).to_have_text("+*******0001")
        await expect(page.locator("#talk")).to_contain_text("this is the town hall")
        await scene.facts.wait_for(ItemPlayed, 2, within_s=40)
        await expect(page.locator("#talk")).to_contain_text("When is the recycling yard open")
        await expect(page.locator("#talk .unheard").last).not_to_be_empty()
        await expect(page.locator("#timings li")).not_to_have_count(0)
        await expect(page.locator("#facts")).to_contain_text("Interruptions1")
        # What was said and what was heard of it are apart, in the words of the ledger.
        cut = scene.facts.of(ItemPlayed)[1]
        assert cut.unheard
        entry = page.locator("#talk .agent", has_text="interrupted")
        await expect(entry.locator(".said").first).to_have_text(cut.text)
        await expect(entry.locator(".unheard")).to_contain_text(cut.unheard)
        await keep_picture(page, "console-call-desktop-light")
        await page.click("#hang-up")
        await expect(page.locator("#ask")).to_contain_text("Hang up this call?")
        await keep_picture(page, "console-ask-desktop-light")
        await page.click("#ask-yes")
        await expect(page.locator("#call-state")).to_have_text("Ended by an operator")
        await expect(page.locator("#lately li")).to_have_count(1)
        await caller

    (ended,) = scene.facts.of(CallEnded)
    assert ended.termination.reason == "operator_hangup"
    assert watched.hosts == {scene.url.removeprefix("http://")}
    assert not watched.complaints


async def test_a_viewer_has_no_buttons(tmp_path: Path) -> None:
    """Words, states and timings are there; nothing to hang up, listen or erase with."""
    async with _scene(tmp_path) as scene:
        watched = await scene.page(token=VIEW)
        page = watched.page
        caller = scene.phone()
        await page.click("#now li a")
        await expect(page.locator("#talk")).to_contain_text("this is the town hall")
        await expect(page.locator(".bar")).to_contain_text("Logged in as viewer")
        going_on = await page.locator("#actions > :visible").count()
        await keep_picture(page, "console-viewer-desktop-light")
        await scene.end(caller)
        await expect(page.locator("#call-state")).to_have_text("Ended by an operator")
        over = await page.locator("#actions > :visible").count()

        operator = (await scene.page(token=ACT)).page
        await operator.click("#lately li a")
        await expect(operator.locator("#erase")).to_be_visible()

    assert (going_on, over) == (0, 0)
    assert not watched.complaints


async def test_markup_is_text(tmp_path: Path) -> None:
    """In a number, in a caller's words, in the agent's: shown, never obeyed."""
    async with _scene(tmp_path) as scene:
        watched = await scene.page()
        page = watched.page
        caller = scene.phone(MARKUP)
        await page.click("#now li a")
        await expect(page.locator("#talk .caller").first).to_contain_text(MARKUP, timeout=20_000)
        await expect(page.locator("#talk .agent").last).to_contain_text(MARKUP, timeout=20_000)
        inside = await page.locator("main :is(b, img)").count()
        await scene.end(caller)

    assert inside == 0
    assert not watched.complaints


async def test_somebody_listens_in(tmp_path: Path) -> None:
    """Both sides are heard as they speak; the page and the metrics say that somebody listens."""
    async with _scene(tmp_path) as scene:
        watched = await scene.page()
        page = watched.page
        caller = scene.phone()
        await page.click("#now li a")
        await page.click("#listen")
        await expect(page.locator("#listened")).to_have_text("1 person listens in to this call.")
        for side in ("agent", "caller"):
            assert await is_loud(page, side)
        listeners = await metric(scene.running, "gateway_listeners")
        await keep_picture(page, "console-listen-desktop-light")
        await page.click("#listen")
        await expect(page.locator("#listened")).to_be_hidden()
        await scene.end(caller)
        listened = await metric(scene.running, 'gateway_listen_ins_total{result="ended"}')

    assert (listeners, listened) == (1, 1)
    assert not watched.complaints


async def test_who_turns_to_another_call_does_not_hear_the_one_before(tmp_path: Path) -> None:
    """Not even when listening had only just been asked for: the page shows the other call."""
    async with _scene(tmp_path) as scene:
        watched = await scene.page()
        page = watched.page
        callers = [scene.phone(f"+1555010000{number}") for number in range(2)]
        await expect(page.locator("#now li")).to_have_count(2)
        await page.click("#now li:nth-child(1) a")
        await expect(page.locator("#listen")).to_be_visible()
        await page.evaluate(ASK_AND_TURN)
        await expect(page.locator("#listen")).to_be_enabled()
        await expect(page.locator("#listen")).to_have_attribute("aria-pressed", "false")
        await expect(page.locator("#ears")).to_be_hidden()
        assert await _nobody_listens(scene)
        # An address that is none is no reason to stop either.
        await page.evaluate("() => { location.hash = '#%'; }")
        await expect(page.locator("#choose")).to_be_visible()
        await scene.end(*callers)

    assert not watched.complaints


ASK_AND_TURN = """() => {
    document.querySelector("#listen").click();
    document.querySelector("#now li:nth-child(2) a").click();
}"""


async def _nobody_listens(scene: _Scene) -> bool:
    for _ in range(100):
        if await metric(scene.running, "gateway_listeners") == 0:
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("width", "scheme"), [("desktop", "dark"), ("phone", "light"), ("phone", "dark")]
)
async def test_it_fits_every_screen(
    tmp_path: Path, width: str, scheme: Literal["light", "dark"]
) -> None:
    """Nothing sticks out, and on a phone the list and the call take turns."""
    async with _scene(tmp_path) as scene:
        watched = await scene.page(width, scheme)
        page = watched.page
        assert scene.running.gateway.console is not None
        callers = [scene.phone(f"+1555010000{number}") for number in range(3)]
        await expect(page.locator("#now li")).to_have_count(3)
        await scene.facts.wait_for(ItemPlayed, 3, within_s=40)
        first = next(iter(scene.running.gateway.console.lines.values()))
        first.hang_up()
        await expect(page.locator("#lately li")).to_have_count(1)
        await keep_picture(page, f"console-list-{width}-{scheme}")
        is_wide = await page.evaluate("document.documentElement.scrollWidth > innerWidth")
        await page.focus("#now li a")
        await page.keyboard.press("Enter")
        await expect(page.locator("#call-title")).to_be_focused()
        await keep_picture(page, f"console-call-{width}-{scheme}")
        is_wide |= await page.evaluate("document.documentElement.scrollWidth > innerWidth")
        await scene.end(*callers)

    assert not is_wide
    assert not watched.complaints


async def is_loud(page: Page, side: str) -> bool:
    """Whether something is heard of a side; the page's policy lets no script into it from here."""
    for _ in range(400):
        if await page.evaluate("(id) => document.getElementById(id).value", f"level-{side}") > 20:
            return True
        await asyncio.sleep(0.05)
    return False
