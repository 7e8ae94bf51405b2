"""The two state tables of a call; the diagram in the README is drawn from them.

``python -m gateway.states`` prints that diagram. A step that a state does not list is our own bug,
never a peer's: peers' messages are sorted out before a step is taken.
"""

import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final, Generic, TypeVar

from gateway.errors import LocalProtocolError


class Lifecycle(StrEnum):
    """From the provider's start message to the one record of the call."""

    STARTING = "starting"
    ACTIVE = "active"
    ENDING = "ending"
    ENDED = "ended"


class Turn(StrEnum):
    """Whose turn it is while the call is active."""

    LISTENING = "listening"
    THINKING = "thinking"
    SPEAKING = "speaking"


LIFECYCLE: Final[Mapping[Lifecycle, Mapping[str, Lifecycle]]] = {
    Lifecycle.STARTING: {
        "session ready": Lifecycle.ACTIVE,
        "last words": Lifecycle.ENDING,
        "over": Lifecycle.ENDED,
    },
    Lifecycle.ACTIVE: {"last words": Lifecycle.ENDING, "over": Lifecycle.ENDED},
    Lifecycle.ENDING: {"over": Lifecycle.ENDED},
    Lifecycle.ENDED: {},
}

TURN: Final[Mapping[Turn, Mapping[str, Turn]]] = {
    Turn.LISTENING: {
        "caller speaks": Turn.LISTENING,
        "answer owed": Turn.THINKING,
        "agent speaks": Turn.SPEAKING,
        "answer over": Turn.LISTENING,
    },
    Turn.THINKING: {
        "caller speaks": Turn.LISTENING,
        "answer owed": Turn.THINKING,
        "agent speaks": Turn.SPEAKING,
        "answer over": Turn.LISTENING,
    },
    Turn.SPEAKING: {
        "caller speaks": Turn.LISTENING,
        "answer owed": Turn.SPEAKING,
        "agent speaks": Turn.SPEAKING,
        "answer over": Turn.LISTENING,
    },
}

_State = TypeVar("_State", bound=StrEnum)


class Machine(Generic[_State]):
    """A state and the table that says where each step leads."""

    def __init__(self, table: Mapping[_State, Mapping[str, _State]], start: _State) -> None:
        self._table = table
        self.state = start

    def can(self, step: str) -> bool:
        """Whether the present state has such a step."""
        return step in self._table[self.state]

    def step(self, step: str) -> bool:
        """Take a step; true when the state changed.

        Raises:
            LocalProtocolError: the present state has no such step.
        """
        before = self.state
        try:
            self.state = self._table[before][step]
        except KeyError:
            raise LocalProtocolError(f"no step {step!r} in state {before.value!r}") from None
        return self.state is not before


def diagram() -> str:
    """Both tables as a Mermaid state diagram; steps that change nothing are left out."""
    lines = (
        "stateDiagram-v2",
        *_arrows(LIFECYCLE, Lifecycle.STARTING),
        f"state {Lifecycle.ACTIVE} {{",
        *(f"    {arrow}" for arrow in _arrows(TURN, Turn.LISTENING)),
        "}",
    )
    return "\n    ".join(lines) + "\n"


def _arrows(table: Mapping[_State, Mapping[str, _State]], start: _State) -> Iterator[str]:
    yield f"[*] --> {start}"
    for state, steps in table.items():
        for target in dict.fromkeys(steps.values()):
            if target is not state:
                names = ", ".join(name for name, to in steps.items() if to is target)
                yield f"{state} --> {target}: {names}"
        if not steps:
            yield f"{state} --> [*]"


if __name__ == "__main__":
    sys.stdout.write(diagram())
