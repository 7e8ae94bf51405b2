"""Things to do later, by name, on a clock that is handed in."""

from collections.abc import Callable

Action = Callable[[float], None]


class Timers:
    """Named timers; setting a name again moves it. Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self._due: dict[str, tuple[float, Action]] = {}

    def set(self, name: str, due_s: float, action: Action) -> None:
        """Run ``action(now)`` once, at ``due_s`` or as soon after as somebody looks."""
        self._due[name] = (due_s, action)

    def drop(self, name: str) -> None:
        """Forget a timer; fine when there is none of this name."""
        self._due.pop(name, None)

    def clear(self) -> None:
        """Forget all of them."""
        self._due.clear()

    def next_s(self) -> float | None:
        """When the first one is due, None when there is none."""
        return min((due_s for due_s, _ in self._due.values()), default=None)

    def run(self, now: float) -> None:
        """Run everything due by ``now``, earliest first; what that sets waits for the next look."""
        due = sorted(
            ((due_s, name) for name, (due_s, _) in self._due.items() if due_s <= now),
        )
        for due_s, name in due:
            self._run_one(name, due_s, now)

    def _run_one(self, name: str, due_s: float, now: float) -> None:
        # An earlier action may have dropped or moved it.
        if self._due.get(name, (None,))[0] == due_s:
            self._due.pop(name)[1](now)
