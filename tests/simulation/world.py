"""Runs one script: makes loop, network, peers and Olla, plays it to its end, and says what was found."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from random import Random
from typing import Any
from unittest import mock

from proxy.config import Config
from proxy.control.access import AccessLog
from proxy.core.discovery import DiscoveryService
from proxy.core.service import Instance
from proxy.core.stats import StatsCollector
from proxy.olla.service import OllaProxy
from tests.simulation import peek
from tests.simulation.client import ClientActor
from tests.simulation.endpoint import Endpoint
from tests.simulation.ledger import Exchange
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.oracle import Finding, Oracle
from tests.simulation.script import Mode, Script
from tests.simulation.transport import FakeSocket, Shape

QUIET = 60.0  # simulated seconds in which a client got nothing and did nothing, after which it will wait for ever
LONGEST = 3600.0  # simulated seconds that no script needs: the slowest client reads 1 KB/s, of less than 1 MB
SETTLING = 3.0  # simulated seconds in which what is under way ends after the last client


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run showed."""

    findings: tuple[Finding, ...]
    exchanges: int  # requests whose head the proxy took
    seconds: float  # simulated
    counts: dict[str, int]
    story: tuple[str, ...]


class World:
    """One run of one script."""

    def __init__(self, script: Script, tell: bool = False) -> None:
        self.script = script
        random = Random(script.seed)
        self.loop = SimulatedLoop(random, script.polls_first)
        self.exchanges = {ask.tag: Exchange(ask) for client in script.clients for ask in client.asks}
        self.stats = StatsCollector()
        self.oracle = Oracle(self.loop, self.stats, self.exchanges.get)
        if tell:
            self.oracle.story = []
        self.loop.failed = self.oracle.failed
        shape = Shape(script.kernel, script.high_water, script.reads_on)
        self.network = Network(self.loop, shape, script.linger, random, self.oracle.offence)
        self.oracle.network = self.network
        self.network.note = self.oracle.note
        self.config = dict(script.config)
        config = self._make_config()
        self.discovery = DiscoveryService(config.endpoint_specs(), 0.0)
        self.oracle.routable = lambda: self.discovery.routable
        self.service = OllaProxy(config, self.discovery, self.stats, Instance("simulated"), self.network)
        peek.ordered_clients(self.service)
        self.oracle.service = self.service
        self.actors: list[ClientActor] = []

    def run(self) -> Outcome:
        """Play it."""
        asyncio.events._set_running_loop(self.loop)
        logging.disable(logging.WARNING)
        listener = _Listener(self.oracle)
        logger = logging.getLogger("proxy")
        logger.addHandler(listener)
        try:
            with peek.simulated_machine(self.loop), mock.patch.object(AccessLog, "record", self._record):
                self._start()
                self._play()
                self._stop()
        finally:
            logger.removeHandler(listener)
            logging.disable(logging.NOTSET)
            asyncio.events._set_running_loop(None)
        return Outcome(
            findings=tuple(self.oracle.findings),
            exchanges=self.stats.total,
            seconds=self.loop.now,
            counts={"success": self.stats.success, "failed": self.stats.failed, "left": self.stats.client_disconnected},
            story=tuple(self.oracle.story or ()),
        )

    # -- parts of a run

    def _start(self) -> None:
        script, loop = self.script, self.loop
        for name in script.endpoints:
            self.network.hosts[f"{name}.test"] = Endpoint(f"{name}.test", loop, self.oracle, self.exchanges.get)
            self.network.modes[f"{name}.test"] = Mode(name, 0.0, "accept")
        starting = loop.create_task(self.service.start(FakeSocket()))  # type: ignore[arg-type]  # all that is asked of it
        loop.run_until(starting.done, 1.0)
        starting.result()
        self.oracle.endpoints_changed(self.discovery.endpoints)
        loop.after_event = self.oracle.after_event
        for mode in script.modes:
            loop.at(mode.at, self._change_mode, mode)
        for reload in script.reloads:
            loop.at(reload.at, loop.call_soon, self._reload, reload.changes)
        for check in script.checks:
            loop.at(check.at, loop.call_soon, self._check, check.endpoint, check.ok)
        for client in script.clients:
            exchanges = [self.exchanges[ask.tag] for ask in client.asks]
            self.actors.append(ClientActor(client, exchanges, loop, self.network, self.oracle, lambda _: None))
        loop.after(peek.TICK, self._look)

    def _play(self) -> None:
        script, loop = self.script, self.loop
        if script.stop_at is not None:
            loop.run_until(lambda: False, script.stop_at)
            return
        loop.run_until(lambda: all(actor.done or loop.now - actor.moved_at > QUIET for actor in self.actors), LONGEST)
        stuck = [actor.plan.name for actor in self.actors if not actor.done]
        if stuck:
            self.oracle.found("stuck", f"after {loop.now:.0f} s {stuck} still wait")
        loop.run_until(lambda: False, loop.now + SETTLING)
        if not stuck:
            self.oracle.at_rest()

    def _stop(self) -> None:
        loop, grace = self.loop, self.script.grace
        began = loop.now
        self.oracle.stopping = True
        self.oracle.note(f"stop({grace})")
        stopping = loop.create_task(self.service.stop(grace))
        loop.run_until(stopping.done, began + grace + 5.0)
        if not stopping.done():
            self.oracle.found("stop-hangs", f"stop({grace}) goes on after {loop.now - began:.1f} s")
            return
        if stopping.exception() is not None:
            self.oracle.failed("stop raised", stopping.exception())
            return
        took = loop.now - began
        self.oracle.note(f"stopped after {took:.3f} s")
        self._exit(graceful=took < grace)
        loop.run_until(lambda: False, loop.now + 30.0)
        self._check_nothing_left()
        self.oracle.at_end(list(self.exchanges.values()), graceful=took < grace)

    def _exit(self, graceful: bool) -> None:
        """The process ends: what is in its memory is lost, what its kernel has goes out."""
        for transport, client in self.network.clients:
            if graceful and transport.out and not client.left:
                self.oracle.found(
                    "cut-by-stop", f"{client.name}: {transport.out} bytes are still in the proxy's memory"
                )
        for transport, _ in self.network.clients + self.network.upstreams:
            transport.process_ended()

    def _check_nothing_left(self) -> None:
        for transport, watch in self.network.clients + self.network.upstreams:
            if not watch.is_closing:
                self.oracle.found("open-after-stop", f"{transport!r} is open")
        if self.network.connects:
            self.oracle.found("connecting-after-stop", f"{len(self.network.connects)} connects")
        timers = [repr(timer.callback) for timer in self.loop.timers_left()]
        if timers:
            self.oracle.found("timers-after-stop", ", ".join(timers))
        if not all(task.done() for task in self.loop.tasks):
            self.oracle.found("tasks-after-stop", f"{sum(not task.done() for task in self.loop.tasks)} tasks")

    # -- events

    def _look(self) -> None:
        self.network.forget_closed()
        self.oracle.look()
        if not self.oracle.stopping:
            self.loop.after(peek.TICK / 2, self._look)

    def _change_mode(self, mode: Mode) -> None:
        self.oracle.note(f"{mode.endpoint}: connects {mode.connects}")
        self.network.modes[f"{mode.endpoint}.test"] = mode

    def _reload(self, changes: dict[str, Any]) -> None:
        self.oracle.note(f"reload: {changes}")
        self.config.update(changes)
        config = self._make_config()
        self.discovery.update(config.endpoint_specs(), self.loop.now)
        self.service.update_config(config)
        self.oracle.endpoints_changed(self.discovery.endpoints)

    def _check(self, name: str, ok: bool) -> None:
        for endpoint in self.discovery.endpoints:
            if endpoint.name == f"{name}.test":
                self.oracle.note(f"check: {name} {'ok' if ok else 'failed'}")
                self.discovery.record_check(endpoint, ok)

    def _record(self, *_: Any, target: str, status: int, outcome: str, endpoint: str, **__: Any) -> None:
        self.oracle.recorded(target, status, outcome, endpoint)

    def _make_config(self) -> Config:
        values = {"server.access_log": True, **self.config}
        names = values.pop("endpoints", self.script.endpoints)
        nested: dict[str, Any] = {
            "endpoints": [{"name": f"{name}.test", "url": f"http://{name}.test"} for name in names],
            "health": {"unhealthy_after": 1},
        }
        for key, value in values.items():
            *path, last = key.split(".")
            section = nested
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        config = Config.model_validate(nested)
        self._take_limits(config)
        return config

    def _take_limits(self, config: Config) -> None:
        now, limits, proxy = self.loop.now, self.oracle.limits, config.proxy
        limits.set("connect", proxy.connect_timeout, now)
        limits.set("head", proxy.head_wait, now)
        limits.set("idle", proxy.idle_wait, now)
        limits.set("pool", proxy.pool_wait_timeout, now)
        limits.set("duration", proxy.max_duration or 0.0, now)
        limits.set("body", config.server.body_timeout, now)
        self.oracle.retries_all = proxy.retry_non_idempotent
        self.oracle.prewarms = bool(proxy.pools.prewarm)


class _Listener(logging.Handler):
    """Takes what Olla logs as an error: an exception that it caught."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__(logging.ERROR)
        self._oracle = oracle

    def emit(self, record: logging.LogRecord) -> None:
        self._oracle.failed(record.getMessage(), record.exc_info[1] if record.exc_info else None)


def run(script: Script, tell: bool = False) -> Outcome:
    """Run a script; `tell`: write down its story."""
    return World(script, tell).run()
