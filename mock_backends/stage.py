"""What one backend's connections share: its behaviour at the moment, its counts, its clockwork."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from mock_backends.counts import Counts
from mock_backends.faults import FaultPlan
from mock_backends.pacing import Pace
from mock_backends.prefixes import PrefixCache
from mock_backends.profile import Profile
from mock_backends.tape import TapeLibrary
from mock_backends.wheel import Turn

Schedule = Callable[[int, Turn], None]


class Stage:
    """Owned by its backend, which replaces all that it declares when its behaviour changes."""

    __slots__ = ("counts", "faults", "library", "loop", "pace", "prefixes", "profile", "schedule", "stamp")

    profile: Profile
    library: TapeLibrary
    pace: Pace | None
    prefixes: PrefixCache | None
    faults: FaultPlan | None

    def __init__(self, loop: asyncio.AbstractEventLoop, schedule: Schedule) -> None:
        self.loop = loop
        self.schedule = schedule
        self.counts = Counts()
        self.stamp = b""  # the part of every head that changes with the second and the backend

    def metrics(self) -> bytes:
        """What vLLM's /metrics says, as far as a mock can know it."""
        c = self.counts
        model = json.dumps(self.profile.models[0])
        rows = [
            ("num_requests_running", "gauge", c.active - c.queued),
            ("num_requests_waiting", "gauge", c.queued),
            ("prompt_tokens_total", "counter", c.prompt_tokens),
            ("generation_tokens_total", "counter", c.output_tokens),
            ("request_success_total", "counter", c.requests - c.refused - c.active),
        ]
        return "".join(
            f"# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name={model}}} {value}\n" for name, kind, value in rows
        ).encode()
