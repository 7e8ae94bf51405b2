"""A call that is recorded says so first: until that was heard nobody hears the caller."""

import pytest

from gateway.events import (
    AnnouncementHeard,
    AudioLost,
    CallReady,
    CallStopped,
    ClearAudio,
    CreateResponse,
    DialRealtime,
    DtmfReceived,
    LinkClosed,
    PlayAudio,
)
from gateway.states import Lifecycle
from tests.lab import Lab
from tests.scenes import PROMPT_MS, PROMPTS, appended, dropped_ms, end_of, placed, prompts, ringing

ANNOUNCED = {"prompts": PROMPTS | {"announcement": bytes(48 * PROMPT_MS)}}
# The sound, the phone's buffer and the way there and back.
HEARD_S = PROMPT_MS / 1000 + 0.1


def _heard_at(lab: Lab) -> float:
    """Let time pass until the announcement was heard."""
    while not lab.told(AnnouncementHeard):
        lab.run_for(0.01)
        assert lab.now < 10
    return lab.now


@pytest.mark.parametrize("echoes_marks", [True, False])
def test_the_announcement_is_heard_before_anything_else(echoes_marks: bool) -> None:  # noqa: FBT001
    """Played at once, while the session is set up; the greeting waits for its end."""
    lab = ringing(**ANNOUNCED, greeting="Hello.")
    lab.echoes_marks = echoes_marks
    assert lab.commanded(DialRealtime)
    lab.run_for(0.1)
    lab.open_session()
    assert (prompts(lab), lab.commanded(CreateResponse)) == (["announcement"], [])
    assert lab.told(CallReady) == []

    heard_at = _heard_at(lab)

    assert heard_at >= PROMPT_MS / 1000
    assert lab.call.lifecycle is Lifecycle.ACTIVE
    assert len(lab.commanded(CreateResponse)) == 1
    assert [ready.setup_s for ready in lab.told(CallReady)] == [pytest.approx(0.1)]


def test_nothing_the_caller_says_meanwhile_reaches_the_model() -> None:
    """Neither now nor later; what is said afterwards does, from the first frame."""
    lab = placed(**ANNOUNCED)
    lab.provider(AudioLost(40))
    lab.frames(10, b"\x11" * 160)
    _heard_at(lab)
    lab.frames(3, b"\x22" * 160)

    assert appended(lab) == b"\x22" * 480
    assert dropped_ms(lab, "up", "announcing") == 200


def test_a_session_that_comes_late_loses_nothing_said_after_it() -> None:
    """From the end of the announcement on the caller's audio is kept, as ever."""
    lab = ringing(**ANNOUNCED)
    lab.frames(5, b"\x11" * 160)
    _heard_at(lab)
    lab.frames(5, b"\x22" * 160)
    lab.open_session()

    assert appended(lab) == b"\x22" * 800


def test_a_key_does_not_cut_the_announcement() -> None:
    """It is no barge-in, and the model never hears of it."""
    lab = placed(**ANNOUNCED)
    lab.run_for(0.1)
    lab.provider(DtmfReceived("5"))
    _heard_at(lab)
    lab.run_for(5)

    assert lab.commanded(ClearAudio) == []
    assert len(lab.asked) == 2  # dialled and configured


def test_who_hangs_up_during_the_announcement_never_heard_it() -> None:
    """The call ends as any other."""
    lab = placed(**ANNOUNCED)
    lab.run_for(PROMPT_MS / 2000)
    lab.provider(CallStopped())

    assert lab.told(AnnouncementHeard) == []
    assert end_of(lab).termination.reason == "caller_hangup"


def test_a_session_lost_meanwhile_is_dialled_again_once() -> None:
    """However long ago it was ready; the second time somebody is told that nobody is there."""
    lab = placed(prompts=PROMPTS | {"announcement": bytes(48 * 9000)})
    lab.run_for(6)
    lab.realtime(LinkClosed(1006, ""))
    assert len(lab.commanded(DialRealtime)) == 2
    lab.open_session()
    _heard_at(lab)
    assert lab.call.lifecycle is Lifecycle.ACTIVE

    lab = placed(prompts=PROMPTS | {"announcement": bytes(48 * 9000)})
    for _ in range(2):
        lab.run_for(1)
        lab.realtime(LinkClosed(1006, ""))
        lab.open_session()
    assert prompts(lab) == ["announcement", "apology"]


def test_without_an_announcement_there_is_nothing_to_wait_for() -> None:
    """A call that is not recorded begins as ever."""
    lab = placed()

    assert lab.call.lifecycle is Lifecycle.ACTIVE
    assert lab.commanded(PlayAudio) == []
    assert lab.told(AnnouncementHeard) == []
