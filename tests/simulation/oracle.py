"""The invariants: `after_event` runs behind every callback of the loop, `look` on a clock, `at_end` at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.core.endpoint import Endpoint
from proxy.core.stats import StatsCollector
from proxy.olla.breaker import CircuitBreaker
from tests.simulation import peek
from tests.simulation.ledger import IDEMPOTENT, Attempt, ClientWatch, Exchange, UpstreamWatch
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network

TOKEN_LIVES = 5  # passes after which what an endpoint did justifies nothing any more
LATE = 2 * peek.TICK + 0.005  # after its limit, the latest a timeout may fire; a pass and the grid included
SOON = 1e-6


@dataclass(frozen=True, slots=True)
class Finding:
    """One invariant that did not hold."""

    kind: str
    text: str
    at: float


@dataclass(slots=True)
class Token:
    """What an endpoint did: good for one failure, and for one strike of its breaker."""

    why: str
    born: int
    failures: int
    strikes: int


@dataclass(slots=True)
class Seen:
    """An endpoint as it was after the last event."""

    endpoint: Endpoint
    requests: int = 0
    failed: int = 0
    success: int = 0
    breaker: CircuitBreaker | None = None
    failures: int = 0
    opened: int = 0
    epoch: int = 0


class Limits:
    """The values a config key had, since when: a wait that a reload changed may go by the old one or the new."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float, float]]] = {}

    def set(self, key: str, seconds: float, now: float) -> None:
        """From now on, `key` has that value; 0 is no limit."""
        values = self._values.setdefault(key, [])
        value = seconds or float("inf")
        if not values or values[-1][1] != value:
            values.append((now, value))

    def in_force(self, key: str, since: float) -> list[float]:
        """The values in force at some moment since then."""
        values = self._values[key]
        last = max((i for i, (begun, _) in enumerate(values) if begun < since), default=0)
        return [value for _, value in values[last:]]

    def least(self, key: str, since: float) -> float:
        return min(self.in_force(key, since))

    def most(self, key: str, since: float) -> float:
        return max(self.in_force(key, since))


class Oracle:
    """Holds what is known of a run against what the proxy says of it."""

    def __init__(self, loop: SimulatedLoop, stats: StatsCollector, find: Callable[[str], Exchange | None]) -> None:
        self.loop = loop
        self.findings: list[Finding] = []
        self.story: list[str] | None = None
        self.retries_all = False
        self.limits = Limits()
        self.stats = stats
        self.service: Any
        self.network: Network
        self.stopping = False
        self.reloaded_at = 0.0
        self.prewarms = False
        self.routable: Callable[[], tuple[Endpoint, ...]]
        self._find = find
        self._seen: dict[str, Seen] = {}
        self._all_seen: list[Seen] = []
        self._tokens: dict[str, list[Token]] = {}
        self._last_stale: dict[str, float] = {}
        self._fresh: list[Exchange] = []  # recorded in this event
        self._queued: dict[Any, tuple[float, str]] = {}  # since when, and for which endpoint
        self._queues: dict[int, deque[Any]] = {}

    # -- told by the world

    def found(self, kind: str, text: str) -> None:
        """An invariant does not hold."""
        self.findings.append(Finding(kind, text, self.loop.now))
        self.note(f"*** {kind}: {text}")

    def note(self, text: str) -> None:
        """A line of the run's story."""
        if self.story is not None:
            self.story.append(f"{self.loop.now:9.4f}  {text}")

    def failed(self, what: str, exc: BaseException | None) -> None:
        """An exception escaped."""
        self.found(f"escaped-{type(exc).__name__}", f"{what}: {exc}")

    def endpoints_changed(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Started or reloaded: watch these; those that went are watched for their counts."""
        self.reloaded_at = self.loop.now
        breakers = peek.breakers(self.service)
        self._queues |= {id(queue): queue for queue in peek.queues(self.service)}
        known = {id(seen.endpoint): seen for seen in self._all_seen}
        for endpoint in endpoints:
            seen = known.get(id(endpoint))
            if seen is None:
                seen = Seen(endpoint)
                self._all_seen.append(seen)
            self._seen[endpoint.name] = seen
            breaker = breakers.get(endpoint)
            seen.breaker = breaker
            if breaker is not None:
                seen.failures, seen.opened, seen.epoch = breaker.failures, breaker.opened_count, breaker.epoch

    def offence(self, endpoint: str, why: str, strikes: bool) -> None:
        """An endpoint did what justifies one failure, and one strike if `strikes`."""
        self.note(f"{endpoint}: {why}")
        if why == "stale":
            self._last_stale[endpoint] = self.loop.now
        token = Token(why, self.loop.passes, int(why != "5xx"), int(strikes))
        self._tokens.setdefault(endpoint, []).append(token)

    # -- told by the watches

    def attempt_began(self, attempt: Attempt) -> None:
        """A request is written to an endpoint: may it be?"""
        exchange, upstream = attempt.exchange, attempt.upstream
        seen = self._seen.get(upstream.endpoint)
        self.note(f"{upstream.name}: the proxy writes {attempt.tag}{' (reused)' if attempt.reused else ''}")
        if exchange.answer:
            self.found("sent-after-answer", f"{attempt.tag}: its client was answered before")
        for before in exchange.attempts:
            if before.upstream.busy:
                self.found("two-attempts-at-once", f"{attempt.tag} while {before.tag} is under way")
            if exchange.ask.method not in IDEMPOTENT and not self.retries_all:
                self.found("sent-twice", f"{attempt.tag}: {exchange.ask.method} was written to {before.upstream.name}")
            elif before.given:
                self.found(
                    "sent-after-a-byte", f"{attempt.tag}: {before.upstream.name} had answered {before.given} bytes"
                )
            unchanged = exchange.head_at is not None and exchange.head_at >= self.reloaded_at
            same = before.upstream.endpoint == upstream.endpoint and unchanged
            if same and not (before.reused and not attempt.reused):
                self.found("endpoint-twice", f"{attempt.tag}: {upstream.endpoint} had it before")
        if attempt.reused and seen is not None:
            self._check_reuse(attempt, seen)

    def _check_reuse(self, attempt: Attempt, seen: Seen) -> None:
        if attempt.upstream.idle_since < self._last_stale.get(seen.endpoint.name, -1.0):
            self.found("older-than-a-stale-one", f"{attempt.tag} goes over {attempt.upstream.name}, idle since before")
        breaker = seen.breaker
        picked_now = seen.endpoint.requests > seen.requests
        if breaker is not None and breaker.state == peek.HALF_OPEN and picked_now:
            self.found("probe-over-a-reused-one", f"{attempt.tag} goes over {attempt.upstream.name}")

    def client_lost(self, client: ClientWatch) -> None:
        """A client's connection is over: what it asked must be given up."""
        self.note(f"{client.name}: connection lost for the proxy")
        for exchange in client.exchanges:
            for attempt in exchange.attempts:
                if attempt.upstream.busy and attempt.upstream.attempt is attempt:
                    self.found("not-cancelled", f"{attempt.tag} goes on though its client left")

    def recorded(self, target: str, status: int, outcome: str, endpoint: str) -> None:
        """The access log has a line."""
        exchange = self._find(target[1:])
        if exchange is None:
            self.found("unknown-record", target)
            return
        self.note(f"record: {exchange.ask.tag} {outcome} {status} {endpoint}")
        exchange.records.append((status, outcome, endpoint, self.loop.now))
        if len(exchange.records) > 1:
            self.found("two-records", f"{exchange.ask.tag}: {exchange.records}")
        if outcome == "success":
            client = exchange.client
            whole = exchange.answered_at is not None or (
                client is not None and client.present is exchange and client.until_close_ended()
            )
            if not whole and client is not None and not client.is_closing:
                self.found("success-of-a-part", f"{exchange.ask.tag}: a success, and its answer is not whole")
        self._fresh.append(exchange)

    # -- after every event

    def after_event(self) -> None:
        """Look at what changed."""
        stats = self.stats
        if stats.total != stats.success + stats.failed + stats.client_disconnected + stats.active or stats.active < 0:
            self._identity()
        for seen in self._all_seen:
            endpoint = seen.endpoint
            if endpoint.requests != (
                endpoint.success + endpoint.failed + endpoint.client_disconnected + endpoint.active
            ):
                self._endpoint_identity(endpoint)
            if endpoint.failed != seen.failed:
                self._failed_changed(seen)
            if endpoint.requests != seen.requests:
                self._requests_changed(seen)
            breaker = seen.breaker
            if breaker is not None and (breaker.failures != seen.failures or breaker.epoch != seen.epoch):
                self._breaker_changed(seen, breaker)
            seen.success = endpoint.success
        self._look_at_queue()
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            for exchange in fresh:
                self._check_record(exchange)

    def _identity(self) -> None:
        s = self.stats
        if not any(f.kind == "identity" for f in self.findings):
            self.found(
                "identity", f"total {s.total} = {s.success} + {s.failed} + {s.client_disconnected} + {s.active}?"
            )

    def _endpoint_identity(self, e: Endpoint) -> None:
        if not any(f.kind == "endpoint-identity" for f in self.findings):
            self.found(
                "endpoint-identity",
                f"{e.name}: {e.requests} = {e.success}+{e.failed}+{e.client_disconnected}+{e.active}?",
            )

    def _requests_changed(self, seen: Seen) -> None:
        more = seen.endpoint.requests > seen.requests
        seen.requests = seen.endpoint.requests
        breaker = seen.breaker
        if more and breaker is not None and breaker.state == peek.OPEN and breaker.epoch == seen.epoch:
            self.found("asked-while-open", f"{seen.endpoint.name}: its breaker is open")

    def _failed_changed(self, seen: Seen) -> None:
        more = seen.endpoint.failed - seen.failed
        seen.failed = seen.endpoint.failed
        for _ in range(more):
            if not self._waited(seen.endpoint.name) and not self._justified(seen, "failures"):
                self.found("failure-without-cause", f"{seen.endpoint.name} did nothing, and failed is {seen.failed}")

    def _breaker_changed(self, seen: Seen, breaker: CircuitBreaker) -> None:
        before, opened, epoch = seen.failures, seen.opened, seen.epoch
        seen.failures, seen.opened, seen.epoch = breaker.failures, breaker.opened_count, breaker.epoch
        if epoch == breaker.epoch:
            if breaker.failures < before and seen.endpoint.success == seen.success:
                text = f"{seen.endpoint.name}: {before} failures became {breaker.failures}, and nothing succeeded"
                self.found("forgiven-without-success", text)
            strikes = breaker.failures - before
        else:
            strikes = breaker.opened_count - opened
        if breaker.probes < 0:
            self.found("probes-below-zero", f"{seen.endpoint.name}: {breaker!r}")
        for _ in range(strikes):
            if not self._justified(seen, "strikes"):
                self.found("strike-without-cause", f"{seen.endpoint.name} did nothing: {breaker!r}")

    def _justified(self, seen: Seen, what: str) -> bool:
        born = self.loop.passes - TOKEN_LIVES
        name = seen.endpoint.name
        tokens = self._tokens[name] = [t for t in self._tokens.get(name, ()) if t.born >= born]
        overdue = self._overdue(name)
        if overdue:  # first, as it justifies only now; a token may be for what the proxy hears of in the next pass
            tokens.append(Token(overdue, self.loop.passes, int(what != "failures"), int(what != "strikes")))
            return True
        for token in tokens:
            if getattr(token, what):
                setattr(token, what, getattr(token, what) - 1)
                return True
        return False

    def _overdue(self, endpoint: str) -> str:
        """Why the proxy may give up on an endpoint now, if it may; each wait counts once."""
        for _, upstream in self.network.upstreams:
            attempt = upstream.attempt
            if upstream.endpoint != endpoint or attempt is None or attempt.blamed:
                continue
            if upstream.closed_in != self.loop.passes and not upstream.dying:
                continue
            if attempt.invalid or (attempt.over_at is None and self.wait_is_over(upstream, attempt)):
                attempt.blamed = True
                return "answered wrongly or not at all"
        for connect in self.network.connects:
            cancelled = connect.endpoint == endpoint and not connect.blamed and connect.is_cancelled()
            if cancelled and self._passed("connect", connect.began_at):
                connect.blamed = True
                return "did not accept"
        if self.longest_open() >= self.limits.least("duration", 0.0) - SOON:
            return "took too long in all"
        return ""

    def wait_is_over(self, upstream: UpstreamWatch, attempt: Attempt) -> bool:
        """Whether a limit of this try has passed."""
        if attempt.head_at is not None:
            return self._passed("idle", max(upstream.wait_since, attempt.head_at))
        if attempt.whole_at is not None:
            return self._passed("head", attempt.whole_at)
        return upstream.write_paused_at is not None and self._passed("head", upstream.write_paused_at)

    def _passed(self, key: str, since: float) -> bool:
        return self.loop.now - since >= self.limits.least(key, since) - SOON

    def _waited(self, endpoint: str) -> bool:
        """Whether somebody who had queued too long left the queue in this event; each counts once."""
        if not self._queued:
            return False
        still = {waiter for queue in self._queues.values() for _, waiter in queue}
        for waiter, (since, name) in self._queued.items():
            if name == endpoint and waiter not in still and self._passed("pool", since):
                del self._queued[waiter]
                return True
        return False

    def longest_open(self) -> float:
        """The age of the oldest request that is not answered."""
        since = [
            e.head_at for _, c in self.network.clients for e in c.exchanges if e.head_at is not None and not e.records
        ]
        since += [e.head_at for e in self._fresh if e.head_at is not None]
        return self.loop.now - min(since, default=self.loop.now)

    def _look_at_queue(self) -> None:
        waiting = [item for queue in self._queues.values() for item in queue]
        if waiting or self._queued:
            now = self.loop.now
            self._queued = {waiter: self._queued.get(waiter) or (now, pool.spec.name) for pool, waiter in waiting}

    def _check_record(self, exchange: Exchange) -> None:
        status, outcome, _, now = exchange.records[-1]
        client = exchange.client
        if client is None:
            self.found("record-of-nothing", f"{exchange.ask.tag} never came whole")
        elif outcome == "client_disconnected":
            if client.ended is None and not client.is_closing:
                self.found("client-blamed", f"{exchange.ask.tag}: its client is there")
        elif outcome == "failed" and status:
            if not exchange.answer and not client.is_closing:
                self.found("failure-unanswered", f"{exchange.ask.tag}: {status}, and the client got nothing")
            self._check_code(exchange, client, now)

    def _check_code(self, exchange: Exchange, client: ClientWatch, now: float) -> None:
        """Timeouts are never early."""
        code, since = exchange.code, exchange.head_at
        assert since is not None
        if code == "no_endpoint" and exchange.answered_at == now:
            open_now = [e.name for e in self.routable() if self._admits(e)]
            if open_now:
                self.found("no-endpoint-though", f"{exchange.ask.tag}: 503, and {open_now} could be asked")
        elif code == "pool_timeout" and not (self._passed("pool", since) or self._passed("duration", since)):
            self.found("early-pool-timeout", f"{exchange.ask.tag} after {now - since:.3f} s")
        elif code == "request_timeout" and not (self._passed("body", since) or self._passed("duration", since)):
            self.found("early-request-timeout", f"{exchange.ask.tag} after {now - since:.3f} s")
        elif code == "upstream_timeout":
            least = min(self.limits.least(key, since) for key in ("connect", "head", "duration"))
            if now - since < least - SOON:
                self.found("early-upstream-timeout", f"{exchange.ask.tag} after {now - since:.3f} s")

    def _admits(self, endpoint: Endpoint) -> bool:
        breaker = peek.breakers(self.service).get(endpoint)
        return breaker is None or breaker.allows(self.loop.now)

    # -- ten times a second

    def look(self) -> None:
        """Is anything late?"""
        now = self.loop.now
        for connect in self.network.connects:
            late = now - connect.began_at - self.limits.most("connect", connect.began_at) > LATE
            if late and not connect.given_up and not (self.prewarms and connect.began_at == 0.0):
                self._late("connect", f"{connect.endpoint}, connecting since {connect.began_at:.3f}")
                connect.given_up = True
        for _, upstream in self.network.upstreams:
            if upstream.busy and upstream.attempt is not None:
                self._look_at(upstream, upstream.attempt)
        for since, _ in self._queued.values():
            if now - since - self.limits.most("pool", since) > LATE:
                self._late("pool", f"queued since {since:.3f}")
                self._queued.clear()
                break
        for _, client in self.network.clients:
            self._look_at_client(client)

    def _look_at(self, upstream: UpstreamWatch, attempt: Attempt) -> None:
        if attempt.head_at is not None:
            key, since = "idle", max(upstream.wait_since, attempt.head_at)
            if not upstream.reading:
                return
        elif attempt.whole_at is not None:
            key, since = "head", attempt.whole_at
        else:
            return
        if self.loop.now - since - self.limits.most(key, since) > LATE and not attempt.blamed:
            attempt.blamed = True
            self._late(key, f"{attempt.tag}, {key} since {since:.3f}")

    def _look_at_client(self, client: ClientWatch) -> None:
        now = self.loop.now
        behind = client.present is not None and client.waiting
        if client.is_closing or behind or (client.slow and len(client.exchanges) > 1):
            return  # when the proxy took it up is not known
        for exchange in client.exchanges[-1:]:
            since = exchange.head_at
            if (
                since is None
                or exchange.records
                or exchange.late
                or len(client.waiting) > 1
                or client.write_paused_at is not None
            ):
                continue
            since = max(since, client.last_answered)
            if now - since - self.limits.most("duration", since) > LATE:
                self._late("duration", f"{exchange.ask.tag} since {since:.3f}")
                exchange.late = True

    def _late(self, key: str, text: str) -> None:
        self.found(f"late-{key}", f"{text}; limit {self.limits.most(key, self.loop.now)} s")

    # -- at the end

    def at_rest(self) -> None:
        """All clients are done and nothing is under way: everything has come back."""
        gauges = self.service.stats().counts
        if self.stats.active:
            self.found("active-at-rest", f"{self.stats.active} are active, and nobody asks")
        if gauges["proxy.pool.context.active"]:
            self.found("contexts-at-rest", f"{gauges['proxy.pool.context.active']} contexts are lent")
        if gauges["proxy.transport.connections.active"]:
            self.found("connections-at-rest", f"{gauges['proxy.transport.connections.active']} in use, and nobody asks")
        idle = sum(not upstream.is_closing for _, upstream in self.network.upstreams)
        if idle != gauges["proxy.transport.connections.idle"]:
            self.found(
                "connections-lost", f"{idle} are open, the pools know of {gauges['proxy.transport.connections.idle']}"
            )
        if any(self._queues.values()):
            self.found("queue-at-rest", "somebody still queues")
        for seen in self._seen.values():
            if seen.breaker is not None and seen.breaker.probes:
                self.found("probes-at-rest", f"{seen.endpoint.name}: {seen.breaker!r}")

    def at_end(self, exchanges: list[Exchange], graceful: bool) -> None:
        """The proxy stopped."""
        records = sum(len(exchange.records) for exchange in exchanges)
        if records != self.stats.total or self.stats.active:
            self.found("unrecorded", f"{records} records, {self.stats.total} requests, {self.stats.active} active")
        for exchange in exchanges:
            outcome = exchange.records[0][1] if exchange.records else ""
            client = exchange.client
            there = client is not None and client.ended is None and not client.left and not client.slow
            if outcome == "success" and graceful and there and not exchange.received:
                self.found("success-cut", f"{exchange.ask.tag} is a success, and its client did not get all of it")
            if exchange.answer == "own" and outcome == "success":
                self.found("wrong-outcome", f"{exchange.ask.tag} is a success, and the proxy answered by itself")
