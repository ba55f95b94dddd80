"""What an engine holds while it serves: idle connections, many streams, slow peers. Prints figures; 1 if one is missed.

    python -m tests.holding idle    [--connections 10000]   memory of an idle client connection, requests meanwhile
    python -m tests.holding streams [--connections 2000]    concurrent streams, every event in order
    python -m tests.holding slow    [--connections 1000]    slowhttptest's slow heads, bodies and reads (Debian package)

Each runs on both engines, or on `--engine olla`. Figures depend on the machine and on what else runs on it; the limits
that are judged are those of the design: an idle connection of Olla costs less than 12 KiB, ordinary requests keep their
p99 within 50 ms of the unloaded one, slow peers are gone when their limit is over, no event is lost or out of place.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import resource
import shutil
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import psutil
import uvloop

from proxy.engines import ENGINES
from tests.contract.running import ProcessProxy

LIMIT = 5.0  # seconds: header_timeout, body_timeout and write_timeout where slow peers are held
WITHIN = 50.0  # ms: how far the p99 of ordinary requests may move
IDLE_COST = 12 * 1024  # bytes: Olla's limit
BIG = b"x" * 2**20
_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]+)")
_GET = b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n"


class Endpoint(asyncio.Protocol):
    """Answers at once: `/big` with a MiB, `/events/N/S` with N events S apart (in ms), anything else with `ok`."""

    def __init__(self) -> None:
        self._data = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Event()
        self._writing.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            announced = _LENGTH.search(head)
            length = int(announced[1]) if announced else 0
            if len(rest) < length:
                return  # a slow body is waited for, as a server of JSON does
            self._data = rest[length:]
            path = head.split(b" ", 2)[1]
            if path.startswith(b"/events/"):
                _, _, count, apart = path.split(b"/")
                task = asyncio.get_running_loop().create_task(self._stream(int(count), int(apart) / 1e3))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                body = BIG if path == b"/big" else b"ok"
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def _stream(self, count: int, apart: float) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(count):
            await asyncio.sleep(apart)
            event = b"data: %06d\n\n" % i
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self._transport.write(b"0\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def running(engine: str, **settings: Any) -> AsyncIterator[ProcessProxy]:
    """An engine in front of an Endpoint on this loop."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Endpoint, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    given = {"proxy.max_conns_per_host": 0, "runtime.recorders": False, **settings}
    proxy = ProcessProxy(engine, [{"name": "e", "url": f"http://127.0.0.1:{port}"}], given)
    try:
        yield proxy
    finally:
        await asyncio.to_thread(proxy.close)
        server.close()


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: bytes = b"/") -> float:
    """One small request on a connection; seconds it took. Raises AssertionError when it is not answered with ok."""
    began = time.perf_counter()
    writer.write(_GET % path)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    assert await reader.readexactly(2) == b"ok"
    return time.perf_counter() - began


async def probe(port: int, until: asyncio.Event | None, count: int = 300) -> list[float]:
    """Ordinary requests, in ms each, half of them on connections of their own: `count` of them, or until the event."""
    times = []
    kept = await asyncio.open_connection("127.0.0.1", port)
    while len(times) < count if until is None else not until.is_set():
        began = time.perf_counter()
        fresh = await asyncio.open_connection("127.0.0.1", port)
        await get(*fresh)
        times.append((time.perf_counter() - began) * 1e3)
        fresh[1].close()
        times.append(await get(*kept) * 1e3)
        await asyncio.sleep(0.01)
    kept[1].close()
    return times


def p99(times: Sequence[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(times, n=100)[98]


def memory(proxy: ProcessProxy) -> int:
    """Resident bytes of the engine."""
    return int(psutil.Process(proxy.process.pid).memory_info().rss)


async def stats(proxy: ProcessProxy) -> dict[str, Any]:
    """The engine's counts."""

    def read() -> dict[str, Any]:
        with urllib.request.urlopen(f"{proxy.admin}/internal/stats", timeout=30) as answer:
            return dict(json.loads(answer.read()))

    return await asyncio.to_thread(read)


async def idle(engine: str, connections: int) -> bool:
    """Connections that served a request each and now wait for the next."""
    async with running(engine, **{"server.keep_alive_timeout": "1h"}) as proxy:
        calm = await probe(proxy.port, None)
        before = memory(proxy)
        held = []
        for _ in range(connections):
            connection = await asyncio.open_connection("127.0.0.1", proxy.port)
            await get(*connection)
            held.append(connection)
        cost = (memory(proxy) - before) / connections
        times = await probe(proxy.port, None)
        counted = (await stats(proxy))["proxy.client_connections"]
        for _, writer in held[:: max(1, connections // 100)]:
            assert not writer.is_closing()
        alive = [await get(*connection) for connection in held[:: max(1, connections // 100)]]
        for _, writer in held:
            writer.close()
    good = counted >= connections and (engine != "olla" or cost < IDLE_COST) and p99(times) < p99(calm) + WITHIN
    print(
        f"{engine}: {counted} idle connections held, {cost / 1024:.1f} KiB each (resident memory of the engine); "
        f"p99 of requests {p99(times):.1f} ms ({p99(calm):.1f} ms before); {len(alive)} of them served again"
    )
    return good


async def streams(engine: str, connections: int, events: int = 40, apart_ms: int = 250) -> bool:
    """Streams at once, each with numbered events."""

    async def one(port: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_GET % (b"/events/%d/%d" % (events, apart_ms)))
        await reader.readuntil(b"\r\n\r\n")
        body = b""
        while not body.endswith(b"0\r\n\r\n") and (data := await reader.read(2**16)):
            body += data
        writer.close()
        want = b"".join(b"data: %06d\n\n" % i for i in range(events))
        return int(_dechunked(body) == want)

    async with running(engine) as proxy:
        began = time.monotonic()
        tasks = [asyncio.create_task(one(proxy.port)) for _ in range(connections)]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, (await stats(proxy))["proxy.active_connections"])
            await asyncio.sleep(0.2)
        whole = sum(task.result() for task in tasks)
        seconds = time.monotonic() - began
        peak = memory(proxy)
    print(
        f"{engine}: {whole} of {connections} streams whole and in order, {most} at once, {connections * events} events "
        f"in {seconds:.1f} s; resident {peak / 2**20:.0f} MiB"
    )
    return whole == connections and most >= 0.95 * connections


def _dechunked(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        out += data[:length]
        data = data[length + 2 :]
        if not length:
            break
    return out


# How slowhttptest is slow, and what tells that a limit of the engine ended it.
MODES = {
    "slow heads": ("-H", "-i", "2", "-x", "10", "-p", "3"),
    "slow bodies": ("-B", "-i", "2", "-s", "200000", "-x", "10", "-p", "3"),
    "slow reads": ("-X", "-w", "10", "-y", "20", "-n", "5", "-z", "5", "-k", "1", "-p", "3"),
}


async def slow(engine: str, connections: int) -> bool:
    """slowhttptest in its three modes while ordinary requests are served."""
    tool = shutil.which("slowhttptest")
    assert tool is not None, "slowhttptest is not installed"
    timeouts = {f"server.{name}_timeout": f"{LIMIT}s" for name in ("header", "body", "write")}
    good = True
    for mode, arguments in MODES.items():
        async with running(engine, **timeouts) as proxy:
            calm = await probe(proxy.port, None)
            before = memory(proxy)
            rate, ramp = 200, connections / 200
            whole = ramp + LIMIT + 10
            command = [tool, "-c", str(connections), "-r", str(rate), "-l", str(int(whole)), "-v", "0", *arguments]
            path = "/big" if mode == "slow reads" else "/"
            process = await asyncio.create_subprocess_exec(
                *command, "-u", f"http://127.0.0.1:{proxy.port}{path}",
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            over = asyncio.Event()
            probing = asyncio.create_task(probe(proxy.port, over))
            began = time.monotonic()
            most, peak, last_held, last_grown = 0, 0, 0.0, 0.0
            while time.monotonic() - began < whole - 1 and process.returncode is None:
                held = (await stats(proxy))["proxy.client_connections"] - 2  # less those of the probe
                now = time.monotonic() - began
                if held > most:
                    most, last_grown = held, now
                if held > connections * 0.005:
                    last_held = now
                peak = max(peak, memory(proxy))
                await asyncio.sleep(0.1)
            over.set()
            times = await probing
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            freed = last_held - last_grown
            fine = p99(times) < p99(calm) + WITHIN and freed < LIMIT + 2.0 and most > connections * 0.5
            good &= fine
            print(
                f"{engine}: {mode}: up to {most} connections held, gone {freed:.1f} s after the last came "
                f"(limit {LIMIT} s); p99 of {len(times)} requests {p99(times):.1f} ms ({p99(calm):.1f} ms before); "
                f"resident {before / 2**20:.0f} to {peak / 2**20:.0f} MiB{'' if fine else '  MISSED'}"
            )
    return good


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.holding", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("idle", "streams", "slow"))
    parser.add_argument("--engine", action="append", choices=list(ENGINES), help="default: each")
    parser.add_argument("--connections", type=int)
    options = parser.parse_args(argv)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the engine is a child and lifts its own, too
    run, usual = {"idle": (idle, 10_000), "streams": (streams, 2_000), "slow": (slow, 1_000)}[options.what]
    results = [uvloop.run(run(engine, options.connections or usual)) for engine in options.engine or list(ENGINES)]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
