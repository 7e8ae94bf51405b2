"""What the commands print: lines for people, JSON for scripts, a bar only on a terminal."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Bar(Protocol):
    """Something that takes a while."""

    def advance(self, amount: float) -> None:
        """So much more of it is done."""


class _Silent:
    def advance(self, amount: float) -> None:
        """No terminal, no bar."""


class _Shown:
    def __init__(self, progress: Progress, total: float, text: str) -> None:
        self._progress = progress
        self._task = progress.add_task(text, total=total)

    def advance(self, amount: float) -> None:
        self._progress.advance(self._task, amount)


class _Console(Console):
    """Nobody reads any more (``| head``): go on without printing, whatever is under way."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Terminal:
    """One command's output; plain text wherever it does not go to a person's screen."""

    def __init__(self, *, as_json: bool = False) -> None:
        self._console = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._as_json = as_json

    @property
    def is_interactive(self) -> bool:
        """Whether a person is looking."""
        return sys.stdout.isatty()

    def say(self, text: str = "") -> None:
        """One line, unless JSON was asked for."""
        if not self._as_json:
            self._console.print(text)

    def write(self, text: str) -> None:
        """Part of a line, as it comes."""
        if not self._as_json:
            self._console.print(text, end="")

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Two columns."""
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            self.say(f"  {name:<{width}}  {value}")

    def result(self, values: Mapping[str, object]) -> None:
        """The one JSON object, if that was asked for."""
        if self._as_json:
            print(json.dumps(values, indent=2))  # noqa: T201  # this is the printing place

    @contextmanager
    def bar(self, text: str, total: float) -> Iterator[Bar]:
        """A progress bar on a terminal, nothing elsewhere."""
        if self._as_json or not self.is_interactive:
            yield _Silent()
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield _Shown(progress, total, text)
