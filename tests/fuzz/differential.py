"""The same random exchanges through sherpa, olla and (where installed) nginx: who accepts what, and what reaches whom.

    python -m tests.fuzz.differential [--exchanges 100000] [--seed 1] [--only N] [--against sherpa,olla,nginx]

Each party's doings are held against what tests/fuzz/strict.py reads in the same bytes, and so against each other:

* only requests that are valid reach the endpoint, in their order, with their method, target, fields and body;
* a valid request is not refused; a valid answer arrives as it is, an invalid one never as a whole one;
* the second request of the connection is answered as itself, whatever became of the first.

What differs is explained by a row of EXPLAINED, or printed as a finding with its number (`--only` shows it whole) and
makes the exit code 1. A finding is confirmed by a second, patient run before it counts. nginx is no judge: what it does
otherwise is counted by kind, so that one sees where ours are stricter.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import uvloop

from tests.fuzz import strict
from tests.fuzz.exchanges import METHODS, Exchange, exchange
from tests.fuzz.rig import NGINX, Answer, Party, converse, parties
from tests.fuzz.strict import Broken, Fields, Message

LANES = 48  # conversations at once with each party
PATIENCE = 0.6  # seconds of silence; a finding is run again with more
CONFIRMING = 4.0
OURS = ("sherpa", "olla")

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
_NEVER_NOMINATED = {b"host", b"content-length", b"transfer-encoding", b"via", b"x-request-id", b"close", b"keep-alive"}


@dataclass(frozen=True, slots=True)
class Expected:
    """What the strict reader says of an exchange."""

    requests: list[Message]
    rest: str  # what follows them: see strict.Reading
    why: str
    answer: Message | None  # of the first request, if it is valid


@dataclass(frozen=True, slots=True)
class Seen:
    """What one party made of it."""

    reached: tuple[Message | Broken, ...]
    answers: tuple[Message, ...]  # whole ones
    broken: str  # how the client's side ended, if not with whole answers: cut, or what was no HTTP
    ended: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that a party did otherwise than the strict reader would."""

    kind: str
    detail: str


@dataclass(slots=True)
class Tally:
    """Differences of one party: explained ones by row, others by number."""

    explained: Counter[str] = field(default_factory=Counter)
    findings: dict[int, Difference] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)

    def note(self, one: Exchange, differences: Sequence[Difference]) -> None:
        """Keep what nothing explains."""
        for difference in differences:
            self.kinds[f"{difference.kind} ({'+'.join(one.faults + one.answer_faults) or 'valid'})"] += 1
            self.findings.setdefault(one.number, difference)


# --- judging (pure) ---------------------------------------------------------------------------------------------------


def expected(one: Exchange) -> Expected:
    """What a strict reader sees in both directions."""
    reading = strict.requests(one.request)
    answer: Message | None = None
    data, method = one.answer, reading.requests[0].start[0] if reading.requests else one.method
    try:
        while True:
            head = strict.response_head(data, method)
            if head is None or head.start[1] == b"101":
                break
            if head.start[1].startswith(b"1"):
                data = data[head.size :]
                continue
            answer = strict.message(data, head, closed=one.close)
            break
    except Broken:
        answer = None
    # Where a fault hit the tag, nobody can say whose a request at the endpoint is.
    tagged = [request for request in reading.requests if one.tag in request.start[1]]
    return Expected(tagged, reading.rest, reading.why, answer if len(tagged) == len(reading.requests) else None)


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
        if got.start[:2] != (sent.start[0], _path(sent.start[1])):
            return [Difference("another request line", f"{got.start} for {sent.start}")]
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


def _path(target: bytes) -> bytes:
    """A request's path and query, also of an absolute target."""
    if target.startswith(b"/") or target == b"*":
        return target
    return target[target.find(b"/", target.find(b"://") + 3) :] if b"/" in target.partition(b"://")[2] else b"/"


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
    when: Callable[[Exchange, Expected, Difference], object]
    why: str


def _first(want: Expected) -> Message:
    return want.requests[0]


def _repeated(want: Expected) -> bool:
    names = [name.lower() for name, _ in _first(want).fields]
    return any(
        names.count(name) > 1 for name in (b"content-type", b"user-agent", b"etag", b"server", b"content-length")
    )


def _not_utf8(fields: Fields) -> bool:
    try:
        b"".join(value for _, value in fields).decode()
    except UnicodeDecodeError:
        return True
    return False


_BLANKS = re.compile(rb"(?:\r\n){0,2}[A-Z]+ {2,}\S+ HTTP/1\.[01]\r\n")
_OTHER_PROTOCOL = re.compile(rb"(?:\r\n){0,2}[A-Z_]+ \S+ (?:RTSP|ICE)/")
_OTHER_CODING = re.compile(rb"(?i)\r\ntransfer-encoding:[ \t]*(?!chunked[ \t]*\r\n)")
_KNOWN = set(METHODS) | {b"PATCH", b"CONNECT", b"TRACE", b"MERGE", b"LINK", b"COPY", b"MOVE", b"LOCK", b"BIND", b"ACL"}

EXPLAINED = (
    Explained(
        OURS, "refused", lambda one, want, _: not _first(want).start[1].isascii(),
        "a target with bytes beyond ASCII is no URL (RFC 3986)",
    ),
    Explained(
        OURS, "refused", lambda one, want, _: _first(want).start[0] not in _KNOWN,
        "a method that llhttp does not know is 501",
    ),
    Explained(
        ("sherpa",), "refused", lambda one, want, _: _repeated(want),
        "aiohttp refuses a repeated field that may come once",
    ),
    Explained(
        ("sherpa",), "refused", lambda one, want, _: _not_utf8(_first(want).fields),
        "field bytes that are not UTF-8 are refused (aiohttp#3279)",
    ),
    Explained(
        ("sherpa",), "another status",
        lambda one, want, difference: want.answer is not None and _not_utf8(want.answer.fields),
        "field bytes that are not UTF-8 are refused (aiohttp#3279)",
    ),
    Explained(
        ("sherpa",), "accepted", lambda one, want, _: _BLANKS.match(one.request),
        "several blanks in a request line are read as one",
    ),
    Explained(
        ("sherpa",), "accepted", lambda one, want, _: _OTHER_PROTOCOL.match(one.request),
        "RTSP and ICE are read as HTTP",
    ),
    Explained(
        ("sherpa",), "a broken answer arrived as a whole one", lambda one, want, _: _OTHER_CODING.search(one.answer),
        "a coding that is not chunked ends with the connection, and is passed on so (RFC 9112 6.3)",
    ),
    Explained(
        ("sherpa",), "another status", lambda one, want, _: "grow" in one.answer_faults,
        "garbage in the segment of a response's end takes the response with it",
    ),
    Explained(
        ("sherpa",), "a valid answer did not arrive", lambda one, want, _: "grow" in one.answer_faults,
        "garbage in the segment of a response's end takes the response with it",
    ),
)  # fmt: skip


def explain(party: str, one: Exchange, want: Expected, difference: Difference) -> str | None:
    """Why a party may do this; None if nothing explains it."""
    for row in EXPLAINED:
        if party in row.who and row.kind == difference.kind and row.when(one, want, difference):
            return row.why
    return None


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
        for request in self._party.reached:
            text = str(request).encode() if isinstance(request, Broken) else b" ".join(request.start) + request.body
            found = _TAG.search(text)
            self._by_tag[found[0] if found else b""].append(request)
        self._party.reached.clear()
        return tuple(self._by_tag.pop(tag, ()))


def understand(data: bytes, ended: bool, methods: Sequence[bytes]) -> tuple[tuple[Message, ...], str]:
    """The whole answers in what a client received, and what follows them."""
    answers: list[Message] = []
    try:
        while data:
            method = methods[min(len(answers), len(methods) - 1)] if methods else b"GET"
            head = strict.response_head(data, method)
            if head is not None and head.start[1] == b"100":
                data = data[head.size :]
                continue
            whole = strict.message(data, head, closed=ended) if head else None
            if whole is None:
                return tuple(answers), f"cut after {data[-80:]!r}"
            answers.append(whole)
            data = data[whole.size :]
    except Broken as broken:
        return tuple(answers), f"no HTTP: {broken}"
    return tuple(answers), ""


async def look(party: Party, reached: Reached, one: Exchange, patience: float) -> Seen:
    """One exchange through one party."""
    data, ended = await converse(party.port, one.segments, one.last, patience)
    came = reached.take(one.tag)
    methods = [request.start[0] for request in came if isinstance(request, Message)]
    answers, broken = understand(data, ended, methods or [one.method])
    return Seen(came, answers, broken, ended)


async def run(names: Sequence[str], seed: int, numbers: Sequence[int], verbose: bool) -> dict[str, Tally]:
    """All exchanges through all parties."""
    script = Script()
    tallies = {name: Tally() for name in names}
    pending = iter(numbers)

    def judge(party: Party, one: Exchange, want: Expected, seen: Seen) -> list[Difference]:
        left = []
        for difference in differences(one, want, seen):
            why = explain(party.name, one, want, difference)
            if why is None:
                left.append(difference)
            else:
                tallies[party.name].explained[why] += 1
        return left

    async with parties(names, script) as all_parties:
        reached = {party.name: Reached(party) for party in all_parties}

        async def lane() -> None:
            for number in pending:
                one = exchange(seed, number)
                script.add(one)
                want = expected(one)
                if verbose:
                    print(f"{one}\n{want}")
                looks = [look(party, reached[party.name], one, PATIENCE) for party in all_parties]
                for party, seen in zip(all_parties, await asyncio.gather(*looks), strict=True):
                    if verbose:
                        print(f"--- {party.name}: {seen}")
                    if left := judge(party, one, want, seen):
                        if party.name not in OURS:
                            tallies[party.name].note(one, left)
                            continue
                        again = await look(party, reached[party.name], one, CONFIRMING)
                        tallies[party.name].note(one, judge(party, one, want, again))
                script.forget(one)

        await asyncio.gather(*[lane() for _ in range(min(LANES, len(numbers)))])
    return tallies


def main(argv: Sequence[str] | None = None) -> int:
    """Run and report; 1 when ours did something unexplained."""
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
    bad = False
    for name, tally in tallies.items():
        bad |= name in OURS and bool(tally.findings)
        print(f"\n{name}: {len(numbers)} exchanges, {len(tally.findings)} unexplained")
        for why, count in tally.explained.most_common():
            print(f"  {count:7} explained: {why}")
        for kind, count in tally.kinds.most_common(None if name in OURS else 12):
            print(f"  {count:7} {'UNEXPLAINED' if name in OURS else 'otherwise'}: {kind}")
        if name in OURS:
            for number, difference in list(tally.findings.items())[: options.show]:
                print(f"  --only {number}: {difference.kind}: {difference.detail}"[:900])
    print(f"\n{time.monotonic() - began:.0f} s")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
