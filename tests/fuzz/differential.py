"""The same random exchanges through sherpa, olla and (where installed) nginx: who accepts what, and what reaches whom.

    python -m tests.fuzz.differential [--exchanges 100000] [--seed 1] [--only N] [--against sherpa,olla,nginx]

Each party's doings are held against what tests/fuzz/strict.py reads in the same bytes, and so against each other:

* only requests that are valid reach the endpoint, in their order, with their method, target, fields and body;
* a valid request is not refused; a valid answer arrives as it is, an invalid one never as a whole one;
* the second request of the connection is answered as itself, whatever became of the first.

What differs is explained by a row of EXPLAINED, or printed as a finding with its number (`--only` shows it whole) and
makes the exit code 1. A finding is confirmed by a second, patient run before it counts, under another tag: what is late
of the first run is then not taken for its own. An exchange that is not over after a minute, on a machine with too much
to do, is too slow to judge: it is no finding, and makes the exit code 3 if there is none. nginx is no judge: what it
does otherwise is counted by kind, so that one sees where ours are stricter.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import uvloop

from tests.fuzz import strict
from tests.fuzz.exchanges import AGAIN, METHODS, Exchange, exchange
from tests.fuzz.rig import ENOUGH, NGINX, Answer, Party, TooSlow, converse, parties
from tests.fuzz.strict import Broken, Fields, Message

LANES = 48  # conversations at once with each party
PATIENCE = 0.6  # seconds of silence; a finding is run again with more
CONFIRMING = 4.0
OURS = ("sherpa", "olla")

FOUND = 1  # exit codes
TOO_SLOW = 3

_TAG = re.compile(rb"t[0-9a-f]{8}x")
# What proxies may restate: framing, hop-by-hop fields and what both sides add (RFC 9110 7.6.1).
_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
}  # fmt: skip
_RESTATED = _HOP | {
    b"content-length", b"host", b"via", b"expect", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host",
    b"x-request-id", b"x-olla-request-id", b"x-olla-endpoint", b"x-served-by", b"date", b"server",
}  # fmt: skip
_NEVER_NOMINATED = {
    b"host", b"content-length", b"transfer-encoding", b"via", b"x-request-id", b"close", b"keep-alive", b"forwarded",
    b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expected:
    """What the strict reader says of an exchange."""

    requests: list[Message]
    rest: str  # what follows them, from `rest_at` on: see strict.Reading
    rest_at: int
    why: str
    answer: Message | None  # to the first request, if it is valid
    answer_at: int  # where it begins, behind interim ones
    surplus: bytes  # what the endpoint says behind it


@dataclass(frozen=True, slots=True)
class Seen:
    """What one party made of it."""

    reached: tuple[Message | Broken, ...]
    answers: tuple[Message, ...]  # whole ones
    broken: str  # how the client's side ended, if not with whole answers: cut, or what was no HTTP
    ended: bool
    if_closed: tuple[Message, ...] = ()  # `answers`, had the end not been a reset


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that a party did otherwise than the strict reader would."""

    kind: str
    detail: str


@dataclass(slots=True)
class Tally:
    """Differences of one party: explained ones by row, others by number; and which were too slow to judge."""

    explained: Counter[str] = field(default_factory=Counter)
    findings: dict[int, Difference] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    too_slow: set[int] = field(default_factory=set)
    run_again: set[int] = field(default_factory=set)

    def note(self, one: Exchange, reasons: Sequence[str], left: Sequence[Difference]) -> None:
        """Count what is explained, keep what nothing explains."""
        self.explained.update(reasons)
        for difference in left:
            self.kinds[f"{difference.kind} ({'+'.join(one.faults + one.answer_faults) or 'valid'})"] += 1
            self.findings.setdefault(one.number, difference)

    def late(self, requests: Sequence[Message | Broken]) -> None:
        """Requests that reached the endpoint when their exchange was over, or that belong to none.

        Not of the first of two runs: the second was waited for with patience, and is what counts.
        """
        for request in requests:
            number, again = number_of(request)
            if number not in self.too_slow and (again or number not in self.run_again):
                self.kinds["reached the endpoint when its exchange was over"] += 1
                self.findings.setdefault(number, Difference("late", str(request)))


def tag_of(request: Message | Broken) -> bytes:
    """Whose request it is; empty if nobody's."""
    text = str(request).encode() if isinstance(request, Broken) else b" ".join(request.start) + request.body
    found = _TAG.search(text)
    return found[0] if found else b""


def number_of(request: Message | Broken) -> tuple[int, bool]:
    """Whose request it is, -1 if nobody's, and whether of a second run."""
    tag = tag_of(request)
    number = int(tag[1:-1], 16) if tag else -1
    return (number, False) if number < AGAIN else (number - AGAIN, True)


# --- judging (pure) ---------------------------------------------------------------------------------------------------


def expected(one: Exchange) -> Expected:
    """What a strict reader sees in both directions."""
    reading = strict.requests(one.request)
    method = reading.requests[0].start[0] if reading.requests else one.method
    answer, at = _final_answer(one, method)
    surplus = one.answer[at + answer.size :] if answer else b""
    return Expected(reading.requests, reading.rest, reading.at, reading.why, answer, at, surplus)


def _final_answer(one: Exchange, method: bytes) -> tuple[Message | None, int]:
    """The answer that is not interim, if it is valid, and where it begins."""
    at = 0
    with contextlib.suppress(Broken):
        while head := strict.response_head(one.answer[at:], method):
            if not head.start[1].startswith(b"1"):
                return strict.message(one.answer[at:], head, closed=one.close), at
            if head.start[1] == b"101":
                break
            at += head.size
    return None, at


def differences(one: Exchange, want: Expected, seen: Seen) -> list[Difference]:
    """What a party did otherwise."""
    return [*_of_requests(want, seen), *_of_answers(one, want, seen)]


def _of_requests(want: Expected, seen: Seen) -> list[Difference]:
    for i, got in enumerate(seen.reached):
        if isinstance(got, Broken):
            return [Difference("no HTTP reached the endpoint", str(got))]
        if i >= len(want.requests):
            return [
                Difference("accepted", f"{got.start} {got.fields} {got.body[:80]!r}, though {want.rest} {want.why}")
            ]
        sent = want.requests[i]
        if got.start[:2] != (sent.start[0], _path(*sent.start[:2])):
            shown = [(answer.start[1], answer.body[:160]) for answer in seen.answers]
            return [Difference("another request line", f"{got.start} for {sent.start}: {shown} {seen.broken}")]
        if got.body != sent.body:
            return [Difference("another body", f"{got.body[:200]!r} for {sent.body[:200]!r}")]
        if (has := _shown(got.fields)) != (must := _shown(sent.fields)):
            extra, lost = Counter(has) - Counter(must), Counter(must) - Counter(has)
            return [Difference("other request fields", f"extra {[*extra.elements()]}, lost {[*lost.elements()]}")]
    return []


def _of_answers(one: Exchange, want: Expected, seen: Seen) -> list[Difference]:
    reached = len(seen.reached)
    if want.requests and not reached:
        shown = [answer.start[1] for answer in seen.answers]
        return [Difference("refused", f"{want.requests[0].start} {want.requests[0].fields}: {shown} {seen.broken}")]
    if not want.requests and not reached and not any(b"400" <= answer.start[1] < b"600" for answer in seen.answers):
        if want.rest == "broken" and not seen.ended:
            return [Difference("neither refused nor accepted", want.why)]
        return []
    if not reached or isinstance(seen.reached[0], Broken):
        return []
    if want.answer is None:
        for answer in seen.answers[:1]:
            if (b"X-Script", one.tag) in answer.fields and not seen.broken:
                return [Difference("a broken answer arrived as a whole one", f"{answer.start} {answer.body[:80]!r}")]
        return []
    if not seen.answers:
        return [Difference("a valid answer did not arrive", seen.broken or "nothing came")]
    first = seen.answers[0]
    if first.start[1] != want.answer.start[1]:
        return [Difference("another status", f"{first.start} for {want.answer.start} {want.answer.fields}")]
    if first.body != want.answer.body:
        return [Difference("another answer's body", f"{first.body[:200]!r} for {want.answer.body[:200]!r}")]
    if (has := _shown(first.fields)) != (must := _shown(want.answer.fields)):
        extra, lost = Counter(has) - Counter(must), Counter(must) - Counter(has)
        return [Difference("other answer fields", f"extra {[*extra.elements()]}, lost {[*lost.elements()]}")]
    if len(want.requests) > 1 and reached < len(want.requests) and not seen.ended:
        return [Difference("the second request was not served", f"{[answer.start for answer in seen.answers]}")]
    for answer in seen.answers[1:]:
        if (b"X-Script", one.tag) in answer.fields:
            return [Difference("an answer came twice", f"{answer.start}")]
    return []


def _path(method: bytes, target: bytes) -> bytes:
    """A request's path and query, also of an absolute target; OPTIONS without both is for the whole server."""
    if target.startswith(b"/") or target == b"*":
        return target
    absolute = strict.ABSOLUTE.match(target)
    path = target[absolute.end() :] if absolute else target
    if not path and method == b"OPTIONS":
        return b"*"
    return path if path.startswith(b"/") else b"/" + path


def _shown(fields: Fields) -> list[tuple[bytes, bytes]]:
    """The fields that must arrive, without those that `Connection` names."""
    dropped = _RESTATED | (strict.nominated(fields) - _NEVER_NOMINATED)
    return [(name.lower(), value) for name, value in fields if name.lower() not in dropped]


# --- explanations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Explained:
    """A difference that is known, of whom, and why it is as it should be."""

    who: tuple[str, ...]
    kind: str
    when: Callable[[Exchange, Expected, Seen], object]
    why: str


def _refused(want: Expected) -> Message:
    return want.requests[0]


def _not_reset(seen: Seen) -> Seen:
    return replace(seen, answers=seen.if_closed, broken="")


def _not_utf8(fields: Fields) -> bool:
    try:
        b"".join(value for _, value in fields).decode()
    except UnicodeDecodeError:
        return True
    return False


_TAB_BEHIND_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding:[ \t]*chunked *\t[ \t]*\r\n")
_BLANK_IN_EXTENSION = re.compile(rb'\r\n[0-9A-Fa-f]+(?:[ \t]+;|;[^\r\n"]*[ \t])')
_KNOWN = set(METHODS) | {b"PATCH", b"CONNECT", b"TRACE", b"MERGE", b"LINK", b"COPY", b"MOVE", b"LOCK", b"BIND", b"ACL"}

EXPLAINED = (
    Explained(
        OURS, "refused", lambda one, want, _: _TAB_BEHIND_CHUNKED.search(one.request),
        "a tab behind `chunked` is refused",
    ),
    Explained(
        OURS, "refused", lambda one, want, _: _BLANK_IN_EXTENSION.search(one.request),
        "blanks in chunk extensions are refused",
    ),
    *[
        Explained(
            ("olla",), kind, lambda one, want, _: _BLANK_IN_EXTENSION.search(one.answer),
            "blanks in chunk extensions are refused",
        )
        for kind in ("another status", "a valid answer did not arrive")
    ],
    Explained(
        OURS, "refused", lambda one, want, _: not _refused(want).start[1].isascii(),
        "a target with bytes beyond ASCII is no URL (RFC 3986)",
    ),
    Explained(
        OURS, "refused", lambda one, want, _: _refused(want).start[0] not in _KNOWN,
        "a method that llhttp does not know is 501",
    ),
    Explained(
        ("sherpa",), "refused", lambda one, want, _: _not_utf8(_refused(want).fields),
        "field bytes that are not UTF-8 are refused (aiohttp#3279)",
    ),
    Explained(
        ("sherpa",), "another status",
        lambda one, want, _: want.answer is not None and _not_utf8(want.answer.fields),
        "field bytes that are not UTF-8 are refused (aiohttp#3279)",
    ),
    *[
        Explained(
            ("sherpa",), kind, lambda one, want, _: want.surplus,
            "garbage in the segment of a response's end takes the response with it",
        )
        for kind in ("another status", "a valid answer did not arrive")
    ],
    Explained(
        ("sherpa",), "a valid answer did not arrive",
        lambda one, want, seen: want.rest and not differences(one, want, _not_reset(seen)),
        "a client that sends on after its last request is reset after the answer",
    ),
)  # fmt: skip


Reread = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Leniency:
    """Broken bytes that a party reads as if they were others, who does, and why that is as it should be.

    `read` is given the request that the strict reader refused and what follows it, or the final answer, and mends one
    fault in it, if there is one. What happened must then be in every detail what had to happen with the mended bytes.
    """

    who: tuple[str, ...]
    side: str  # request or answer
    read: Reread
    why: str


_LAX_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:[\r\n]\n|;[^\r\n]*\r?\n)")
_LAX_CHUNK_END = re.compile(rb"\r?\n")
_LAX_TRAILERS = re.compile(rb"(?:[^\r\n]+\r?\n)*\r?\n")


def _plain_chunks(answer: bytes) -> bytes:
    """The answer with its chunks in the plainest form, if they can be told apart."""
    head, empty_line, body = answer.partition(b"\r\n\r\n")
    out = [head, empty_line]
    at = 0
    while size_line := _LAX_SIZE.match(body, at):
        size = int(size_line[1], 16)
        at = size_line.end() + size
        end = (_LAX_CHUNK_END if size else _LAX_TRAILERS).match(body, at)
        if end is None:
            break
        out += [b"%x\r\n" % size, body[size_line.end() : at], b"\r\n"]
        at = end.end()
        if not size:
            return b"".join([*out, body[at:]])
    return answer


_LAX_EXTENSIONS = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:;(?:%b)?(?:=(?:%b|%b)?)?)*\r\n" % (strict.TOKEN, strict.TOKEN, strict.QUOTED)
)


def _plain_extensions(request: bytes) -> bytes:
    """The request without the extensions of its chunks, if it has chunks."""
    head, empty_line, body = request.partition(b"\r\n\r\n")
    out = [head, empty_line]
    at = 0
    while size_line := _LAX_EXTENSIONS.match(body, at):
        size = int(size_line[1], 16)
        at = size_line.end() + size + 2 * bool(size)  # with the line end behind it
        out += [b"%x\r\n" % size, body[size_line.end() : at]]
        if not size:
            return b"".join([*out, body[at:]])
    return request


LENIENT = (
    Leniency(
        OURS, "request", _plain_extensions,
        "names and values of chunk extensions may be empty; they go nowhere",
    ),
    Leniency(
        ("sherpa",), "answer", _plain_chunks,
        "bare LF and blanks in an answer's chunk framing, its extensions and trailers are not looked at",
    ),
)  # fmt: skip
_REREADINGS = 32  # no exchange has so many faults; a fault that doubles lines may make some


def explain(party: str, one: Exchange, want: Expected, seen: Seen, difference: Difference) -> str | None:
    """Why a party may do this; None if nothing explains it."""
    for row in EXPLAINED:
        if party in row.who and row.kind == difference.kind and row.when(one, want, seen):
            return row.why
    return None


def as_read(party: str, one: Exchange, sides: Sequence[str]) -> tuple[Exchange, list[str]]:
    """The exchange as a party may read the request, the answer, or both, and the reasons."""
    reasons = []
    for _ in range(_REREADINGS):
        want = expected(one)
        request, answer = one.request[want.rest_at :], one.answer[want.answer_at :]
        for row in LENIENT:
            if party not in row.who or row.side not in sides:
                continue
            if row.side == "request" and want.rest == "broken":
                other = replace(one, segments=(one.request[: want.rest_at], row.read(request)))
            elif row.side == "answer" and want.answer is None:
                other = replace(one, answer=one.answer[: want.answer_at] + row.read(answer))
            else:
                continue
            if (other.request, other.answer) != (one.request, one.answer):
                reasons.append(row.why)
                one = other
                break
        else:
            break
    return one, reasons


def judge(party: str, one: Exchange, want: Expected, seen: Seen) -> tuple[list[str], list[Difference]]:
    """The explanations of what a party did otherwise, and what they leave."""
    found = [(difference, explain(party, one, want, seen, difference)) for difference in differences(one, want, seen)]
    reasons = [why for _, why in found if why]
    left = [difference for difference, why in found if not why]
    if left:
        for sides in (("request",), ("answer",), ("request", "answer")):
            other, leniencies = as_read(party, one, sides)
            if leniencies:
                reasons_then, left_then = judge(party, other, expected(other), seen)
                if not left_then:
                    return leniencies + reasons_then, []
    return reasons, left


# --- running ----------------------------------------------------------------------------------------------------------


class Script:
    """What the endpoints answer: by the tag that a request carries, and plainly to any other."""

    def __init__(self) -> None:
        self._answers: dict[bytes, Answer] = {}

    def add(self, one: Exchange) -> None:
        """Know this exchange."""
        self._answers[one.tag] = (one.answer, one.close)

    def forget(self, one: Exchange) -> None:
        """Know it no longer."""
        self._answers.pop(one.tag, None)

    def __call__(self, request: Message) -> Answer:
        """The answer to a request."""
        found = _TAG.search(request.start[1])
        tag = found[0] if found else b""
        if tag in self._answers and b"/last" not in request.start[1] and b"/smuggled" not in request.start[1]:
            return self._answers[tag]
        body = b"last-" + tag if b"/last" in request.start[1] else b"?"
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        return (head if request.start[0] == b"HEAD" else head + body), False


class Reached:
    """What reached the endpoint of one party, by tag."""

    def __init__(self, party: Party) -> None:
        self._party = party
        self._by_tag: defaultdict[bytes, list[Message | Broken]] = defaultdict(list)

    def take(self, tag: bytes) -> tuple[Message | Broken, ...]:
        """What came with this tag since it was last asked for."""
        self._sort()
        return tuple(self._by_tag.pop(tag, ()))

    def rest(self) -> list[Message | Broken]:
        """What nobody has asked for yet."""
        self._sort()
        requests = [request for requests in self._by_tag.values() for request in requests]
        self._by_tag.clear()
        return requests

    def _sort(self) -> None:
        for request in self._party.reached:
            self._by_tag[tag_of(request)].append(request)
        self._party.reached.clear()


def understand(data: bytes, closed: bool, methods: Sequence[bytes]) -> tuple[tuple[Message, ...], str]:
    """The whole answers in what a client received, and what follows them. `closed`: it ended, not by a reset."""
    answers: list[Message] = []
    try:
        while data:
            method = methods[min(len(answers), len(methods) - 1)] if methods else b"GET"
            head = strict.response_head(data, method)
            if head is not None and head.start[1] == b"100":
                data = data[head.size :]
                continue
            whole = strict.message(data, head, closed=closed) if head else None
            if whole is None:
                return tuple(answers), f"cut after {data[-80:]!r}"
            answers.append(whole)
            data = data[whole.size :]
    except Broken as broken:
        return tuple(answers), f"no HTTP: {broken}"
    return tuple(answers), ""


def met_a_closed_connection(one: Exchange, seen: Seen) -> bool:
    """Whether it was answered 502 because its upstream connection had been closed by another exchange's endpoint.

    It may be tried once more only if it is idempotent (RETRY-NEVER-TWICE), and says nothing of how it is read.
    """
    unasked = not any(isinstance(request, Message) and request.start[0] == one.method for request in seen.reached)
    return unasked and any(b'"upstream_closed"' in answer.body for answer in seen.answers[:1])


async def look(party: Party, reached: Reached, one: Exchange, patience: float) -> Seen:
    """One exchange through one party."""
    for _ in range(3):
        seen = await _look(party, reached, one, patience)
        if not met_a_closed_connection(one, seen):
            break
    return seen


async def _look(party: Party, reached: Reached, one: Exchange, patience: float) -> Seen:
    heard = await converse(party.port, one.segments, one.last, patience)
    came = reached.take(one.tag)
    methods = [request.start[0] for request in came if isinstance(request, Message)]
    methods = methods or [one.method]
    answers, broken = understand(heard.data, heard.ended and not heard.reset, methods)
    if_closed, _ = understand(heard.data, heard.ended, methods) if heard.reset else (answers, "")
    return Seen(came, answers, broken, heard.ended, if_closed)


@dataclass(frozen=True, slots=True)
class Bench:
    """One party, and what is noted of it."""

    party: Party
    reached: Reached
    tally: Tally
    script: Script

    async def examine(self, one: Exchange, want: Expected, verbose: bool = False) -> None:
        """Put one exchange through the party, twice if it does otherwise than it should, and note what it did."""
        try:
            seen = await look(self.party, self.reached, one, PATIENCE)
            if verbose:
                print(f"--- {self.party.name}: {seen}")
            reasons, left = judge(self.party.name, one, want, seen)
        except TooSlow:
            self.tally.too_slow.add(one.number)
            return
        if left and self.party.name in OURS:
            await self.examine_again(one)
        else:
            self.tally.note(one, reasons, left)

    async def examine_again(self, one: Exchange) -> None:
        """Put it through once more, patiently. What the party does now is what counts."""
        again = one.again()
        self.script.add(again)
        self.tally.run_again.add(one.number)
        try:
            seen = await look(self.party, self.reached, again, CONFIRMING)
        except TooSlow:
            self.tally.too_slow.add(one.number)
        else:
            self.tally.note(one, *judge(self.party.name, again, expected(again), seen))

    async def examine_late(self, find: Callable[[int], Exchange]) -> None:
        """When all exchanges are over: run those again of which something came too late."""
        late = self.reached.rest()
        numbers = {number for number, _ in map(number_of, late)} - self.tally.too_slow - self.tally.run_again - {-1}
        if self.party.name in OURS and numbers:
            await asyncio.gather(*[self.examine_again(find(number)) for number in numbers])
            await asyncio.sleep(PATIENCE)
        self.tally.late([*late, *self.reached.rest()])


async def run(names: Sequence[str], seed: int, numbers: Sequence[int], verbose: bool) -> dict[str, Tally]:
    """All exchanges through all parties."""
    script = Script()
    pending = iter(numbers)

    async with parties(names, script) as all_parties:
        benches = [Bench(party, Reached(party), Tally(), script) for party in all_parties]

        async def lane() -> None:
            for number in pending:
                one = exchange(seed, number)
                script.add(one)
                want = expected(one)
                if verbose:
                    print(f"{one}\n{want}")
                await asyncio.gather(*[bench.examine(one, want, verbose) for bench in benches])
                script.forget(one)

        await asyncio.gather(*[lane() for _ in range(min(LANES, len(numbers)))])
        for bench in benches:
            await bench.examine_late(partial(exchange, seed))
    return {bench.party.name: bench.tally for bench in benches}


def exit_code(tallies: Mapping[str, Tally]) -> int:
    """FOUND when ours did something unexplained, else TOO_SLOW when not all of theirs could be judged, else 0."""
    ours = [tally for name, tally in tallies.items() if name in OURS]
    if any(tally.findings for tally in ours):
        return FOUND
    return TOO_SLOW if any(tally.too_slow for tally in ours) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run, report, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.differential", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--exchanges", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one exchange, shown whole")
    parser.add_argument("--against", default=",".join([*OURS, *(["nginx"] if NGINX else [])]), help="whom to ask")
    parser.add_argument("--show", type=int, default=10, help="findings to print of each party")
    options = parser.parse_args(argv)
    numbers = range(options.exchanges) if options.only is None else [options.only]
    began = time.monotonic()
    tallies = uvloop.run(run(options.against.split(","), options.seed, numbers, options.only is not None))
    for name, tally in tallies.items():
        print(f"\n{name}: {len(numbers)} exchanges, {len(tally.findings)} unexplained")
        for why, count in tally.explained.most_common():
            print(f"  {count:7} explained: {why}")
        for kind, count in tally.kinds.most_common(None if name in OURS else 12):
            print(f"  {count:7} {'UNEXPLAINED' if name in OURS else 'otherwise'}: {kind}")
        if name in OURS:
            for number, difference in list(tally.findings.items())[: options.show]:
                print(f"  --only {number}: {difference.kind}: {difference.detail}"[:900])
        if tally.too_slow:
            numbers_shown = sorted(tally.too_slow)[: options.show]
            print(f"  {len(tally.too_slow):7} too slow to judge: not over after {ENOUGH:.0f} s, as {numbers_shown}")
            print("          Run it again when this machine has less to do.")
    print(f"\n{time.monotonic() - began:.0f} s")
    return exit_code(tallies)


if __name__ == "__main__":
    sys.exit(main())
