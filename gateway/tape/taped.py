"""A taped call as a test asks for it: who said what, what was heard, how long it took."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gateway.events import BargedIn, Fact
from gateway.tape.judge import Verdict, judge
from gateway.tape.story import Speech, Story, Turn, Words, story_of


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the model called; ``arguments`` is {} where it sent no JSON object."""

    t: float
    name: str
    arguments: dict[str, object]


class TapedCall:
    """One taped call; everything is read and replayed when it is first asked for.

    Raises:
        TapeError: on the first question, where the tape cannot be read or played.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @cached_property
    def story(self) -> Story:
        """All that happened, on one clock."""
        return story_of(self.path)

    @cached_property
    def verdict(self) -> Verdict:
        """What a byte-exact replay finds."""
        return judge(self.path, is_assessed=True)

    @property
    def facts(self) -> list[tuple[float, Fact]]:
        """What the call reports in the replay, with its times in s."""
        return self.verdict.replayed.facts

    @property
    def caller(self) -> list[Words]:
        """What the caller said, turn by turn; the text needs a transcription model."""
        return self.story.caller

    @property
    def agent(self) -> list[Speech]:
        """What the agent said, item by item: heard and unheard."""
        return self.story.agent

    @property
    def turns(self) -> list[Turn]:
        """From the caller's last sound to the first of the answer in the caller's ear."""
        return self.story.turns

    @property
    def latencies_ms(self) -> list[float]:
        """How long each answer took that was heard."""
        return [total for turn in self.turns if (total := turn.total_ms) is not None]

    @property
    def said(self) -> str:
        """All of the caller's words."""
        return _joined(words.text for words in self.caller)

    @property
    def heard(self) -> str:
        """The agent's words that reached the caller's ear."""
        return _joined(speech.heard_text for speech in self.agent)

    @property
    def unheard(self) -> str:
        """The agent's words that were generated and never heard."""
        return _joined(speech.unheard_text for speech in self.agent)

    @property
    def interruptions(self) -> int:
        """How often the caller silenced the agent."""
        return sum(isinstance(fact, BargedIn) for _, fact in self.facts)

    @property
    def keys(self) -> str:
        """The keys pressed (masked tapes show 1 for every digit)."""
        return "".join(self._texts("key"))

    @property
    def errors(self) -> list[str]:
        """What went wrong, in words."""
        return self._texts("error")

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The functions the model called, in order."""
        found = [moment for moment in self.story.moments if moment.kind == "tool"]
        return [_tool_call(moment.t, moment.text) for moment in found]

    @property
    def termination(self) -> tuple[str, str]:
        """Result and reason; ("", "") where the tape does not go to the end."""
        return self.story.result, self.story.reason

    def _texts(self, kind: str) -> list[str]:
        return [moment.text for moment in self.story.moments if moment.kind == kind]


def _joined(texts: Iterable[str]) -> str:
    return " ".join(stripped for text in texts if (stripped := text.strip()))


def _tool_call(t: float, text: str) -> ToolCall:
    name, _, rest = text.partition("(")
    try:
        arguments = json.loads(rest.removesuffix(")"))
    except ValueError:
        arguments = {}
    return ToolCall(t, name, arguments if isinstance(arguments, dict) else {})
