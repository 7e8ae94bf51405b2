"""Makes one HTML page of a taped call, to look at and to listen to; it needs no network.

Two voices as Ogg Opus, which every browser of these days plays: some 13 kbit/s for both where they
take turns, 18 where both talk all the time, so that ten minutes are below 2 MB. The page's policy
lets it run its own script and nothing else, and whatever was said is data, never markup.
"""

import base64
import hashlib
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import soundfile
from numpy.typing import NDArray

from gateway.tape.listen import stereo_blocks
from gateway.tape.show import HIDDEN, changes, clock, conversation, ending, summary
from gateway.tape.story import MOST, Moment, Speech, Story, Turn, story_of

RATE_HZ: Final = 8000
PEAKS_PER_S: Final = 50
# What of a longer call is left out: its sound, but not its picture.
MOST_SOUND_S: Final = 7200.0
MOST_SHOWN: Final = 5000
# Less than this is the end of a frame.
_SPARED_MS: Final = 20.0
# libsndfile's measure for some 6 to 9 kbit/s a voice.
_COMPRESSION: Final = 0.99
_STEREO: Final = 2
_TICKS: Final = {
    "key": "{}",
    "clear": "clear",
    "truncate": "truncate",
    "tool": "tool",
    "tool_output": "tool answer",
    "lost": "lost",
    "error": "error",
    "hang_up": "hang up",
    "connected": "session",
    "reconnected": "new session",
}
_LANES: Final = {
    "clears": ("clear",),
    "truncations": ("truncate",),
    "keys and tools": ("key", "tool", "tool_output"),
    "events and errors": ("connected", "reconnected", "lost", "error", "hang_up"),
}


def report_html(path: str | Path, story: Story | None = None) -> str:
    """The page of a tape, as text; takes about a second for each ten of the call.

    Args:
        path: the tape.
        story: its story, where somebody knows it already.

    Raises:
        TapeError: the tape cannot be read.
    """
    story = story or story_of(path)
    return _page(story, _sounds(path, story))


def content_security_policy() -> str:
    """What the page is allowed: its own script and style, and the sound that is in it."""
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; media-src data:; "
        f"script-src '{_digest('report.js')}'; style-src '{_digest('report.css')}'"
    )


def _file(name: str) -> str:
    return (files("gateway.tape") / "page" / name).read_text("utf-8")


def _digest(name: str) -> str:
    digest = hashlib.sha256(_file(name).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


# ------------------------------------------------------------------ sound


@dataclass(slots=True)
class _Sounds:
    """What of both voices is on the page: their sound in one file, and how loud they were when."""

    ogg: bytes = b""
    caller: bytearray = field(default_factory=bytearray)
    agent: bytearray = field(default_factory=bytearray)


def _sounds(path: str | Path, story: Story) -> _Sounds:
    found, packed = _Sounds(), io.BytesIO()
    with_sound = story.duration_s <= MOST_SOUND_S
    with soundfile.SoundFile(
        packed,
        "w",
        RATE_HZ,
        _STEREO,
        format="OGG",
        subtype="OPUS",
        compression_level=_COMPRESSION,
    ) as file:
        for block in stereo_blocks(path, story, RATE_HZ):
            samples = np.frombuffer(block, "<i2").reshape(-1, _STEREO)
            found.caller += _peaks(samples[:, 0])
            found.agent += _peaks(samples[:, 1])
            if with_sound:
                file.write(samples)
    found.ogg = packed.getvalue() if with_sound else b""
    return found


def _peaks(samples: NDArray[np.int16]) -> bytes:
    """The loudest of each 20 ms; the root makes quiet speech visible."""
    size = RATE_HZ // PEAKS_PER_S
    padded = np.pad(np.abs(samples.astype(np.int32)), (0, -samples.size % size))
    loudest = padded.reshape(-1, size).max(axis=1)
    levels = np.sqrt(loudest / 32768).clip(0, 1) * 255
    return bytes(levels.astype(np.uint8))


# ------------------------------------------------------------------ the page


def _page(story: Story, sounds: _Sounds) -> str:
    title = f"Call {story.head.call_id}"
    parts = {
        "policy": content_security_policy(),
        "title": _escaped(title),
        "style": _file("report.css"),
        "script": _file("report.js"),
        "story": _data(_told(story, sounds)),
    }
    pieces = _file("report.html").split("@")
    return "".join(parts.get(piece, piece) for piece in pieces)


def _escaped(text: str) -> str:
    table = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
    return "".join(table.get(character, character) for character in text)


def _data(told: dict[str, Any]) -> str:
    """JSON that can stand in a page: nothing in it can end its element."""
    text = msgspec.json.encode(told).decode()
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _told(story: Story, sounds: _Sounds) -> dict[str, Any]:
    return {
        "duration_s": story.duration_s,
        "facts": _facts(story),
        "note": story.note,
        "rows": [asdict(row) for row in conversation(story)[:MOST_SHOWN]],
        "summary": "; ".join(summary(story)),
        "turns": [_turn(turn) for turn in story.turns[:MOST_SHOWN]],
        "lanes": _lanes(story),
        "peaks": {
            "per_s": PEAKS_PER_S,
            "caller": base64.b64encode(sounds.caller).decode(),
            "agent": base64.b64encode(sounds.agent).decode(),
        },
        "sound": _sound(sounds),
        "sound_note": f"Longer than {MOST_SOUND_S / 3600:g} hours: this page has no sound.",
    }


def _sound(sounds: _Sounds) -> dict[str, str] | None:
    if not sounds.ogg:
        return None
    return {"type": "audio/ogg; codecs=opus", "base64": base64.b64encode(sounds.ogg).decode()}


def _facts(story: Story) -> list[tuple[str, str]]:
    head = story.head
    numbers = f"{story.from_number or '?'} to {story.to_number or '?'}"
    has_numbers = bool(story.from_number or story.to_number)
    return [
        ("Began", head.started_at[:19].replace("T", " ") + " UTC"),
        ("Length", clock(story.duration_s)),
        ("Ended", ending(story)),
        ("Provider", head.provider),
        ("Dialect", head.dialect),
        ("Agent", head.agent),
        *([("Numbers", numbers)] if has_numbers else []),
        *([("Trace", head.trace_id)] if head.trace_id else []),
        *changes(head),
        *([("Hidden", HIDDEN)] if story.hides_digits else []),
        ("Gateway", head.gateway),
    ]


def _turn(turn: Turn) -> dict[str, Any]:
    return {"at": turn.spoke_until_s, "total_ms": turn.total_ms, "stages": turn.stages()}


# ------------------------------------------------------------------ lanes


def _lanes(story: Story) -> list[dict[str, Any]]:
    lanes: list[dict[str, Any]] = [
        {"name": "caller speaks", "bars": _bars(_speech_bars(story))},
        {"name": "answers", "bars": _bars(_answer_bars(story))},
        {"name": "playout", "bars": _bars(_playout_bars(story))},
        {"name": "never heard", "bars": _bars(_unheard_bars(story))},
        {"name": "latency", "bars": _bars(_latency_bars(story))},
        {"name": "marks", "marks": _marks(story)},
    ]
    for name, kinds in _LANES.items():
        moments = [moment for moment in story.moments if moment.kind in kinds]
        lanes.append({"name": name, "ticks": [_tick(each, story) for each in moments[:MOST_SHOWN]]})
    return lanes


def _bars(bars: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [bar for _, bar in zip(range(MOST_SHOWN), bars, strict=False)]


def _bar(kind: str, start: float, end: float, text: str = "", title: str = "") -> dict[str, Any]:
    return {"kind": kind, "start": start, "end": end, "text": text, "title": title or text}


def _speech_bars(story: Story) -> Iterator[dict[str, Any]]:
    for words in story.caller:
        yield _bar("speech", words.start_s, words.end_s, words.text)


def _answer_bars(story: Story) -> Iterator[dict[str, Any]]:
    for answer in story.answers:
        kind = "answer failed" if answer.status == "failed" else "answer"
        text = " ".join(filter(None, (answer.status or "running", answer.reason)))
        end_s = answer.end_s if answer.status else story.duration_s
        yield _bar(kind, answer.start_s, end_s, text)


def _playout_bars(story: Story) -> Iterator[dict[str, Any]]:
    for speech in story.agent:
        for start, end in speech.heard:
            title = f"{(end - start) * 1000:.0f} ms heard: {speech.heard_text}"
            yield _bar("heard", start, end, speech.heard_text, title)


def _unheard_bars(story: Story) -> Iterator[dict[str, Any]]:
    for speech in story.agent:
        if speech.unheard_ms > _SPARED_MS:
            yield _unheard_bar(speech)


def _unheard_bar(speech: Speech) -> dict[str, Any]:
    """It follows what was heard, as long as it would have taken."""
    start = speech.heard[-1][1] if speech.heard else speech.came_s
    title = f"{speech.unheard_ms:.0f} ms generated, never heard: {speech.unheard_text}"
    return _bar("unheard", start, start + speech.unheard_ms / 1000, speech.unheard_text, title)


def _latency_bars(story: Story) -> Iterator[dict[str, Any]]:
    for turn in story.turns:
        at = turn.spoke_until_s
        for name, value in turn.stages():
            yield _bar(f"thin {name}", at, at + value / 1000, "", f"{name} {value:.0f} ms")
            at += value / 1000


def _marks(story: Story) -> list[float]:
    return [round(moment.t, 3) for moment in story.moments if moment.kind == "mark"][:MOST]


def _tick(moment: Moment, story: Story) -> dict[str, Any]:
    is_hidden = moment.kind == "key" and story.hides_digits
    text = "key" if is_hidden else _TICKS[moment.kind].format(moment.text)
    title = f"{clock(moment.t)} {moment.kind}" + ("" if is_hidden else f" {moment.text}")
    return {"kind": moment.kind, "t": moment.t, "text": text, "title": title}
