"""Payloads of foreign suites through the engines: what was refused, what reached the endpoint, and whether it should.

    python -m tests.fuzz.payloads [--engine olla] [--verbose] PATH ...

A path is a file or a folder. Read are: `*.md`, the ```http blocks as llhttp writes them and `quoted requests` with
escapes as http-garden does; `*.cs`, `*.ts`, `*.py`, string literals that hold a request, as Http11Probe and h1spec have
them; any other file is one payload as it is. What must be refused is what tests/fuzz/strict.py cannot read: of a
payload, the requests that it can read, in their order, are all that may reach the endpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from proxy.engines import ENGINES
from tests.fuzz.rig import Party, TooSlow, converse, parties
from tests.fuzz.strict import Broken, Message, requests
from tests.fuzz.subject import echo

WRONG = "WRONGLY ACCEPTED"
PATIENCE = 0.2  # seconds of silence after which an engine is taken to wait for more

_FENCE = re.compile(r"^#+ +(.+?)$|^```http\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"`([^`\n]*\\r\\n[^`\n]*)`")
_LITERAL = re.compile(r'(?:const string (\w+) = |(?:var|string) (\w+) = )?\$?"((?:[^"\\\n]|\\.)*)"(?:\s*\+\s*)?')
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|([0-7]{1,3})|(.))", re.DOTALL)
_NAMED = {"r": "\r", "n": "\n", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "b": "\b", "0": "\0"}


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes to send on one connection."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an engine made of a payload."""

    statuses: tuple[int, ...]
    reached: tuple[Message | Broken, ...]
    ended: bool


def payloads(path: Path) -> Iterator[Payload]:
    """All payloads of a file or folder."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and ".git" not in file.parts:
                yield from payloads(file)
    elif path.suffix == ".md":
        yield from _of_markdown(path.name, path.read_text(encoding="utf-8", errors="replace"))
    elif path.suffix in (".cs", ".ts", ".py"):
        yield from _of_source(path.name, path.read_text(encoding="utf-8", errors="replace"))
    else:
        yield Payload(path.name, path.read_bytes())


def _of_markdown(file: str, text: str) -> Iterator[Payload]:
    title = ""
    for match in _FENCE.finditer(text):
        if match[1] is not None:
            title = match[1]
            continue
        block = match[2].removesuffix("\n").replace("\\\n", "").replace("\n", "\r\n")
        yield Payload(f"{file}: {title}", _unescape(block))
    for i, match in enumerate(_QUOTED.finditer(text), 1):
        yield Payload(f"{file}: quoted {i}", _unescape(match[1]))


def _of_source(file: str, text: str) -> Iterator[Payload]:
    """Neighbouring literals are joined by `+`; {names} become the literal of that name, the host, or a 5."""
    known: dict[str, str] = {}
    joined, line = "", 0
    for match in _LITERAL.finditer(text):
        if name := match[1] or match[2]:
            known[name] = match[3]
        if not joined:
            line = text.count("\n", 0, match.start()) + 1
        joined += match[3]
        if match[0].rstrip().endswith("+"):
            continue
        whole, joined = joined, ""
        if ("HTTP/" in whole and "\\r\\n" in whole) or whole.startswith("GET "):
            filled = re.sub(r"\{([\w.]+)\}", lambda m: "h" if "Host" in m[1] else known.get(m[1], "5"), whole)
            yield Payload(f"{file}:{line}", _unescape(filled))


def _unescape(text: str) -> bytes:
    def one(match: re.Match[str]) -> str:
        if match[1] or match[2]:
            return chr(int(match[1] or match[2], 16))
        return chr(int(match[3], 8) & 255) if match[3] else _NAMED.get(match[4], match[4])

    return _ESCAPE.sub(one, text).encode("latin-1", "replace")


async def send(party: Party, payload: Payload) -> Outcome:
    """Send a payload through one engine."""
    party.reached.clear()
    heard = await converse(party.port, [payload.data], b"", PATIENCE)
    statuses = re.findall(rb"(?:^|\n|(?<=.))HTTP/1\.[01] ([1-5][0-9]{2}) ", heard.data)
    return Outcome(tuple(map(int, statuses)), tuple(party.reached), heard.ended)


def too_much(payload: Payload, outcome: Outcome) -> str:
    """What reached the endpoint and should not have, in words; empty if nothing did."""
    allowed = requests(payload.data).requests
    for i, request in enumerate(outcome.reached):
        if isinstance(request, Broken):
            return f"no HTTP: {request}"
        if i >= len(allowed):
            why = requests(payload.data)
            return f"{request.start[0]!r} {request.start[1]!r} body {request.body[:60]!r}, though {why.rest} {why.why}"
        if request.start[0] != allowed[i].start[0] or request.body != allowed[i].body:
            return f"{request.start[0]!r} with body {request.body[:60]!r}, which is not what was sent"
    return ""


def too_little(payload: Payload, outcome: Outcome) -> str:
    """What was refused though it is valid, in words."""
    allowed = requests(payload.data).requests
    if len(outcome.reached) >= len(allowed):
        return ""
    first = allowed[len(outcome.reached)]
    return f"{outcome.statuses}: {b' '.join(first.start)!r} {first.fields}"


async def run(engines: Sequence[str], paths: Sequence[Path], verbose: bool) -> int:
    """Send everything; print what stands out and a summary. 1 if something reached an endpoint that should not."""
    found = [payload for path in paths for payload in payloads(path)]

    async def judge(party: Party) -> Counter[str]:
        counts: Counter[str] = Counter()
        for payload in found:
            try:
                outcome = await send(party, payload)
            except TooSlow:
                counts["too slow to judge"] += 1
                continue
            much, little = too_much(payload, outcome), too_little(payload, outcome)
            verdict = WRONG if much else "refused though valid" if little else "as it should be"
            counts[verdict] += 1
            if much or little or verbose:
                print(f"{party.name}: {payload.name}: {verdict}: {much or little or outcome.statuses}")
        return counts

    async with parties(engines, echo) as all_parties:
        results = await asyncio.gather(*map(judge, all_parties))
    for name, counts in zip(engines, results, strict=True):
        print(f"{name}: {len(found)} payloads: {dict(counts)}")
    return int(any(WRONG in counts for counts in results))


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.payloads", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--engine", action="append", choices=list(ENGINES), help="default: each")
    parser.add_argument("--verbose", action="store_true", help="print every payload")
    options = parser.parse_args(argv)
    for path in options.paths:
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
    return uvloop.run(run(options.engine or list(ENGINES), options.paths, options.verbose))


if __name__ == "__main__":
    sys.exit(main())
