"""The console of two workers in a real browser: all calls, their words and sound, and one lost."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from playwright.async_api import Page, expect
from structlog.testing import capture_logs

from gateway.settings import Agent, Settings
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan
from gateway.simulator.callreport import CallReport
from gateway.simulator.server import Simulator, SimulatorOptions, start_simulator
from gateway.workers import Crew, open_workers
from tests.running import metric, ops_url_of, settings_for, url_of
from tests.web.browser import Watched, chromium, keep_picture, new_page, opened_browser
from tests.web.test_console_page import ACT, LISTEN, SAYS, SCRIPT, is_loud

pytestmark = [pytest.mark.xdist_group("chromium"), pytest.mark.skipif(not chromium(), reason="")]


async def test_the_room_of_two_workers(tmp_path: Path) -> None:
    """Calls of both are seen, read along, heard, ended and placed from one page; a lost one shows.

    One story, for processes and a browser take seconds to start.
    """
    script = tmp_path / "script.toml"
    script.write_text(SCRIPT)
    simulator = await start_simulator(SimulatorOptions(script=script))
    try:
        with capture_logs():
            async with (
                open_workers(_settings(simulator, tmp_path)) as crew,
                opened_browser(Path(shipped_sound("caller.wav"))) as browser,
            ):
                context = await browser.new_context()
                await context.grant_permissions(["microphone"], origin=ops_url_of(crew))
                watched = await new_page(context)
                await _story(crew, watched)
    finally:
        await simulator.close()

    assert watched.hosts == {ops_url_of(crew).removeprefix("http://")}
    # The browser itself says that a line broke: the one to the call of the dead worker.
    assert not [words for words in watched.complaints if "ERR_INCOMPLETE" not in words]


def _settings(simulator: Simulator, folder: Path) -> Settings:
    settings = settings_for(
        simulator,
        GATEWAY_WORKERS="2",
        GATEWAY_CONSOLE_TOKEN=ACT,
        GATEWAY_CONSOLE_LISTEN_TOKEN=LISTEN,
        GATEWAY_LISTEN_IN="1",
        GATEWAY_SOFTPHONE="1",
        GATEWAY_DATABASE_URL=f"sqlite:///{folder}/calls.db",
    )
    agents = {"default": Agent(transcription={"model": "simulated"})}
    return settings.model_copy(update={"agents": agents})


async def _story(crew: Crew, watched: Watched) -> None:
    page = watched.page
    await page.goto(f"{ops_url_of(crew)}/console")
    await page.fill("#token", LISTEN)
    await page.click("text=Log in")
    await expect(page.locator("#status-text")).to_have_text("Live")
    callers = [_phone(crew, number) for number in range(4)]
    await expect(page.locator("#now li")).to_have_count(4)
    assert {crew._desk.calls_of(pid) for pid in crew._pids()} == {2}
    await _reads_and_hears(crew, page)
    await page.click("#hang-up")
    await page.click("#ask-yes")
    await expect(page.locator("#call-state")).to_have_text("Ended by an operator")
    await expect(page.locator("#now li")).to_have_count(3)
    await _loses_a_worker(crew, page)
    await _talks(crew, page)
    await crew.stop()
    await asyncio.gather(*callers, return_exceptions=True)


def _phone(crew: Crew, number: int) -> "asyncio.Task[CallReport]":
    parameters = {"from": f"+1555010000{number}", "to": "+15550100009"}
    plan = CallPlan(says=SAYS, hang_up_after_s=60, parameters=parameters)
    return asyncio.create_task(place_call(f"{url_of(crew)}/twilio/media", plan))


async def _reads_and_hears(crew: Crew, page: Page) -> None:
    """A call of one worker, then one of the other."""
    for place in (1, 4):
        await page.click(f"#now li:nth-child({place}) a")
        await expect(page.locator("#talk")).to_contain_text("this is the town hall")
    await page.click("#listen")
    await expect(page.locator("#listened")).to_have_text("1 person listens in to this call.")
    assert await is_loud(page, "agent")
    assert await metric(crew, "gateway_listeners") == 1
    await keep_picture(page, "overview-listen-desktop-light")
    await page.click("#listen")
    await expect(page.locator("#listened")).to_be_hidden()


async def _loses_a_worker(crew: Crew, page: Page) -> None:
    """The call that is looked at breaks off, and the page says so by itself."""
    await page.click("#now li:nth-child(1) a")
    await expect(page.locator("#hang-up")).to_be_visible()
    shown = await page.inner_text("#call-id")
    overview = crew.overview
    assert overview is not None
    victim = overview.directory.worker_of(shown)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    await expect(page.locator("#call-state")).to_have_text("Our own fault", timeout=20_000)
    await expect(page.locator("#wrongs")).to_contain_text("its worker died")
    await expect(page.locator("#status-text")).to_have_text("Live")
    await keep_picture(page, "overview-lost-desktop-light")


async def _talks(crew: Crew, page: Page) -> None:
    """The softphone, by the same login."""
    await page.click("nav >> text=Softphone")
    await page.wait_for_selector("#agent option", state="attached")
    await page.click("#start")
    await expect(page.locator("#talk")).to_contain_text("<< Session Started >>")
    await expect(page.locator("#talk .caller").first).to_be_visible(timeout=20_000)
    await expect(page.locator("#talk .agent").first).to_be_visible()
    active = 'gateway_calls_active{agent="default",provider="softphone"}'
    assert await metric(crew, active) == 1
    await page.click("#stop")
    await expect(page.locator("#state")).to_have_text("Call over")
