"""Open loop: sends each request of a plan when it is due, whether or not earlier ones have been answered.

The walk itself runs in the hub, as the timer's callback: there is no switch between the moment the timer fires and the
send. Each request gets a greenlet of a pool; the next request's bytes are made while there is nothing else to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic_ns
from typing import Any, Final

import gevent
from gevent.event import Event
from greenlet import getcurrent, greenlet

from loadgen.driver.client import Client, ToSend
from loadgen.driver.timer import Timer
from loadgen.wire.stream import NEVER
from loadgen.workload.payload import Payloads
from loadgen.workload.plan import Ints64, Plan, chosen

_BURST: Final = 32  # requests sent in a row before sockets are served again
_BLOCK: Final = 16384  # rows of the plan turned into Python numbers at a time


class PlanWalker:
    """Walks the rows `share` of `plan`, from `t0_ns`. `finished` is set when the last one was sent or `stop` called."""

    def __init__(self, plan: Plan, share: Ints64, payloads: Payloads, client: Client, timer: Timer, t0_ns: int) -> None:
        self.finished = Event()
        self._client = client
        self._timer = timer
        self._hub = gevent.get_hub()
        self._free: list[Any] = []  # greenlets without work
        self._requests = self._made(plan, share, payloads, t0_ns)
        self._next = next(self._requests, None)
        self._walks = False

    def start(self) -> None:
        """Begins to walk and returns at once. Does nothing if it walks already."""
        if self._next is None:
            self.finished.set()
        elif not self._walks:
            self._walks = True
            self._timer.at(self._next.intended_ns, self._due)

    def stop(self) -> None:
        """Sends nothing more."""
        self._next = None
        self.finished.set()

    def _made(self, plan: Plan, share: Ints64, payloads: Payloads, t0_ns: int) -> Iterator[ToSend]:
        job = self._client.job
        cancel_share, cancel_after = (job.cancel.share, job.cancel.after_events) if job.cancel else (0.0, NEVER)
        slow_share = job.slow_read.share if job.slow_read else 0.0
        for begin in range(0, len(share), _BLOCK):
            rows = share[begin : begin + _BLOCK]
            columns = (plan.offset_ns, plan.template, plan.prompt_bytes, plan.output_tokens, plan.request_seed)
            values = [rows.tolist(), *(column[rows].tolist() for column in columns), plan.warmup[rows].tolist()]
            for number, offset, template, prompt, tokens, seed, warmup in zip(*values, strict=True):
                data, body_size = payloads.build(number, template, prompt, tokens, seed)
                after = cancel_after if cancel_share and chosen(job.seed, number, cancel_share) else NEVER
                slow = slow_share > 0 and chosen(job.seed + 1, number, slow_share)
                yield ToSend(number, template, data, body_size, t0_ns + offset, warmup, after, slow)

    def _due(self) -> None:
        now = monotonic_ns()
        for _ in range(_BURST):
            request = self._next
            if request is None:
                return
            if request.intended_ns > now:
                now = monotonic_ns()
                if request.intended_ns > now:
                    self._timer.at(request.intended_ns, self._due)
                    return
            self._dispatch(request)
            if self._next is None:  # stopped meanwhile
                return
            self._next = next(self._requests, None)
            if self._next is None:
                self.finished.set()
        self._timer.at(now, self._due)

    def _dispatch(self, request: ToSend) -> None:
        worker = self._free.pop() if self._free else greenlet(self._work, self._hub)
        worker.switch(request)  # comes back when the request waits for its reply

    def _work(self, request: ToSend) -> None:
        me = getcurrent()
        while True:
            self._client.exchange(request)
            self._free.append(me)
            request = self._hub.switch()
