"""Olla's heads and framing on bytes: a head seen before, one of a known kind, one never seen; chunks of a stream."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

from loadgen.micro import samples
from loadgen.micro.suite import Benchmark, Prepared, each, script
from proxy.http1.chunked import ChunkReader, encode_chunk
from proxy.http1.heads import CHUNKED, Limits
from proxy.http1.recall import MISSES, Request, RequestReader, Response, ResponseReader

_LIMITS = Limits(64 * 1024, 100, 8 * 1024, 16 * 1024)
_VARIANTS = 256


def _request_heads(names: list[str], values: list[str]) -> list[bytes]:
    start, length = "POST /v1/chat/completions HTTP/1.1", ("Content-Length", "1024")
    fields = zip(names, values, strict=True)
    return [samples.head(start, samples.REQUEST_FIELDS, length, field) for field in fields]


def _response_heads(names: list[str], values: list[str]) -> list[bytes]:
    start, length = "HTTP/1.1 200 OK", ("Content-Length", "1500")
    fields = zip(names, values, strict=True)
    return [samples.head(start, samples.RESPONSE_FIELDS, length, field) for field in fields]


_NUMBERS = [f"{number:08d}" for number in range(_VARIANTS)]
_SAME_NAMES = ["X-Count"] * _VARIANTS
_NAMES = [f"X-Count-{number}" for number in _NUMBERS]  # of which no two make heads of one kind


def _request_reader() -> Callable[[bytes], Request]:
    """As a client connection does it: recall, and judge what is not recalled."""
    reader = RequestReader(_LIMITS, b"127.0.0.1", b"proxy-engines-0", False)
    recall, read = reader.recall, reader.read
    return lambda head: (recall(head) or (read(head), b""))[0]


def _response_reader() -> Callable[[bytes], Response]:
    reader = ResponseReader()
    recall, read = reader.recall, reader.read
    return lambda head: (recall(head, False) or (read(head, False), b""))[0]


def _read(reader: Callable[[bytes], Request | Response], heads: list[bytes], length: int) -> Prepared:
    assert reader(heads[0]).length == length
    if len(set(heads)) > 1:  # a connection whose heads never repeat soon stops trying: the state it then is in
        for head in heads[: 2 * MISSES]:
            reader(head)
    following = cycle(heads).__next__
    return each(lambda: reader(following()))


def _chunks(data: bytes) -> Prepared:
    reader = ChunkReader()
    reader.begin()
    last = ChunkReader()
    last.begin()
    last.feed(data + b"0\r\n\r\n")
    assert last.done and not last.extra
    feed = reader.feed
    return each(lambda: feed(data))


_SAME = [samples.head("POST /v1/chat/completions HTTP/1.1", samples.REQUEST_FIELDS, ("Content-Length", "1024"))]

BENCHMARKS = (
    Benchmark("wire.request.same", "a request head like the last",
        lambda: _read(_request_reader(), _SAME, 1024), against="wire.request.new"),
    Benchmark("wire.request.kind", "one of a kind: a word differs from the last",
        lambda: _read(_request_reader(), _request_heads(_SAME_NAMES, _NUMBERS), 1024), against="wire.request.new"),
    Benchmark("wire.request.new", "one of a kind never seen",
        lambda: _read(_request_reader(), _request_heads(_NAMES, _NUMBERS), 1024)),
    Benchmark("wire.response.kind", "a response head of a kind: a word differs from the last",
        lambda: _read(_response_reader(), _response_heads(_SAME_NAMES, _NUMBERS), 1500), against="wire.response.new"),
    Benchmark("wire.response.new", "one of a kind never seen",
        lambda: _read(_response_reader(), _response_heads(_NAMES, _NUMBERS), 1500)),
    Benchmark("wire.response.stream", "the head of a chunked stream like the last",
        lambda: _read(_response_reader(), [samples.STREAM_HEAD], CHUNKED)),
    Benchmark("wire.chunk.event", "where a chunk of one event ends", lambda: _chunks(samples.chunk(samples.EVENT))),
    Benchmark("wire.chunk.256k", "where 64 chunks of 4 KiB end", lambda: _chunks(samples.chunk(bytes(4096)) * 64)),
    Benchmark("wire.chunk.encode", "one event framed as a chunk", lambda: each(lambda: encode_chunk(samples.EVENT))),
)  # fmt: skip

if __name__ == "__main__":
    script(BENCHMARKS, "loadgen.micro.bench_wire")
