"""The control listener: reads and resets the counts, changes behaviour. Its own port, so no fault ever touches it.

GET  /_mock/stats      counts of every backend, the process's CPU
POST /_mock/reset      zero the counts, restart the clocks of changes, cold starts and faults;
                       `{"endpoint": "mock-1"}`: of that one only
GET  /_mock/behaviour  profile and seed of every backend
POST /_mock/behaviour  `{"endpoint": "mock-1", "profile": "chat-8b" or {...}, "seed": 7, "faults": [...]}`:
                       each key optional, all backends if none is named; faults replace those before, a new profile
                       brings its own; the clocks of faults count from `"since_ns"` (CLOCK_MONOTONIC) if given, else
                       from now
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from typing import Any, cast

from mock_backends.dialects import JSON
from mock_backends.faults import read_faults
from mock_backends.profile import Profile, load_profile, read_profile
from mock_backends.server import Backend, Behaviour, Mocks
from mock_backends.strict import Refused, nearest
from mock_backends.wire import BadMessage, Head, find_head, read_head, response_head

_MAX_BODY = 2**20


class Control:
    """What the control listener can do, as data in and data out."""

    def __init__(self, mocks: Mocks) -> None:
        self._mocks = mocks

    def handle(self, method: bytes, path: bytes, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and reply of one request."""
        actions = {
            (b"GET", b"/_mock/stats"): self._stats,
            (b"POST", b"/_mock/reset"): self._reset,
            (b"GET", b"/_mock/behaviour"): self._behaviour,
            (b"POST", b"/_mock/behaviour"): self._behave,
        }
        action = actions.get((method, path))
        if action is None:
            known = [f"{m.decode()} {p.decode()}" for m, p in actions]
            status = 405 if path in {p for _, p in actions} else 404
            return status, {"error": f"the control listener knows {', '.join(known)}"}
        try:
            fields = json.loads(body) if body.strip() else {}
            if not isinstance(fields, dict):
                raise Refused("the body must be a JSON object")
            return 200, action(fields)
        except ValueError as exc:
            return 400, {"error": f"the body is not JSON: {exc}"}
        except Refused as exc:
            return 400, {"error": str(exc)}

    def _stats(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "t_ns": time.monotonic_ns(),
            "cpu_ns": time.process_time_ns(),
            "backends": [{"endpoint": b.name, "url": b.url, **b.counts.report()} for b in self._mocks.backends],
        }

    def _reset(self, fields: dict[str, Any]) -> dict[str, Any]:
        chosen = self._chosen(fields, {"endpoint"})
        for backend in chosen:
            backend.counts.reset()
            backend.behave(backend.behaviour)
        return {"reset": [backend.name for backend in chosen]}

    def _behaviour(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "backends": [
                {
                    "endpoint": b.name,
                    "profile": b.profile.model_dump(mode="json", exclude_defaults=True),
                    "seed": b.behaviour.seed,
                    "faults": [f.model_dump(mode="json", exclude_defaults=True) for f in b.behaviour.faults],
                }
                for b in self._mocks.backends
            ]
        }

    def _behave(self, fields: dict[str, Any]) -> dict[str, Any]:
        chosen = self._chosen(fields, {"endpoint", "profile", "seed", "faults", "since_ns"})
        profile = _profile(fields["profile"]) if "profile" in fields else None
        faults = read_faults(fields["faults"], "faults", self._names()) if "faults" in fields else None
        seed, since_ns = _whole_number(fields, "seed"), _whole_number(fields, "since_ns")
        changed: dict[int, Behaviour] = {}  # backends that behave alike share a library
        for backend in chosen:
            old = backend.behaviour
            if id(old) not in changed:
                if profile is None and seed is None:
                    new = old  # and its tapes
                else:
                    kept = old.faults if profile is None else None
                    new = Behaviour.of(profile or old.profile, old.seed if seed is None else seed, kept)
                changed[id(old)] = new if faults is None else replace(new, faults=faults)
            backend.behave(changed[id(old)], since_ns)
        return self._behaviour({})

    def _names(self) -> list[str]:
        return [backend.name for backend in self._mocks.backends]

    def _chosen(self, fields: dict[str, Any], known: set[str]) -> list[Backend]:
        for key in fields:
            if key not in known:
                raise Refused(f"unknown key {key!r}; {nearest(key, sorted(known))}")
        name = fields.get("endpoint")
        backends = {backend.name: backend for backend in self._mocks.backends}
        if name is None:
            return list(backends.values())
        if name not in backends:
            raise Refused(f"no endpoint {name!r}; {nearest(str(name), list(backends))}")
        return [backends[name]]


def _whole_number(fields: dict[str, Any], key: str) -> int | None:
    value = fields.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise Refused(f"{key!r} must be a whole number")
    return value


def _profile(value: Any) -> Profile:
    if isinstance(value, str):
        if "/" in value or "." in value:  # the listener opens no files
            raise Refused("'profile' must be the name of a ready-made profile or an object")
        return load_profile(value)
    return read_profile(value, "profile")


class ControlConnection(asyncio.Protocol):
    """A plain HTTP/1.1 reader around `Control.handle`; nothing here is fast."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._buffer = b""
        self._head: Head | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Someone came."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answers every request that is all here."""
        self._buffer += data
        try:
            while self._step():
                pass
        except BadMessage as exc:
            self._send(exc.status, {"error": str(exc)}, close=True)

    def _step(self) -> bool:
        if self._head is None:
            end = find_head(self._buffer)
            if not end:
                return False
            self._head = read_head(self._buffer[:end])
            self._buffer = self._buffer[end:]
            if not 0 <= self._head.length <= _MAX_BODY:
                raise BadMessage(f"the control listener takes bodies with a Content-Length up to {_MAX_BODY}", 411)
        head = self._head
        if len(self._buffer) < head.length:
            return False
        body, self._buffer = self._buffer[: head.length], self._buffer[head.length :]
        self._head = None
        status, reply = self._control.handle(head.method, head.path, body)
        self._send(status, reply, close=not head.keep_alive or head.http10)
        return not self._transport.is_closing()

    def _send(self, status: int, reply: dict[str, Any], *, close: bool) -> None:
        body = json.dumps(reply).encode() + b"\n"
        self._transport.write(response_head(status, JSON, len(body), close=close) + b"\r\n" + body)
        if close:
            self._transport.close()
