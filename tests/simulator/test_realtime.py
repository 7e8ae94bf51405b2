"""A session of the simulated service on a fixed clock: event order, turns, races, faults."""

import base64
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulator.agents import HELLO_TEXT, Call, Script, Scripted, Turn, prompt
from gateway.simulator.mishaps import CloseSocket
from gateway.simulator.plan import Pace
from tests.simulator.desk import (
    AZURE,
    GA,
    PREVIEW,
    VOICE_LIVE,
    Desk,
    coded,
    loud,
    quiet,
)

DELTA = "response.output_audio.delta"
STARTED = "input_audio_buffer.speech_started"
STOPPED = "input_audio_buffer.speech_stopped"
SPOKEN_RESPONSE = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    DELTA,
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]
VAD_500 = {"type": "server_vad", "silence_duration_ms": 500}


def _without_deltas(desk: Desk) -> list[str]:
    return [kind for kind in desk.types if not kind.endswith(".delta")]


def _calling(*calls: str) -> Scripted:
    turn = Turn(calls=tuple(Call(name, {"n": 1}) for name in calls))
    return Scripted(Script((turn, Turn(text="Done."))))


# -- the life of a session


def test_a_session_begins_by_itself() -> None:
    """session.created is first, and shows what was recorded of the real service."""
    desk = Desk()

    session = desk.one("session.created")["session"]

    assert desk.types == ["session.created"]
    assert session["expires_at"] == 3600
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200


def test_the_preview_session_is_flat() -> None:
    """The preview dialect shows its own members."""
    session = Desk(PREVIEW).one("session.created")["session"]

    assert session["modalities"] == ["audio", "text"]
    assert session["input_audio_format"] == "pcm16"
    assert "idle_timeout_ms" not in session["turn_detection"]


def test_a_refused_update_changes_nothing() -> None:
    """One error that names member and client event; the session is as it was."""
    desk = Desk()

    desk.send("session.update", event_id="mine", session={"type": "realtime", "voice": "marin"})

    error = desk.one("error")["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", "session.voice")
    assert error["event_id"] == "mine"
    assert desk.session.options["audio.output.voice"] == "alloy"


def test_the_voice_is_frozen_once_it_was_heard() -> None:
    """After the first audio another voice is refused, other options are not."""
    desk = Desk()
    desk.send("response.create")
    desk.wait(5)

    desk.configure(audio={"output": {"voice": "marin"}})
    desk.configure(instructions="Be brief.")

    assert desk.one("error")["error"]["code"] == "cannot_update_voice"
    assert desk.one("session.updated")["session"]["instructions"] == "Be brief."


def test_the_model_cannot_be_changed() -> None:
    """Another model is refused, the same one is not."""
    desk = Desk()

    desk.configure(model="other")
    desk.configure(model="gpt-realtime")

    assert desk.types == ["session.created", "error", "session.updated"]


def test_a_session_expires() -> None:
    """At its limit comes an error, then the close."""
    desk = Desk(faults=["expires_after_s=120"])

    desk.wait(120)

    error = desk.one("error")["error"]
    assert error["code"] == "session_expired"
    assert error["message"] == "Your session hit the maximum duration of 2 minutes."
    assert desk.session.closing == CloseSocket(1001, error["message"])
    assert desk.session.next_timer() is None


@pytest.mark.parametrize(
    "message",
    ["", "{", "[]", "null", b"\xff\xfe", "{}", '{"type": 1}', '{"type": "no.such"}', "[" * 200_000],
)
def test_nonsense_is_one_error(message: str | bytes) -> None:
    """Whatever is not a known event is answered by invalid_event."""
    desk = Desk()

    desk.post(message)

    assert desk.one("error")["error"]["code"] == "invalid_event"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_MEMBERS = ("session", "audio", "item", "item_id", "content_index", "audio_end_ms", "response",
            "response_id", "previous_item_id", "event_id")  # fmt: skip
_KINDS = sorted(Desk().session._requests)


@given(st.sampled_from(_KINDS), st.dictionaries(st.sampled_from(_MEMBERS), _JSON))
@settings(max_examples=200, deadline=None)
def test_no_client_event_breaks_a_session(kind: str, members: dict[str, object]) -> None:
    """Known events with any members at all are answered or refused, never an exception."""
    desk = Desk(is_judged=False)

    desk.send(kind, **members)
    desk.wait(1)
    desk.forget()
    desk.configure()

    assert "session.updated" in desk.types


# -- responses


def test_a_spoken_response_has_the_recorded_order() -> None:
    """The events of a response come in the order of a real recording."""
    desk = Desk()
    desk.forget()

    desk.send("response.create")
    desk.wait(5)

    firsts = list(dict.fromkeys(desk.types))
    assert firsts == [*SPOKEN_RESPONSE, "rate_limits.updated"]
    done = desk.one("response.done")["response"]
    assert done["status"] == "completed"
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": HELLO_TEXT}]


def test_the_preview_order_has_no_item_done() -> None:
    """In preview an item is created once, and audio has its old name."""
    desk = Desk(PREVIEW)
    desk.forget()

    desk.send("response.create")
    desk.wait(5)

    assert "conversation.item.created" in desk.types
    assert "response.audio.delta" in desk.types
    assert not {"conversation.item.done", DELTA, "conversation.item.added"} & {*desk.types}


def test_azure_repeats_the_part() -> None:
    """Azure's content part events carry it twice."""
    desk = Desk(AZURE)

    desk.send("response.create")
    desk.wait(5)

    event = desk.one("response.content_part.done")
    assert event["content"] == event["part"]
    assert "rate_limits.updated" not in desk.types


def test_all_audio_and_all_words_arrive() -> None:
    """The deltas put together are the prompt and its transcript, and are kept as spoken."""
    desk = Desk()

    desk.send("response.create")
    desk.wait(5)

    pcm = b"".join(base64.b64decode(event["delta"]) for event in desk.all(DELTA))
    words = desk.all("response.output_audio_transcript.delta")
    assert pcm == prompt("hello.wav")
    assert "".join(event["delta"] for event in words) == HELLO_TEXT
    assert list(desk.session.spoken.values()) == [pcm]


def test_audio_comes_at_its_pace() -> None:
    """The first delta after the latency, later ones at five times real time."""
    desk = Desk(pace=Pace(5.0, 0.3, 200, 400, 0.0))

    desk.send("response.create")
    desk.wait(5)

    times = [at for at, kind in zip(desk.times, desk.types, strict=True) if kind == DELTA]
    sizes = [len(base64.b64decode(event["delta"])) for event in desk.all(DELTA)]
    assert times[:3] == pytest.approx([0.3, 0.38, 0.42])
    assert sizes[:3] == [400 * 48, 200 * 48, 200 * 48]


def test_a_pace_without_end_is_at_once() -> None:
    """With infinite speed and no latency the response is over when it begins."""
    desk = Desk(pace=Pace(math.inf, 0.0, jitter_s=0.0))

    desk.send("response.create")

    assert "response.done" in desk.types


@pytest.mark.parametrize(("name", "byte"), [("audio/pcmu", b"\xff"), ("audio/pcma", b"\xd5")])
def test_answers_come_in_the_format_asked_for(name: str, byte: bytes) -> None:
    """G.711 output is a byte a sample at 8 kHz, and starts with that law's silence."""
    desk = Desk()
    desk.configure(audio={"output": {"format": {"type": name}}})

    desk.send("response.create")
    desk.wait(5)

    payload = b"".join(base64.b64decode(event["delta"]) for event in desk.all(DELTA))
    assert len(payload) == pytest.approx(len(prompt("hello.wav")) / 6, abs=160)
    assert payload[:1] == byte


def test_a_text_session_answers_in_text() -> None:
    """With output_modalities text there is no audio but the same words."""
    desk = Desk()
    desk.configure(output_modalities=["text"])

    desk.send("response.create")
    desk.wait(5)

    assert desk.one("response.output_text.done")["text"] == HELLO_TEXT
    assert DELTA not in desk.types


def test_one_response_can_be_asked_for_in_text() -> None:
    """The response's own modalities go before the session's, in both dialects."""
    ga, preview = Desk(), Desk(PREVIEW)

    ga.send("response.create", response={"output_modalities": ["text"]})
    preview.send("response.create", response={"modalities": ["text"]})
    ga.wait(5)
    preview.wait(5)

    assert ga.one("response.done")["response"]["output_modalities"] == ["text"]
    assert preview.one("response.done")["response"]["modalities"] == ["text"]


def test_tool_calls_are_made_and_answered() -> None:
    """A call ends its response; its output asks for the next turn of the script."""
    desk = Desk(agent=_calling("get_time"))
    desk.send("response.create")
    desk.wait(1)
    call = desk.one("response.function_call_arguments.done")
    assert (call["name"], call["arguments"]) == ("get_time", '{"n":1}')

    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "noon"}
    desk.send("conversation.item.create", item=output)
    desk.send("response.create")
    desk.wait(5)

    assert [done["response"]["status"] for done in desk.all("response.done")] == ["completed"] * 2
    assert desk.one("response.output_audio_transcript.done")["transcript"] == "Done."


def test_an_output_for_no_call_is_refused() -> None:
    """A function output needs a call that was made."""
    desk = Desk()

    output = {"type": "function_call_output", "call_id": "call_x", "output": "noon"}
    desk.send("conversation.item.create", item=output)

    assert desk.one("error")["error"]["code"] == "invalid_tool_call_id"


def test_usage_grows_with_the_conversation() -> None:
    """Spoken tokens count as output, then as input of the next response."""
    desk = Desk()
    for _ in range(2):
        desk.send("response.create")
        desk.wait(5)

    first, second = (done["response"]["usage"] for done in desk.all("response.done"))
    assert first["output_token_details"]["audio_tokens"] == 60
    assert first["input_tokens"] == 0
    assert second["input_tokens"] > 0
    assert second["total_tokens"] == second["input_tokens"] + second["output_tokens"]


# -- turns of the caller


def test_a_parrot_says_back_the_turn() -> None:
    """VAD events with their times, commit, item, answer: the caller's own audio."""
    desk = Desk()
    desk.listen(VAD_500)
    desk.forget()
    audio = quiet(1000) + loud(800) + quiet(700)

    desk.say(audio)
    desk.wait(5)

    assert _without_deltas(desk)[:5] == [
        STARTED,
        STOPPED,
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    assert desk.one(STARTED)["audio_start_ms"] == 700
    assert desk.one(STOPPED)["audio_end_ms"] == 2300
    heard = audio[700 * 48 : 2300 * 48]
    assert list(desk.session.spoken.values()) == [heard]
    assert desk.session.hearing.heard.pcm == audio


def test_one_item_id_goes_through_a_turn() -> None:
    """Start, stop, commit and item of a turn name the same item."""
    desk = Desk()
    desk.say(loud(300) + quiet(400))

    ids = {desk.one(kind)["item_id"] for kind in (STARTED, STOPPED, "input_audio_buffer.committed")}

    assert ids == {desk.all("conversation.item.added")[0]["item"]["id"]}


def test_g711_callers_are_heard() -> None:
    """Mu-law input is decoded before it is listened to."""
    desk = Desk()
    desk.listen(VAD_500, format={"type": "audio/pcmu"})

    for _ in range(20):
        desk.send("input_audio_buffer.append", audio=coded(b"\x80\x00" * 80))

    assert desk.one(STARTED)["audio_start_ms"] == 0
    assert desk.session.hearing.clock_ms == pytest.approx(400, abs=3)


def test_the_caller_is_transcribed_when_asked() -> None:
    """The transcript comes after the commit, only with transcription on."""
    off, desk = Desk(), Desk()
    name = "conversation.item.input_audio_transcription.completed"
    desk.listen(VAD_500, transcription={"model": "whisper-1"})

    for each in (off, desk):
        each.say(loud(1000) + quiet(600))
        each.wait(5)

    assert name not in off.types
    assert desk.one(name)["transcript"] == "1.5 seconds of speech."
    assert desk.one(name)["usage"] == {"type": "duration", "seconds": 1.5}


def test_create_response_off_only_commits() -> None:
    """Without create_response the client asks; the answer is the same turn."""
    desk = Desk()
    desk.listen({**VAD_500, "create_response": False})
    desk.say(loud(300) + quiet(600))
    assert "response.created" not in desk.types

    desk.send("response.create")
    desk.wait(5)

    assert len(desk.session.spoken) == 1
    assert "You said" in desk.one("response.output_audio_transcript.done")["transcript"]


def test_without_turn_detection_the_client_commits() -> None:
    """Manual turns: no VAD events, commit makes the item, response.create answers it."""
    desk = Desk()
    desk.listen(None)
    desk.forget()

    desk.say(loud(500))
    desk.send("input_audio_buffer.commit")
    desk.send("response.create")
    desk.wait(5)

    assert _without_deltas(desk)[:4] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    assert list(desk.session.spoken.values()) == [loud(500)]


def test_an_empty_commit_is_refused() -> None:
    """Under 100 ms, or after a clear, there is nothing to commit."""
    desk = Desk()
    desk.listen(None)
    desk.say(loud(80))
    desk.send("input_audio_buffer.commit")
    desk.say(loud(500))
    desk.send("input_audio_buffer.clear")
    desk.send("input_audio_buffer.commit")

    errors = [event["error"] for event in desk.all("error")]

    assert [error["code"] for error in errors] == ["input_audio_buffer_commit_empty"] * 2
    assert "only has 80.00ms" in errors[0]["message"]


def test_semantic_turns_wait_by_eagerness() -> None:
    """A low eagerness waits longer than a high one."""
    ends = {}
    for eagerness in ("low", "high"):
        desk = Desk()
        desk.listen({"type": "semantic_vad", "eagerness": eagerness})
        desk.say(loud(300) + quiet(2000))
        ends[eagerness] = desk.one(STOPPED)["audio_end_ms"]

    assert ends == {"low": 1500, "high": 700}


def test_silence_for_the_idle_timeout_is_a_turn() -> None:
    """Counted from the end of the answer as played, the silence is committed and answered."""
    desk = Desk()
    desk.listen({**VAD_500, "idle_timeout_ms": 5000})
    desk.send("response.create")
    desk.wait(2)
    done_at = desk.times[desk.types.index("response.done")]

    desk.wait(10)

    event = desk.one("input_audio_buffer.timeout_triggered")
    at = desk.times[desk.events.index(event)]
    assert at - done_at == pytest.approx(5.0 + len(prompt("hello.wav")) / 48_000, abs=0.01)
    assert len(desk.all("response.created")) == 2


def test_speech_stops_the_idle_timeout() -> None:
    """A caller who speaks in time is not asked whether they are there."""
    desk = Desk()
    desk.listen({**VAD_500, "idle_timeout_ms": 5000})
    desk.send("response.create")
    desk.wait(3)

    desk.say(loud(300))
    desk.wait(30)

    assert "input_audio_buffer.timeout_triggered" not in desk.types


# -- barge-in, races


def test_speech_interrupts_a_response() -> None:
    """Speech start, then the closing events as incomplete, then done cancelled by detection."""
    desk = Desk()
    desk.send("response.create")
    desk.wait(0.4)
    desk.forget()

    desk.say(loud(100))

    assert desk.types[desk.types.index(STARTED) :] == [
        STARTED,
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
        "rate_limits.updated",
    ]
    response = desk.one("response.done")["response"]
    assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert response["output"][0]["status"] == "incomplete"


def test_a_session_may_be_told_not_to_interrupt() -> None:
    """Then the response goes on, and the automatic one fails as documented."""
    desk = Desk()
    desk.listen({**VAD_500, "silence_duration_ms": 100, "interrupt_response": False})
    desk.send("response.create")
    desk.wait(0.31)

    desk.say(loud(100) + quiet(100))
    desk.wait(5)

    assert desk.one("response.done")["response"]["status"] == "completed"
    assert desk.one("error")["error"]["code"] == "conversation_already_has_active_response"


def test_cancel_stops_a_response() -> None:
    """The client's cancel closes what is open; nothing follows."""
    desk = Desk()
    desk.send("response.create")
    desk.wait(0.4)

    desk.send("response.cancel")
    desk.forget()
    desk.wait(5)

    assert desk.events == []
    assert desk.session.next_timer() == 3600


def test_cancel_before_the_first_word_leaves_no_item() -> None:
    """A response that had not begun to speak ends without output."""
    desk = Desk()
    desk.send("response.create")

    desk.send("response.cancel", response_id=desk.one("response.created")["response"]["id"])

    response = desk.one("response.done")["response"]
    assert (response["status"], response["output"]) == ("cancelled", [])
    assert len(desk.session.conversation) == 0


@pytest.mark.parametrize("members", [{}, {"response_id": "resp_other"}])
def test_nothing_to_cancel_is_an_error(members: dict[str, str]) -> None:
    """Cancel without a response, or of another one, is refused and stops nothing."""
    desk = Desk()
    if members:
        desk.send("response.create")

    desk.send("response.cancel", **members)
    desk.wait(5)

    assert desk.one("error")["error"]["code"] == "response_cancel_not_active"
    assert all(done["response"]["status"] == "completed" for done in desk.all("response.done"))


def test_two_responses_at_once_are_refused() -> None:
    """The second create is an error that names the active response and the client's event."""
    desk = Desk()
    desk.send("response.create")

    desk.send("response.create", event_id="again")

    error = desk.one("error")["error"]
    assert error["code"] == "conversation_already_has_active_response"
    assert desk.one("response.created")["response"]["id"] in error["message"]
    assert error["event_id"] == "again"


def test_truncation_is_checked_against_the_audio() -> None:
    """Inside the audio it is done once; beyond, below, elsewhere it is refused as documented."""
    desk = Desk()
    desk.send("response.create")
    desk.wait(5)
    item_id, duration_ms = next((name, len(pcm) // 48) for name, pcm in desk.session.spoken.items())

    def truncate(end_ms: int, index: int = 0, name: str = item_id) -> None:
        place = {"item_id": name, "content_index": index, "audio_end_ms": end_ms}
        desk.send("conversation.item.truncate", **place)

    truncate(duration_ms + 60)
    truncate(-1)
    truncate(100, index=1)
    truncate(100, name="item_nowhere")
    truncate(duration_ms)
    truncate(500)
    truncate(501)

    codes = [event["error"]["code"] for event in desk.all("error")]
    assert codes == ["invalid_value", "integer_below_min_value", "invalid_value",
                     "item_truncate_invalid_item_id", "invalid_value"]  # fmt: skip
    expected = f"Audio content of {duration_ms}ms is already shorter than {duration_ms + 60}ms"
    assert desk.all("error")[0]["error"]["message"] == expected
    assert list(desk.session.truncations) == [(item_id, duration_ms), (item_id, 500)]


def test_items_can_be_looked_at_and_deleted_once() -> None:
    """Retrieve shows an item; after delete both are refused."""
    desk = Desk()
    content = [{"type": "input_text", "text": "Hello"}]
    item = {"id": "mine", "type": "message", "role": "user", "content": content}
    desk.send("conversation.item.create", item=item)

    for kind in ("retrieve", "delete", "delete", "retrieve"):
        desk.send(f"conversation.item.{kind}", item_id="mine")

    assert desk.one("conversation.item.retrieved")["item"]["content"] == content
    assert desk.one("conversation.item.deleted")["item_id"] == "mine"
    codes = [event["error"]["code"] for event in desk.all("error")]
    assert codes == ["item_delete_invalid_item_id", "item_retrieve_invalid_item_id"]


# -- faults


def _spoken(*faults: str, is_judged: bool = True) -> Desk:
    desk = Desk(faults=faults, is_judged=is_judged)
    desk.configure()
    desk.send("response.create")
    desk.wait(5)
    return desk


@pytest.mark.parametrize(
    ("when", "last"),
    [
        ("created", "session.created"),
        ("configured", "session.updated"),
        ("response", "response.created"),
        ("delta", DELTA),
        ("done", "response.done"),
    ],
)
def test_a_session_closes_at_the_moment_asked(when: str, last: str) -> None:
    """The event of the moment is the last one."""
    desk = _spoken("close_code=1011", f"close_when={when}")

    assert desk.types[-1] == last
    assert desk.session.closing == CloseSocket(1011, "simulated fault")


def test_a_session_closes_at_the_nth_moment_or_when_idle() -> None:
    """close_count counts events; idle counts seconds."""
    third = _spoken("close_code=1006", "close_when=delta", "close_count=3")
    idle = Desk(faults=["close_code=4000", "close_when=idle", "close_after_s=2"])
    idle.wait(1.9)
    assert idle.session.closing is None
    idle.wait(0.2)

    assert len(third.all(DELTA)) == 3
    assert idle.session.closing == CloseSocket(4000, "simulated fault")


def test_a_session_closes_after_speech_or_a_tool_call() -> None:
    """The close comes with the caller's first sound, or between a call and its output."""
    speech = Desk(faults=["close_code=1001", "close_when=speech"])
    speech.say(loud(200))
    tool = Desk(agent=_calling("f"), faults=["close_code=1001", "close_when=tool"])
    tool.send("response.create")
    tool.wait(1)

    assert speech.types[-1] == STARTED
    assert tool.types[-1] == "response.done"
    assert tool.session.closing is not None


def test_a_session_rejects_after_the_handshake() -> None:
    """An accepted connection gets one error, then the close with its reason."""
    desk = Desk(faults=["reject_code=invalid_api_key"])

    assert desk.one("error")["error"]["code"] == "invalid_api_key"
    assert desk.session.closing == CloseSocket(3000, "invalid_request_error.invalid_api_key")


def test_a_session_can_stay_silent_at_its_start() -> None:
    """No session.created, no session.updated, but everything else."""
    desk = _spoken("no_session_created", "no_session_updated")

    assert desk.types[0] == "response.created"
    assert desk.types[-2] == "response.done"


@pytest.mark.parametrize(("code", "shown"), [("server_error", "server_error"), ("null", None)])
def test_an_error_comes_when_asked(code: str, shown: str | None) -> None:
    """One error after the moment's event, with or without a code; the session goes on."""
    desk = _spoken(f"error_code={code}", "error_when=response")

    assert desk.types.index("error") == desk.types.index("response.created") + 1
    assert desk.one("error")["error"]["code"] == shown
    assert "response.done" in desk.types


def test_deltas_stall() -> None:
    """After the third delta nothing comes, but a cancel still works."""
    desk = _spoken("stall_after_deltas=3")
    assert desk.types[-1] == DELTA
    assert len(desk.all(DELTA)) == 3

    desk.send("response.cancel")

    assert desk.one("response.done")["response"]["status"] == "cancelled"


def test_deltas_come_huge_tiny_or_odd() -> None:
    """The cut changes, the audio does not."""
    huge, tiny = _spoken("delta_ms=600000"), _spoken("delta_ms=10")
    odd = _spoken("odd_deltas")

    sizes = [[len(base64.b64decode(e["delta"])) for e in d.all(DELTA)] for d in (huge, tiny, odd)]

    assert sizes[0] == [len(prompt("hello.wav"))]
    assert set(sizes[1][:-1]) == {480}
    assert all(sum(sizes[2][: index + 1]) % 2 for index in range(len(sizes[2]) - 1))
    assert {sum(size) for size in sizes} == {len(prompt("hello.wav"))}


def test_base64_can_be_loose() -> None:
    """Line breaks, no padding: a strict reader refuses it."""
    texts = [event["delta"] for event in _spoken("loose_base64").all(DELTA)]

    assert all("\n" in text for text in texts)
    assert not any(text.endswith("=") for text in texts)


def test_unheard_of_things_are_put_in() -> None:
    """Unknown events stand between the known ones; unknown members in all of them."""
    desk = _spoken("unknown_events", "unknown_members", is_judged=False)

    moods = desk.all("session.mood.changed")
    assert len(moods) == len(desk.events) / 2
    assert all("x_unheard_of" in event for event in desk.events if event not in moods)


def test_a_response_fails() -> None:
    """The failure is inside response.done, with the code and no output."""
    response = _spoken("fail_response=rate_limit_exceeded").one("response.done")["response"]

    assert (response["status"], response["output"]) == ("failed", [])
    error = response["status_details"]["error"]
    assert error["code"] == "rate_limit_exceeded"
    assert "Please try again in 1m26.4s." in error["message"]


def test_a_response_stays_incomplete() -> None:
    """It ends half way, with the reason."""
    desk = _spoken("incomplete_response=content_filter")

    response = desk.one("response.done")["response"]
    details = {"type": "incomplete", "reason": "content_filter"}
    assert (response["status"], response["status_details"]) == ("incomplete", details)
    (pcm,) = desk.session.spoken.values()
    assert len(pcm) == len(prompt("hello.wav")) // 2


def test_a_fault_can_be_for_one_response() -> None:
    """Only the second response fails."""
    desk = _spoken("fail_response=server_error", "response=2")
    for _ in range(2):
        desk.send("response.create")
        desk.wait(5)

    statuses = [done["response"]["status"] for done in desk.all("response.done")]
    assert statuses == ["completed", "failed", "completed"]


def test_response_done_comes_twice_or_late() -> None:
    """Twice is twice the same; late is that much after the item's end."""
    twice = _spoken("duplicate_done").all("response.done")
    late = _spoken("late_done_s=1.5")

    first, second = (done["response"] for done in twice)
    assert first == second
    gap = late.times[late.types.index("response.done")]
    gap -= late.times[late.types.index("response.output_item.done")]
    assert gap == pytest.approx(1.5)


def test_deltas_follow_a_cancel() -> None:
    """What was on its way still comes, before the closing events."""
    desk = Desk(faults=["deltas_after_cancel=4"])
    desk.send("response.create")
    desk.wait(0.31)
    desk.forget()

    desk.send("response.cancel")

    assert desk.types[:5] == [DELTA] * 4 + ["response.output_audio.done"]


def test_speech_stopped_can_be_missing() -> None:
    """The commit and the answer come all the same."""
    desk = Desk(faults=["no_speech_stopped"])
    desk.say(loud(300) + quiet(400))

    assert STOPPED not in desk.types
    assert "input_audio_buffer.committed" in desk.types
    assert "response.created" in desk.types


def test_speech_can_start_falsely() -> None:
    """A turn of 80 ms interrupts the first answer once, and is answered itself."""
    desk = _spoken("false_start")
    desk.wait(5)

    started, stopped = desk.one(STARTED), desk.one(STOPPED)
    times = [desk.times[desk.events.index(event)] for event in (started, stopped)]
    assert times[1] - times[0] == pytest.approx(0.08)
    statuses = [done["response"]["status"] for done in desk.all("response.done")]
    assert statuses == ["cancelled", "completed"]


def test_transcripts_come_late_or_never() -> None:
    """The delay moves the transcript behind the answer; it can be left out."""
    name = "conversation.item.input_audio_transcription.completed"
    late = Desk(faults=["transcription_delay_s=4"])
    never = Desk(faults=["no_transcription"])
    for desk in (late, never):
        desk.listen(VAD_500, transcription={"model": "whisper-1"})
        desk.say(loud(300) + quiet(600))
        desk.wait(10)

    assert late.types[-1] == name
    assert name not in never.types


def test_tool_calls_go_wrong() -> None:
    """Long arguments are long but valid; an unknown tool is called unasked."""
    long = Desk(agent=_calling("f"), faults=["long_arguments_bytes=70000"])
    unknown = _spoken("unknown_tool")
    long.send("response.create")
    long.wait(1)

    arguments = long.one("response.function_call_arguments.done")["arguments"]
    assert len(msgspec.json.decode(arguments)["padding"]) == 70_000
    assert unknown.one("response.function_call_arguments.done")["name"] == "no_such_tool"


def test_a_response_has_several_items() -> None:
    """Two messages and two calls, each with its own index and id."""
    desk = _spoken("extra_items")

    output = desk.one("response.done")["response"]["output"]
    assert [item["type"] for item in output] == ["message"] * 2 + ["function_call"] * 2
    assert len({item["id"] for item in output}) == 4
    indexes = [event["output_index"] for event in desk.all("response.output_item.done")]
    assert indexes == [0, 1, 2, 3]


def test_text_comes_instead_of_audio() -> None:
    """A session that asked for audio gets text."""
    desk = _spoken("text_answers")

    assert desk.one("response.output_text.done")["text"] == HELLO_TEXT
    assert DELTA not in desk.types


def test_a_turn_stays_without_answer() -> None:
    """The first turn is committed and ignored, the second answered."""
    desk = Desk(faults=["silent", "response=1"])
    desk.say(loud(300) + quiet(400))
    desk.wait(5)
    assert "response.created" not in desk.types

    desk.say(loud(300) + quiet(400))

    assert len(desk.all("response.created")) == 1


def test_names_come_from_the_other_dialect() -> None:
    """GA sends preview names, preview sends GA's."""
    ga = Desk(GA, faults=["other_dialect"], is_judged=False)
    preview = Desk(VOICE_LIVE, faults=["other_dialect"], is_judged=False)
    for desk in (ga, preview):
        desk.send("response.create")
        desk.wait(5)

    assert "response.audio.delta" in ga.types
    assert DELTA in preview.types


def test_a_closed_session_is_deaf_and_dumb() -> None:
    """After the close nothing is said, whatever comes."""
    desk = _spoken("close_code=1011", "close_when=created")
    desk.forget()

    desk.post("nonsense")
    desk.say(loud(300))
    desk.wait(5000)

    assert desk.events == []


def test_memory_can_be_given_back() -> None:
    """Forgetting a session's audio empties its records."""
    desk = Desk()
    desk.say(loud(100))
    desk.send("response.create")
    desk.wait(5)

    desk.session.forget_audio()

    assert (bytes(desk.session.hearing.heard.pcm), desk.session.spoken) == (b"", {})
