"""Prints a taped call as a conversation: who said what, what of it was heard, how long it took."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from gateway.tape.reading import Head
from gateway.tape.story import Moment, Speech, Story, Turn, Words

_WIDTH: Final = 8
# Moments people want to read of, and who they come from.
_TOLD: Final = {
    "key": "caller",
    "tool": "agent",
    "tool_output": "gateway",
    "lost": "gateway",
    "error": "error",
    "hang_up": "gateway",
    "reconnected": "gateway",
}
HIDDEN: Final = "on this tape every digit reads 1"
_PHRASES: Final = {
    "key": "presses {}",
    "tool": "calls {}",
    "tool_output": "answers {}",
    "hang_up": "hangs up: {}",
    "reconnected": "goes on over a new session",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the conversation; ``unheard`` the words that were not, ``more`` a remark."""

    t: float
    who: str
    text: str
    unheard: str = ""
    more: str = ""


def conversation(story: Story) -> list[Row]:
    """What was said and what happened, in order."""
    rows = [_words(words) for words in story.caller]
    rows += [_speech(speech, story.turns) for speech in story.agent]
    rows += [_moment(moment, story) for moment in story.moments if moment.kind in _TOLD]
    return sorted(rows, key=lambda row: row.t)


def _words(words: Words) -> Row:
    text = words.text or f"({words.end_s - words.start_s:.1f} s of speech, no transcript)"
    return Row(words.start_s, "caller", f"interrupts: {text}" if words.is_interruption else text)


def _speech(speech: Speech, turns: Sequence[Turn]) -> Row:
    at = speech.heard[0][0] if speech.heard else speech.came_s
    remarks = [f"{speech.unheard_ms / 1000:.1f} s not heard"] if speech.unheard_text else []
    remarks += [latency(turn) for turn in turns if turn.heard_s is not None and turn.heard_s == at]
    return Row(
        at,
        "agent" if speech.response_id else "gateway",
        speech.heard_text.strip() or _wordless(speech),
        speech.unheard_text,
        "; ".join(remarks),
    )


def _wordless(speech: Speech) -> str:
    if not speech.response_id:
        return f"(plays its {speech.item_id.removeprefix('prompt:')})"
    if not speech.generated_ms:
        return "(says nothing)"
    if not speech.heard_ms:
        return "(nothing of this was heard)"
    return f"({speech.heard_ms / 1000:.1f} s of {speech.generated_ms / 1000:.1f} s heard)"


def _moment(moment: Moment, story: Story) -> Row:
    if moment.kind == "key" and story.hides_digits:
        return Row(moment.t, "caller", "presses a key")
    phrase = _PHRASES.get(moment.kind, "{}")
    return Row(moment.t, _TOLD[moment.kind], phrase.format(moment.text).strip())


def latency(turn: Turn) -> str:
    """A turn's latency and its stages, in words."""
    stages = ", ".join(f"{name} {value:.0f}" for name, value in turn.stages())
    return f"answered after {turn.total_ms or 0.0:.0f} ms: {stages}"


def clock(t: float) -> str:
    """Minutes, seconds and thousandths."""
    minutes, t_ms = divmod(round(t * 1000), 60_000)
    return f"{minutes}:{t_ms / 1000:06.3f}"


def printed(story: Story) -> Iterator[str]:
    """The lines of the whole page."""
    yield from _headline(story)
    yield ""
    for row in conversation(story):
        yield f"{clock(row.t):>10}  {row.who:<{_WIDTH}}{_one_line(row.text)}"
        unheard = f"not heard: {_one_line(row.unheard)}" if row.unheard else ""
        yield from (f"{'':>{12 + _WIDTH}}{line}" for line in (unheard, row.more) if line)
    yield f"{clock(story.duration_s):>10}  {'end':<{_WIDTH}}{ending(story)}"
    yield ""
    yield from summary(story)


def _one_line(text: str) -> str:
    """What a peer said cannot move the cursor or pretend to be a line of ours."""
    return "".join(character if character.isprintable() else " " for character in text)


def _headline(story: Story) -> Iterator[str]:
    head = story.head
    yield f"call {head.call_id}: {head.provider}, {head.dialect}, agent {head.agent}"
    numbers = f"from {story.from_number or '?'} to {story.to_number or '?'}"
    yield f"{head.started_at}, {numbers}, gateway {head.gateway}"
    if head.trace_id:
        yield f"trace: {_one_line(head.trace_id)}"
    yield from (f"{what.lower()}: {how}" for what, how in changes(head))
    if story.hides_digits:
        yield f"hidden: {HIDDEN}"
    if story.note:
        yield f"note: {story.note}"


def changes(head: Head) -> Iterator[tuple[str, str]]:
    """What was done to a tape that is not as it was recorded: a word, and what it means."""
    if head.shrunk_by:
        by = f"by gateway {head.shrunk_by}, {head.shrunk_at}"
        yield "Shrunk", f"{by}: turns and frames of the call are missing"
    if head.renewed_by:
        by = f"by gateway {head.renewed_by}, {head.renewed_at}"
        yield "Renewed", f"{by}: what goes out is that gateway's doing, not what was on the wire"


def ending(story: Story) -> str:
    """How the call ended."""
    return f"{story.reason} ({story.result})" if story.reason else "(the tape stops here)"


def summary(story: Story) -> list[str]:
    """The call in figures."""
    heard_s = sum(speech.heard_ms for speech in story.agent) / 1000
    unheard_s = sum(speech.unheard_ms for speech in story.agent) / 1000
    lines = [f"agent: {heard_s:.1f} s heard, {unheard_s:.1f} s generated but never heard"]
    totals = [turn.total_ms for turn in story.turns if turn.total_ms is not None]
    told = f"turns: {len(story.turns)}, answered {len(totals)}"
    if totals:
        told += f", after {statistics.median(totals):.0f} ms (worst {max(totals):.0f} ms)"
    return [*lines, told]


def as_json(story: Story) -> dict[str, object]:
    """The same for scripts, and all moments."""
    head = story.head
    return {
        "call_id": head.call_id,
        "provider": head.provider,
        "dialect": head.dialect,
        "agent": head.agent,
        "started_at": head.started_at,
        "gateway": head.gateway,
        "trace_id": head.trace_id,
        "renewed_by": head.renewed_by,
        "renewed_at": head.renewed_at,
        "shrunk_by": head.shrunk_by,
        "shrunk_at": head.shrunk_at,
        "from": story.from_number,
        "to": story.to_number,
        "duration_s": story.duration_s,
        "result": story.result,
        "reason": story.reason,
        "note": story.note,
        "caller": [asdict(words) for words in story.caller],
        "speech": [asdict(each) | {"unheard_ms": each.unheard_ms} for each in story.agent],
        "answers": [asdict(answer) for answer in story.answers],
        "turns": [asdict(turn) | {"total_ms": turn.total_ms} for turn in story.turns],
        "moments": [asdict(moment) for moment in story.moments],
    }
