"""Where whatever takes a while says what it does: a campaign, a study, the gate."""

from __future__ import annotations

import sys
from typing import Protocol


class Voice(Protocol):
    """The three things that are said."""

    def step(self, text: str) -> None:
        """What is going on right now; may be shown for a moment only."""

    def say(self, text: str) -> None:
        """Something that stays on the screen."""

    def advance(self, runs: int, of: int) -> None:
        """So many of the planned runs are on disk."""


class Silent:
    """A voice that says nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def advance(self, runs: int, of: int) -> None:
        """Nothing."""


class Lines(Silent):
    """What stays, and each run, as a line on stderr, so that stdout holds the result alone."""

    def say(self, text: str) -> None:
        """A line."""
        print(text, file=sys.stderr, flush=True)

    def advance(self, runs: int, of: int) -> None:
        """A line."""
        print(f"{runs}/{of} runs", file=sys.stderr, flush=True)
