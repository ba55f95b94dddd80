"""How like the mocks are to real servers, as a client sees both: a table, measured on raw sockets.

    python -m tests.real.likeness [--write]

The servers are those of `make test-real`, which must have run before. `--write` puts the table into
mock_backends/README.md, between its two marks. Exit code 69 if the servers are not there.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.contract.peers import Cut, Message, Silence
from tests.contract.running import connect
from tests.real import servers
from tests.real.servers import asked

README = servers.ROOT / "mock_backends" / "README.md"
BEGIN, END = "<!-- likeness: begin -->", "<!-- likeness: end -->"
CHAT, JSON = "/v1/chat/completions", "Content-Type: application/json"
TOKENS, STREAMS = 200, 5
# What a server tells of itself and no other has.
OWN = ("x-mock", "x-litellm", "llm_provider", "access-control", "x-accel", "server", "date")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw of one server; `arrivals` are the times of the reads of streams, in ms, and their events."""

    whole: Message
    stream: Message
    errors: dict[str, tuple[Message, bool]]
    arrivals: list[list[tuple[float, int]]]


def exchange(url: str, body: bytes, path: str = CHAT) -> tuple[Message, bool]:
    """An answer, and whether its connection serves another request."""
    with connect(int(url.rsplit(":", 1)[1])) as client:
        client.sock.settimeout(60)
        answer = client.post(body, path, JSON).response()
        try:
            client.get("/v1/models").response()
        except (Cut, Silence, OSError):
            return answer, False
        return answer, True


def reads(url: str) -> list[tuple[float, int]]:
    """The reads of one stream: ms since the request was sent, and how many events ended in it."""
    found = []
    with connect(int(url.rsplit(":", 1)[1])) as client:
        client.sock.settimeout(60)
        client.post(asked(TOKENS, stream=True), CHAT, JSON)
        began = time.perf_counter()
        client.response_head()
        tail = b""
        while b"\r\n0\r\n\r\n" not in tail:
            data = client.receive_some()
            found.append(((time.perf_counter() - began) * 1e3, data.count(b"\n\n")))
            tail = tail[-8:] + data
    return [(at, count) for at, count in found if count]


def look(url: str) -> Seen:
    """Everything that the table needs of one server."""
    exchange(url, asked(4))  # so that nothing is the first of its kind
    errors = {
        "not JSON": exchange(url, b"{"),
        "no messages": exchange(url, b'{"model":"tiny"}'),
        "no such path": exchange(url, b"{}", "/v1/nothing"),
    }
    whole, _ = errors["whole"] = exchange(url, asked(TOKENS))
    stream, _ = errors["streamed"] = exchange(url, asked(TOKENS, stream=True, stream_options={"include_usage": True}))
    return Seen(whole, stream, errors, [reads(url) for _ in range(STREAMS)])


def events(seen: Seen) -> list[Any]:
    """The events of the stream but `[DONE]`."""
    found = [event.removeprefix(b"data: ") for event in seen.stream.body.split(b"\n\n") if event]
    return [json.loads(event) for event in found if event != b"[DONE]"]


def names(message: Message) -> str:
    """The fields of a head in order, without those that say whose it is."""
    return ", ".join(name.lower() for name, _ in message.fields if not name.lower().startswith(OWN))


def keys(value: dict[str, Any]) -> str:
    """The keys of an object, sorted, without the mock's clock."""
    return " ".join(sorted(set(value) - {"mock"}))


def _delta(event: dict[str, Any]) -> str:
    return json.dumps(event["choices"][0]["delta"] if event["choices"] else None)


def _content(seen: Seen) -> list[dict[str, Any]]:
    return [event for event in events(seen) if event["choices"] and event["choices"][0]["delta"].get("content")]


def _end(seen: Seen) -> str:
    after = events(seen)
    last = next(i for i, event in enumerate(after) if event["choices"] and event["choices"][0].get("finish_reason"))
    said = [f"`{_delta(after[last])}` {after[last]['choices'][0]['finish_reason']}"]
    said += ["usage, no choices" if not event["choices"] else "usage with choices" for event in after[last + 1 :]]
    return ", ".join([*said, "`[DONE]`" if seen.stream.body.endswith(b"data: [DONE]\n\n") else "no `[DONE]`"])


def _in_chunks(seen: Seen) -> str:
    counts = [chunk.count(b"\n\n") for chunk in seen.stream.chunks]
    return f"{len(seen.stream.body.split(b'data: ')) - 1} in {len(counts)}, at most {max(counts)} in one"


def _in_reads(seen: Seen) -> str:
    counts = [count for stream in seen.arrivals for _, count in stream]
    return f"mean {statistics.fmean(counts):.2f}, most {max(counts)}"


def _error(name: str) -> Callable[[Seen], str]:
    def row(seen: Seen) -> str:
        answer, lives = seen.errors[name]
        with contextlib.suppress(ValueError):
            body = json.loads(answer.body)
            inner = body.get("error")
            shape = f"error: {keys(inner)}" if isinstance(inner, dict) else keys(body)
            return f"{answer.status}, {shape}; the connection {'lives' if lives else 'is closed'}"
        return f"{answer.status}, no JSON"

    return row


def _lives(seen: Seen) -> str:
    both = [seen.errors[name][1] for name in ("whole", "streamed")]
    kept = seen.whole.get("Keep-Alive")
    return ("yes" if all(both) else "no") + (f"; says Keep-Alive: {kept}" if kept else "")


def _gaps(seen: Seen) -> str:
    gaps = [b - a for stream in seen.arrivals for (a, _), (b, _) in itertools.pairwise(stream)]
    median, p99 = statistics.median(gaps), statistics.quantiles(gaps, n=100)[98]
    return f"p50 {median:.2f} ms, p99 {p99 / median:.1f} times that"


def _first(seen: Seen) -> str:
    firsts = [stream[0][0] for stream in seen.arrivals]
    return f"p50 {statistics.median(firsts):.1f} ms"


ROWS: Sequence[tuple[str, Callable[[Seen], str]]] = (
    ("fields of a whole answer", lambda seen: names(seen.whole)),
    ("fields of a stream", lambda seen: names(seen.stream)),
    ("type of a stream", lambda seen: str(seen.stream.get("Content-Type"))),
    ("connection lives on", _lives),
    ("keys of a whole answer", lambda seen: keys(json.loads(seen.whole.body))),
    ("first event", lambda seen: f"`{_delta(events(seen)[0])}`"),
    ("keys of a content event", lambda seen: keys(_content(seen)[0])),
    (f"content events for {TOKENS} tokens", lambda seen: str(len(_content(seen)))),
    ("bytes of a content event", lambda seen: f"{statistics.median(map(len, _bytes(seen))):.0f}"),
    ("end of the stream", _end),
    ("events in chunks", _in_chunks),
    ("events in a read", _in_reads),
    ("time to the first event", _first),
    ("gaps between reads", _gaps),
    ("body is not JSON", _error("not JSON")),
    ("no messages", _error("no messages")),
    ("no such path", _error("no such path")),
)


def _bytes(seen: Seen) -> list[bytes]:
    return [event for event in seen.stream.body.split(b"\n\n") if b'"content":' in event]


def table(columns: dict[str, Seen]) -> str:
    """The table in Markdown."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(row(seen) for seen in columns.values()) + " |" for name, row in ROWS]
    return "\n".join(lines)


@contextlib.contextmanager
def mock() -> Iterator[str]:
    """The URL of a mock with its default profile for chats."""
    command = [sys.executable, "-m", "mock_backends", "--port", "0", "--control-port", "0", "--profile", "chat-8b"]
    process = subprocess.Popen(command, cwd=servers.ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def main() -> int:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into mock_backends/README.md")
    options = parser.parse_args()
    if (problem := servers.missing()) is not None:
        print(problem, file=sys.stderr)
        return 69
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        llama = stack.enter_context(servers.serving(servers.llama_cpp(folder)))
        litellm = stack.enter_context(servers.serving(servers.litellm(folder, llama)))
        columns = {"mock (`chat-8b`)": stack.enter_context(mock()), "llama.cpp": llama.url, "LiteLLM": litellm.url}
        made = table({name: look(url) for name, url in columns.items()})
    print(made)
    if options.write:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
