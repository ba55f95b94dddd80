"""Makes a failing script short: drops and simplifies whatever the finding does not need (delta debugging).

Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002: halves first, then smaller parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence
from copy import deepcopy
from dataclasses import fields
from typing import Any

from tests.simulation.script import Answer, Ask, Client, Script
from tests.simulation.world import run

KEPT = {"tag", "name", "method", "framing", "asks", "answers", "seed", "at", "endpoint"}  # what makes a part itself


def shrink(script: Script, kind: str, runs: int = 1500) -> Script:
    """A script as short as may be that still shows a finding of that kind; at most so many runs are tried."""
    return Shrinker(script, kind, runs).run()


class Shrinker:
    """The best script so far, and how many runs may still be tried."""

    def __init__(self, script: Script, kind: str, runs: int) -> None:
        self.best = deepcopy(script)
        self._kind = kind
        self._left = runs

    def run(self) -> Script:
        """Drop and simplify until nothing more goes."""
        size = -1
        while size != self._size() and self._left > 0:
            size = self._size()
            self._drop_parts()
            self._simplify()
        return self.best

    def _size(self) -> int:
        return len(describe(self.best))

    def _fails(self, script: Script) -> bool:
        self._left -= 1
        return any(finding.kind == self._kind for finding in run(script).findings)

    def _attempt(self, change: Callable[[Script], bool]) -> bool:
        """Keep what `change` does to a copy, if it does anything and the finding is still there."""
        if self._left <= 0:
            return False
        script = deepcopy(self.best)
        if change(script) and self._fails(script):
            self.best = script
            return True
        return False

    def _drop_parts(self) -> None:
        self._drop_from(lambda script: script.clients)
        for i in range(len(self.best.clients)):
            self._drop_from(lambda script, i=i: script.clients[i].asks)  # type: ignore[misc]  # bound at once
        self._drop_from(lambda script: script.reloads)
        self._drop_from(lambda script: script.checks)
        self._drop_from(lambda script: script.modes)

    def _drop_from(self, pick: Callable[[Script], MutableSequence[Any]]) -> None:
        size = len(pick(self.best))
        while size:
            start = 0
            while start < len(pick(self.best)):

                def change(script: Script, start: int = start, size: int = size) -> bool:
                    del pick(script)[start : start + size]
                    return True

                if not self._attempt(change):
                    start += size
            size //= 2

    def _simplify(self) -> None:
        for key in sorted(self.best.config):
            if "timeout" in key:  # by default they are longer than any run
                continue
            self._attempt(lambda script, key=key: script.config.pop(key) is not None)  # type: ignore[misc]  # bound at once
        for name, value in (("stop_at", None), ("linger", 0), ("high_water", 65536), ("kernel", 65536)):
            self._attempt(lambda script, name=name, value=value: _set(script, name, value))  # type: ignore[misc]  # bound at once
        for i, part in enumerate(_parts(self.best)):
            for name in _changed(part):
                self._attempt(lambda script, i=i, name=name: _reset(_nth(script, i), name))  # type: ignore[misc]  # bound at once


def _parts(script: Script) -> Iterator[Client | Ask | Answer]:
    for client in script.clients:
        yield client
        for ask in client.asks:
            yield ask
            yield from ask.answers


def _nth(script: Script, i: int) -> Client | Ask | Answer:
    return list(_parts(script))[i]


def _changed(part: Any) -> list[str]:
    """The fields that are not as they are by default, and may be."""
    default = _default(part)
    return [f.name for f in fields(part) if f.name not in KEPT and getattr(part, f.name) != getattr(default, f.name)]


def _default(part: Any) -> Any:
    if isinstance(part, Answer):
        return Answer()
    return Ask("") if isinstance(part, Ask) else Client("", 0, 0.0, [])


def _reset(part: Any, name: str) -> bool:
    return _set(part, name, getattr(_default(part), name))


def _set(part: Any, name: str, value: Any) -> bool:
    if getattr(part, name) == value:
        return False
    setattr(part, name, value)
    return True


def describe(script: Script) -> str:
    """A script for people: a line for each part, without what is as always."""
    stops = "when all is done" if script.stop_at is None else f"at {script.stop_at:.4f}"
    lines = [
        f"world {script.seed}: endpoints {' '.join(script.endpoints)}, "
        f"stops {stops} with grace {script.grace}, "
        f"{'asyncio' if script.polls_first else 'uvloop'} order, reads {'on' if script.reads_on else 'once a pass'}, "
        f"high water {script.high_water}, kernel {script.kernel}, "
        f"a cancelled connect takes up to {script.linger} passes"
    ]
    lines += [f"  {key}: {value}" for key, value in sorted(script.config.items())]
    lines += [
        f"  at {part.at:.4f} {part}" for part in sorted((*script.modes, *script.reloads, *script.checks), key=_at)
    ]
    for client in script.clients:
        lines.append(f"  client {client.name} at {client.at:.4f}{_shown(client)}")
        for ask in client.asks:
            lines.append(f"    {ask.method} {ask.tag} body {ask.framing}{_shown(ask)}")
            lines += [f"      answer {answer.framing}{_shown(answer)}" for answer in ask.answers]
    return "\n".join(lines)


def _at(part: Any) -> float:
    return float(part.at)


def _shown(part: Any) -> str:
    return "".join(f", {name} {getattr(part, name)!r}" for name in _changed(part))
