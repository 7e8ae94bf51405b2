"""The page of a call is one file that asks nobody for anything, and says what the story says."""

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gateway.cli import main
from gateway.tape import report
from gateway.tape.listen import stereo_blocks
from gateway.tape.report import RATE_HZ, content_security_policy, report_html
from gateway.tape.story import story_of
from tests.tape.longcall import record_long_call
from tests.tape.test_accounts import changed

MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u2028'\""


class _Elements(HTMLParser):
    """Every element of a page with what it has."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.found.append((tag, dict(attrs)))


def _elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Elements()
    parser.feed(page)
    return parser.found


def told(page: str) -> Any:
    """What the page was given to show."""
    found = re.search(r'<script type="application/json" id="story">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def page(call_on_tape: Path) -> str:
    """Of a call with an interruption."""
    return report_html(call_on_tape)


def test_the_page_asks_nobody(page: str) -> None:
    """No address, no inline handler, no style of an element; its policy forbids what is left."""
    elements = _elements(page)
    outward = {"src", "href", "srcset", "action", "formaction", "poster", "data", "style"}

    assert not [each for each in elements if outward & set(each[1])]
    assert not [each for each in elements if any(name.startswith("on") for name in each[1])]
    assert "default-src 'none'" in content_security_policy()
    assert "unsafe" not in content_security_policy()
    (policy,) = [had["content"] for tag, had in elements if "http-equiv" in had]
    assert policy == content_security_policy()


def test_lanes_stand_where_the_story_says(page: str, call_on_tape: Path) -> None:
    """Speech, answers, playout, what was never heard, latency, marks, clears and truncations."""
    story, lanes = story_of(call_on_tape), {lane["name"]: lane for lane in told(page)["lanes"]}
    heard = [times for speech in story.agent for times in speech.heard]
    unheard = [speech for speech in story.agent if speech.unheard_ms > 20]

    assert [(bar["start"], bar["end"]) for bar in lanes["playout"]["bars"]] == heard
    assert len(lanes["caller speaks"]["bars"]) == len(story.caller) >= 2
    assert len(lanes["answers"]["bars"]) == len(story.answers) >= 3
    lengths = [bar["end"] - bar["start"] for bar in lanes["never heard"]["bars"]]
    assert lengths == pytest.approx([speech.unheard_ms / 1000 for speech in unheard])
    assert len(lengths) >= 2
    latency = lanes["latency"]["bars"]
    assert latency[3]["end"] == pytest.approx(story.turns[0].heard_s)
    assert len(lanes["marks"]["marks"]) > 10
    clears = [moment.t for moment in story.moments if moment.kind == "clear"]
    assert [tick["t"] for tick in lanes["clears"]["ticks"]] == clears
    assert len(lanes["truncations"]["ticks"]) >= 2
    assert [tick["text"] for tick in lanes["keys and tools"]["ticks"]] == ["key", "key"]
    assert ["Hidden", "on this tape every digit reads 1"] in told(page)["facts"]


def test_the_sound_of_the_page_is_the_call(page: str, call_on_tape: Path) -> None:
    """Decoded again it is both voices, in time and well understood."""
    packed = base64.b64decode(told(page)["sound"]["base64"])
    pcm, rate_hz = soundfile.read(io.BytesIO(packed), dtype="int16")
    story = story_of(call_on_tape)
    true = np.frombuffer(b"".join(stereo_blocks(call_on_tape, story, RATE_HZ)), "<i2")
    true = true.reshape(-1, 2)

    assert (rate_hz, pcm.shape) == (RATE_HZ, true.shape)
    for voice in range(2):
        assert np.corrcoef(pcm[:, voice], true[:, voice])[0, 1] > 0.9


def test_markup_is_text(call_on_tape: Path, tmp_path: Path) -> None:
    """Whatever the model, the caller or the tape's own first line says, it ends no element."""

    def spoil(line: dict[str, Any]) -> dict[str, Any]:
        if "tape" in line:
            return line | {"call_id": MARKUP, "agent": MARKUP}
        data = str(line.get("data", ""))
        if "transcript" in data and line.get("link") == "realtime" and line["dir"] == "in":
            message = json.loads(data)
            for name in ("delta", "transcript"):
                if isinstance(message.get(name), str):
                    message[name] = MARKUP
            return line | {"data": json.dumps(message)}
        return line

    spoiled = report_html(changed(call_on_tape, tmp_path, spoil))
    elements = _elements(spoiled)

    assert [tag for tag, _ in elements].count("script") == 2
    assert "img" not in [tag for tag, _ in elements]
    assert MARKUP.strip() in {row["text"] for row in told(spoiled)["rows"]}
    assert (["Agent", MARKUP]) in told(spoiled)["facts"]


def test_ten_minutes_are_below_two_megabytes(tmp_path: Path) -> None:
    """The worst there can be: noise all the time, which no codec makes smaller."""
    call = record_long_call(tmp_path, 120.0)

    page = report_html(call.path)

    fixed = len(page) - len(told(page)["sound"]["base64"])
    assert len(told(page)["sound"]["base64"]) * 5 + fixed * 3 < 2_000_000


def test_a_very_long_call_has_no_sound_and_says_so(
    call_on_tape: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its picture is there."""
    monkeypatch.setattr(report, "MOST_SOUND_S", 3.0)

    page = told(report_html(call_on_tape))

    assert page["sound"] is None
    assert "no sound" in page["sound_note"]
    assert len(base64.b64decode(page["peaks"]["agent"])) > 100


def test_the_command_writes_the_page(
    call_on_tape: Path,
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Named as the tape, in the present folder, for its owner alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gateway", "tape", "report", str(call_on_tape)])
    with pytest.raises(SystemExit) as left:
        main()
    (written,) = tmp_path.glob("*.html")

    assert not left.value.code
    assert written.read_text("utf-8")[:2000] == page[:2000]
    assert written.stat().st_mode & 0o777 == 0o600
    assert written.name in capsys.readouterr().out
