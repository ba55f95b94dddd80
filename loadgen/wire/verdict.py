"""Whether a complete reply is the one that was expected. Pure."""

from __future__ import annotations

from typing import NamedTuple

from loadgen.wire.rows import OK, REFUSED, WRONG_REPLY
from loadgen.wire.stream import NEVER, MockHead
from loadgen.workload.job import Template


class Verdict(NamedTuple):
    """Outcome, what was wrong (for people), and the row's `digest_ok`: 1, 0, or NEVER if there is no digest to meet."""

    outcome: int
    error: str | None
    digest_ok: int


_GOOD = Verdict(OK, None, 1)


class Judge:
    """Judges the replies to one template. `from_mock`: they must carry a mock's statements and agree with them.

    `real`: they come from a server whose streams are known to have an end and content.
    """

    def __init__(self, template: Template, *, from_mock: bool, real: bool = False) -> None:
        expect = template.expect
        self._status = expect.status
        self._pinned = None if expect.digest is None else expect.digest.encode()
        self._events = expect.events
        self._from_mock = from_mock
        self._real = real

    def judge(self, status: int, said: MockHead, events: int, digest: bytes, order: str | None) -> Verdict:
        """The verdict on a reply with this status, these counted `events` and this `digest` of its body.

        `order`: what the scanner found wrong with the events' order or number.
        """
        if status != self._status:
            return Verdict(REFUSED if status >= 400 else WRONG_REPLY, f"status {status}, not {self._status}", NEVER)
        faults = []
        stated = said.digest if self._from_mock else None
        if stated is not None and digest != stated:
            faults.append("the digest is not the one in X-Mock-Digest")
        if self._pinned is not None and digest != self._pinned:
            faults.append("the digest is not the one the scenario pins")
        if self._from_mock and (stated is None or said.events == NEVER):
            faults.append("no X-Mock-Digest or X-Mock-Events header")
        if order is not None and (self._from_mock or self._real):
            faults.append(order)
        if self._events is not None and events != self._events:
            faults.append(f"{events} events, not the {self._events} the scenario expects")
        has_digest = stated is not None or self._pinned is not None
        if not faults:
            return _GOOD if has_digest else Verdict(OK, None, NEVER)
        return Verdict(WRONG_REPLY, "; ".join(faults), 0 if has_digest else NEVER)
