"""One process of ours: leashed, pinned, in a process group of its own, its output kept in files beside the run.

Output goes to files and not to pipes: a file never fills up and blocks the process under test, needs no reader thread,
and stays as evidence. The ready line and the driver's progress are read from the growing file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from loadgen.errors import Missing

_LEASH = Path(__file__).with_name("leash.py")
_POLL_S = 0.01


class ChildError(Missing):
    """A process did not start or did not become ready; the message carries the end of what it wrote."""


class Child:
    """A started process. Owns its pid, its process group and its two output files; `stop` ends all of the group."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        cores: Iterable[int] | None = None,
        env: Mapping[str, str] | None = None,
        held: bool = False,
        cwd: Path | None = None,
    ) -> None:
        """`held`: it reads from us and waits for `release`. `cwd`: the folder it starts in, ours if None."""
        self.name = name
        self.stdout = folder / f"{name}.stdout"
        self.stderr = folder / f"{name}.stderr"
        self._read_from = 0
        self._ended = False
        self.started_ns = time.monotonic_ns()
        where = "-" if cores is None else ",".join(str(core) for core in sorted(cores))
        leash = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), where]
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self._process = subprocess.Popen(
                [*leash, *command],
                stdin=subprocess.PIPE if held else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=cwd,
                # PYTHONSAFEPATH: a folder `reports` in the current one must not be taken for our package.
                env={**os.environ, "PYTHONSAFEPATH": "1", **(env or {})},
                start_new_session=True,  # Ctrl-C reaches the conductor only, which then ends its children in order
            )

    @property
    def pid(self) -> int:
        """Process id, also the id of its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._process.poll()

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.exit_code is None

    def how_it_ended(self) -> str:
        """`ended with exit code 3`, `was ended by SIGKILL`, or `is running`."""
        code = self.exit_code
        if code is None:
            return "is running"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def last_words(self, lines: int = 3) -> str:
        """The last lines it wrote to stderr, in one line; empty if none."""
        try:
            text = self.stderr.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return " | ".join(line.strip() for line in text.strip().splitlines()[-lines:])

    def json_lines(self) -> Iterator[dict[str, Any]]:
        """The JSON objects it wrote to stdout since the last call; other lines are skipped, half lines wait."""
        with self.stdout.open("rb") as file:
            file.seek(self._read_from)
            fresh = file.read()
        whole = fresh.rfind(b"\n") + 1
        self._read_from += whole
        for line in fresh[:whole].splitlines():
            if line.lstrip().startswith(b"{"):
                with contextlib.suppress(ValueError):
                    data = json.loads(line)
                    if isinstance(data, dict):
                        yield data

    def wait_ready(self, timeout_s: float) -> dict[str, Any]:
        """The ready line of our own programs. Raises ChildError if it ends or stays silent for `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            running = self.alive()  # asked before reading, so that nothing written before its end is missed
            for line in self.json_lines():
                if line.get("ready") is True:
                    return line
            if not running:
                raise ChildError(f"{self.name} {self.how_it_ended()} before it was ready{self._because()}")
            if time.monotonic() > deadline:
                raise ChildError(f"{self.name} was not ready after {timeout_s:g} s{self._because()}")
            time.sleep(_POLL_S)

    def _because(self) -> str:
        words = self.last_words()
        return f": {words}" if words else f" and wrote nothing to {self.stderr}"

    def raise_priority(self, priority: int) -> None:
        """Real-time from now on, before everything with a lower or the usual priority; no change if not permitted.

        Not from its start: a second of imports at this priority would stop everything else on its core.
        """
        with contextlib.suppress(OSError):
            os.sched_setscheduler(self.pid, os.SCHED_RR, os.sched_param(priority))

    def tell(self, line: str) -> None:
        """A line on the stdin of a held process. Harmless if it is gone."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(f"{line}\n".encode())
                self._process.stdin.flush()

    def release(self, begin_ns: int | None = None) -> None:
        """Lets a held process begin, a driver at `begin_ns` of the monotonic clock."""
        self.tell("go" if begin_ns is None else f"go {begin_ns}")
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def ask_to_stop(self) -> None:
        """SIGTERM to the process itself, which ends its own children; returns at once."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def stop(self, grace_s: float = 3.0) -> None:
        """Ends it: SIGTERM, `grace_s` seconds, then SIGKILL to whatever is left of its group. Safe to call twice."""
        if self._ended:
            return  # its id may be somebody else's by now
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        # The group outlives its leader if a worker was left behind; while it has members its id is not given away.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._ended = True
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Whoever asks it to end, by Ctrl-C, SIGTERM or SIGHUP, what is run inside ends in order: by KeyboardInterrupt."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
