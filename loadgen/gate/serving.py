"""One revision's proxy as a process, through `serve` only, and the config that both revisions understand."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadgen.bench.child import Child, ChildError
from loadgen.gate.checkouts import Checkout
from loadgen.gate.revisions import CannotMeasure

BAD_CONFIG = 65
_READY_S = 120.0  # under valgrind on a busy machine
_END_S = 60.0

# What makes counts vary or hides what is counted: off. Identical for both revisions.
_STEADY: Mapping[str, Any] = {
    "server": {"port": 0, "log_level": "warning"},
    "admin": {"port": 0},
    "health": {"enabled": False},
    "runtime": {"recorders": False, "gc": {"freeze_after_start": False, "thresholds": [700, 10, 10]}},
}
# Sections an older revision may not know, the least important first.
_DISPENSABLE = ("runtime.gc", "runtime", "health", "admin")


@dataclass(frozen=True, slots=True)
class Served:
    """A proxy that answers. `pid`: its own, also below strace; `child` is what was started."""

    url: str
    admin: str | None
    pid: int
    child: Child


def common_config(checkouts: Sequence[Checkout], engine: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The config both sides accept, and the sections left out for it. Raises CannotMeasure."""
    config: dict[str, Any] = {**copy.deepcopy(dict(_STEADY)), "proxy": {"engine": engine}}
    config["endpoints"] = [{"name": "a", "url": "http://127.0.0.1:9"}]
    without: list[str] = []
    for left_out in (None, *_DISPENSABLE):
        if left_out is not None:
            _drop(config, left_out)
            without.append(left_out)
        refusals = [(checkout, why) for checkout in checkouts if (why := _refusal(checkout, config, folder))]
        if not refusals:
            return config, without
    checkout, why = refusals[0]
    raise CannotMeasure(f"{checkout.name} cannot serve {engine}: {why}")


def _drop(config: dict[str, Any], key: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        config = config[section]
    config.pop(last, None)


def _refusal(checkout: Checkout, config: Mapping[str, Any], folder: Path) -> str | None:
    path = folder / f"check-{checkout.name}.yaml"
    path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    command = checkout.module("proxy", "serve", "--config", str(path), "--check-config")
    try:
        env = {**os.environ, **checkout.env}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CannotMeasure(f"{checkout.name} cannot be started: {exc}") from exc
    if done.returncode == 0:
        return None
    words = (done.stderr or done.stdout).strip().splitlines()
    said = words[-1] if words else f"exit code {done.returncode}"
    if done.returncode != BAD_CONFIG:
        raise CannotMeasure(f"{checkout.name} cannot be started: {said}")
    return said


class Servers:
    """Starts proxies and knows those that run, so that threads which wait for one end soon after `end`."""

    def __init__(self) -> None:
        self._live: set[Child] = set()
        self._over = False

    @contextmanager
    def serve(
        self,
        checkout: Checkout,
        config: Mapping[str, Any],
        backends: Sequence[str],
        folder: Path,
        prefix: Sequence[str] = (),
        python_options: Sequence[str] = (),
    ) -> Iterator[Served]:
        """A proxy in front of `backends`. `prefix`: a tool that runs it; `python_options` go before its `-m proxy`.

        On leaving it is told to stop and, with its tool, waited for. Raises ChildError when it does not start.
        """
        endpoints = [{"name": f"e{number}", "url": url} for number, url in enumerate(backends)]
        path = folder / "serve.yaml"
        path.write_text(yaml.safe_dump({**config, "endpoints": endpoints}, sort_keys=False), encoding="utf-8")
        command = [*prefix, checkout.python, *python_options, "-m", "proxy", "serve", "--config", str(path)]
        if self._over:
            raise ChildError("the gate is ending")
        # Hash order decides how dicts and sets collide, so it must not differ from start to start.
        child = Child("serve", command, folder, env={**checkout.env, "PYTHONHASHSEED": "0"})
        self._live.add(child)
        try:
            line = child.wait_ready(_READY_S)
            served = Served(str(line["url"]), line.get("admin"), int(line["pid"]), child)
            yield served
            end(served)
        finally:
            self._live.discard(child)
            child.stop(grace_s=1.0)

    def end(self) -> None:
        """Stop all that run and start no more."""
        self._over = True
        for child in list(self._live):
            child.stop(grace_s=0.5)


def end(served: Served) -> None:
    """SIGTERM to the proxy itself (strace keeps it from its child), then its tool writes what it saw."""
    if served.child.alive():
        os.kill(served.pid, signal.SIGTERM)
    until = time.monotonic() + _END_S
    while served.child.alive() and time.monotonic() < until:
        time.sleep(0.02)
