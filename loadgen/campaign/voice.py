"""Where whatever takes a while says what it does: a campaign, a study, the gate."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text


class Voice(Protocol):
    """The three things that are said."""

    def step(self, text: str) -> None:
        """What is going on right now; may be shown for a moment only."""

    def say(self, text: str) -> None:
        """Something that stays on the screen."""

    def advance(self, runs: int, of: int, run: str) -> None:
        """So many of the planned runs are on disk; the last of them is `run`."""


class Silent:
    """A voice that says nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def advance(self, runs: int, of: int, run: str) -> None:
        """Nothing."""


class Terminal:
    """A progress bar where there is a terminal, a line for each sentence and run where there is none.

    `notes`: every sentence that was said, for a summary.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.notes: list[str] = []
        self._progress = Progress(
            TextColumn("{task.fields[count]}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, count="")

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def step(self, text: str) -> None:
        """The text right of the bar."""
        self._progress.update(self._task, description=text)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.notes.append(text)
        self.console.print(Text(text), soft_wrap=True)

    def advance(self, runs: int, of: int, run: str) -> None:
        """Moves the bar; without a terminal a line in a log."""
        self._progress.update(self._task, completed=runs, total=of, count=f"{runs}/{of} runs")
        if not self.console.is_terminal:
            self.console.print(Text(f"{runs}/{of} {run}"), soft_wrap=True)
