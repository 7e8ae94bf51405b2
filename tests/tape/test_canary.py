"""Secrets, card numbers, phone numbers and keys are planted wherever a message takes text."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from gateway.simulator.callplan import CallPlan, Utterance, When
from gateway.tape.judge import judge
from gateway.tape.masking import LinkName, Mask, masked
from tests.running import ROOT
from tests.tape.recording import HZ, SPEECH, record
from tests.tape.test_record import lines_of

CARD, PHONE, NATIONAL = "4111 1111 2222 3456", "+49 (170) 555-98765", "0170/5559876"
DASHED, KEY, OURS = "4111-1111-2222-3456", "sk-proj-abcDEF4567890123", "a-password-of-ours-42"
PLANTED = f"card {CARD}, {DASHED}, call {PHONE} or {NATIONAL}, key {KEY}, Bearer {KEY}x, {OURS}"
# What a tape must not hold, in whatever way it is cut or escaped.
DIGITS = re.compile(r"2222|3456|555|9876|4567|sk-proj|of-ours")
# Drawn by the service, the phones and the gateway, or read off a clock: now and then with such
# digits in them. Each by its own name and shape, so that nothing else passes for one.
_SERVICE_ID = r'"(event|item|resp|conv|sess)_\w{21}\\?"'
_SHAPES = {
    "call_id": r'"[0-9a-f]{8}-\d+\\?"',
    "callSid": r'"CA[0-9a-f]{32}\\?"',
    "streamSid": r'"MZ[0-9a-f]{32}\\?"',
    "channel_id": r'"\d{1,10}\.\d{1,3}\\?"',
    "id": _SERVICE_ID,
    "event_id": _SERVICE_ID,
    "item_id": _SERVICE_ID,
    "previous_item_id": _SERVICE_ID,
    "response_id": _SERVICE_ID,
    "conversation_id": _SERVICE_ID,
    "expires_at": r"\d{10}\b",
    "audio_end_ms": r"\d{1,4}\b",
}
DRAWN = re.compile("|".join(rf'(?<=")({name})\\?": ?\\?{shape}' for name, shape in _SHAPES.items()))
CLOCK = {"t", "started_at", "unix_offset_s"}
SOUND = re.compile(r'"(media|input_audio_buffer.append|response\.(output_)?audio\.delta)"')
# Members that name things: a message without them would be another one.
KEPT = re.compile(
    r"(^|_)(id|ids|type|event|object|status|role|code|model|voice|format|audio|payload|track"
    r"|tracks|encoding|command|name|tool_choice|channel|protocol|version|ptime|modalities)$"
    r"|Sid$|^(sequenceNumber|chunk|timestamp|truncation|eagerness|detail|output_modalities)$"
)


def _planted(value: Any, key: str = "") -> Any:
    """The same with all of it in every text."""
    if isinstance(value, dict):
        return {name: _planted(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_planted(inner, key) for inner in value]
    return PLANTED if isinstance(value, str) and not KEPT.search(key) else value


def _recorded() -> Iterator[tuple[LinkName, str]]:
    """Every text message of every recording in the tests."""
    for path in sorted((ROOT / "tests" / "providers" / "vectors").glob("*.jsonl")):
        yield from (("provider", text) for text in _texts(path))
    for path in sorted((ROOT / "tests" / "realtime" / "recordings").glob("*.jsonl")):
        yield from (("realtime", text) for text in _texts(path))


def _texts(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        found = next(
            (entry[key] for key in ("message", "text", "data", "raw", "event") if key in entry),
            entry,
        )
        yield found if isinstance(found, str) else json.dumps(found)


def _messages() -> list[tuple[LinkName, str]]:
    """Each kind of them once more, with everything planted."""
    found: dict[str, tuple[LinkName, str]] = {}
    for link, text in _recorded():
        try:
            message = json.loads(text)
        except ValueError:
            continue
        if isinstance(message, dict):
            kind = str(message.get("type") or message.get("event"))
            is_sound = kind in ("media", "response.output_audio.delta")
            said = message if is_sound else _planted(message)
            found.setdefault(f"{link} {kind}", (link, json.dumps(said)))
    return list(found.values())


@pytest.mark.parametrize("ascii_only", [True, False])
def test_no_recorded_message_keeps_what_was_planted_in_it(ascii_only: bool) -> None:  # noqa: FBT001
    """Whatever its kind, whichever way it goes."""
    messages = _messages()
    assert len(messages) > 25
    for link, text in messages:
        message = json.dumps(json.loads(text), ensure_ascii=ascii_only)
        hidden = Mask([OURS]).message(message, link)
        assert json.loads(hidden).keys() == json.loads(message).keys()
        assert not DIGITS.search(hidden), hidden
        assert masked(hidden, link) == hidden


@pytest.mark.parametrize("name", [*_SHAPES, "callerId", "user_id", "accountSid", "session_id"])
def test_no_name_lets_a_leak_pass(name: str) -> None:
    """What is left out as drawn is only what is: also in a message that a line holds as text."""
    for leak in (PLANTED, CARD, NATIONAL.replace("/", ""), f"item_{CARD}", 4111111122223456):
        line = json.dumps({name: leak})
        assert DIGITS.search(DRAWN.sub("", line))
        assert DIGITS.search(DRAWN.sub("", json.dumps({"data": line})))


def test_a_number_in_pieces_is_found_in_none_of_them() -> None:
    """The model says a card number digit by digit, and writes it into a tool's arguments."""
    for kind in (
        "response.output_audio_transcript.delta",
        "response.function_call_arguments.delta",
    ):
        pieces = [
            json.loads(masked(json.dumps({"type": kind, "delta": piece}), "realtime"))["delta"]
            for piece in re.findall(r".{1,3}", f"it is {CARD} or {DASHED}")
        ]
        assert not re.search(r"[02-9]", "".join(pieces))


PLAN = CallPlan(
    from_number="+4917055598765",
    to_number="+4917055598766",
    parameters={
        "from": "+4917055598765",
        "card": PLANTED,
        "token": KEY,
        "5559876543": DASHED,
        "callerId": "+4917055598765",
        "user_id": CARD,
        "accountSid": NATIONAL,
    },
    dtmf=((0.8, "9"), (0.9, "8"), (1.0, "7"), (1.1, "#")),
    says=(Utterance(SPEECH[:HZ], HZ, When("call_start", 0.2)),),
    hang_up_after_s=3.0,
)
AGENT = f'[agents.default]\ntape_share = 1.0\ninstructions = "{PLANTED}"\ngreeting = "{CARD}"\n'


@pytest.mark.parametrize("provider", ["twilio", "asterisk"])
def test_a_real_call_leaves_nothing_of_it_and_can_be_replayed(
    tmp_path: Path, provider: Literal["twilio", "asterisk"]
) -> None:
    """Neither in the file nor in its name; what the masks hid, the replay does not miss."""
    variables = PLAN.parameters if provider == "asterisk" else {}
    plan = replace(PLAN, provider=provider, variables=variables)
    path = record(tmp_path / "tapes", plan, AGENT, AZURE_OPENAI_API_KEY=OURS)
    lines = lines_of(path)

    texts = [
        DRAWN.sub("", json.dumps({key: line[key] for key in line.keys() - CLOCK}))
        for line in lines
        if line.get("kind") != "binary" and not SOUND.search(str(line.get("data")))
    ]
    assert not [text for text in texts if DIGITS.search(text)]
    assert path.name.partition("Z-")[2] == f"{lines[0]['call_id']}.jsonl"
    assert any("The caller pressed the keys 111#" in text for text in texts)
    verdict = judge(path)
    assert verdict.is_same, verdict.found.differences
    assert verdict.replayed.is_whole
