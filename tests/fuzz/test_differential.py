"""The differential test in short: both engines against the strict reader. CONTRIBUTING.md has the long form."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from tests.fuzz import rig, strict
from tests.fuzz.differential import (
    FOUND,
    OURS,
    TOO_SLOW,
    Difference,
    Reached,
    Seen,
    Tally,
    examine,
    exit_code,
    expected,
    judge,
    run,
)
from tests.fuzz.exchanges import Exchange, exchange
from tests.fuzz.rig import Party, TooSlow, converse
from tests.fuzz.strict import Fields, Message


def test_both_engines_do_with_random_exchanges_what_a_strict_reader_would() -> None:
    tallies = uvloop.run(run(OURS, seed=1, numbers=range(250), verbose=False))
    assert {name: tally.findings for name, tally in tallies.items()} == {"sherpa": {}, "olla": {}}


def test_an_exchange_without_faults_is_valid_and_one_with_faults_seldom() -> None:
    readings = [(one.faults, strict.requests(one.request)) for one in (exchange(1, i) for i in range(400))]
    assert all(reading.rest in ("", "closed") for faults, reading in readings if not faults)
    assert sum(reading.rest == "broken" for faults, reading in readings if faults) > 50


EXTENSION = b"POST /t00000000x HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n1;=\r\na\r\n0\r\n\r\n"
BARE_LF = b"HTTP/1.1 200 OK\r\nX-Script: t00000000x\r\nTransfer-Encoding: chunked\r\n\r\n2;x\nok\r\n0\r\n\r\n"


def lenient_exchange() -> Exchange:
    return Exchange(0, b"t00000000x", b"POST", (EXTENSION,), BARE_LF, True, ("extension",), ("bare-lf",))


def seen(fields: Fields = ((b"X-A", b"1"),), body: bytes = b"a", *, answered: bytes = b"ok", requests: int = 1) -> Seen:
    request = Message((b"POST", b"/t00000000x", b"1"), ((b"Host", b"e"), *fields), body, 0)
    answer = Message((b"1", b"200", b"OK"), ((b"X-Script", b"t00000000x"),), answered, 0)
    return Seen((request,) * requests, (answer,), "", True)


def judged(party: str, what: Seen) -> tuple[int, list[str]]:
    """How many explanations there are, and what they leave."""
    one = lenient_exchange()
    reasons, left = judge(party, one, expected(one), what)
    return len(reasons), [difference.kind for difference in left]


def test_a_known_leniency_explains_what_was_read_by_it() -> None:
    assert judged("sherpa", seen()) == (2, [])


def test_a_leniency_explains_nobody_else() -> None:
    assert "a broken answer arrived as a whole one" in judged("olla", seen())[1]


def test_a_leniency_explains_nothing_but_what_it_says() -> None:
    assert judged("sherpa", seen(fields=()))[1]
    assert judged("sherpa", seen(body=b"x"))[1]
    assert judged("sherpa", seen(answered=b"o"))[1]
    assert judged("sherpa", seen(requests=2))[1]


# -- exchanges that take their time

ASKED = b"GET /t00000000x HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def proxy_that(answers: Callable[[bytes], Awaitable[bool]]) -> AsyncIterator[int]:
    """The port of one that answers OK to a request when `answers` says so, and nothing if it says no."""
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await answers(await reader.readuntil(b"\r\n\r\n")):
            writer.write(OK)
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the client leaves
        writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*served)


async def never(request: bytes) -> bool:
    return False


def test_an_exchange_is_waited_for_while_the_proxy_has_no_time_for_any() -> None:
    async def scenario() -> bytes:
        had_no_time = asyncio.Event()

        async def slowly(request: bytes) -> bool:
            if request == ASKED:
                await had_no_time.wait()  # far longer than the patience
            else:
                await asyncio.sleep(0.2)
                had_no_time.set()
            return True

        async with proxy_that(slowly) as port:
            return (await converse(port, [ASKED], b"ok", 0.1)).data

    assert asyncio.run(scenario()) == OK


def test_silence_of_a_proxy_that_has_time_ends_an_exchange() -> None:
    async def scenario() -> tuple[bytes, bool]:
        async def others(request: bytes) -> bool:
            return request != ASKED

        async with proxy_that(others) as port:
            heard = await converse(port, [ASKED], b"ok", 0.1)
            return heard.data, heard.ended

    assert asyncio.run(scenario()) == (b"", False)


def test_an_exchange_that_is_not_over_in_time_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "ENOUGH", 0.2)
    one = lenient_exchange()
    tally = Tally()

    async def scenario() -> None:
        async with proxy_that(never) as port:
            with pytest.raises(TooSlow):
                await converse(port, [ASKED], b"ok", 0.05)
            party = Party("olla", port)
            reached = Reached(party)
            await examine(party, reached, tally, one, expected(one))
            party.reached.append(Message((b"POST", b"/t00000000x", b"1"), (), b"", 0))  # it arrives after all
            tally.late(reached.rest())

    asyncio.run(scenario())
    assert (tally.too_slow, tally.findings, tally.kinds) == ({one.number}, {}, {})


def test_what_reaches_the_endpoint_after_an_exchange_that_was_over_is_a_finding() -> None:
    tally = Tally(too_slow={1})
    tally.late([Message((b"POST", b"/t00000000x", b"1"), (), b"", 0)])
    assert list(tally.findings) == [0]


def test_exchanges_too_slow_to_judge_have_an_exit_code_of_their_own_and_findings_come_first() -> None:
    found, slow = {1: Difference("refused", "")}, {2}
    assert exit_code({"sherpa": Tally(), "olla": Tally()}) == 0
    assert exit_code({"sherpa": Tally(too_slow=slow), "olla": Tally()}) == TOO_SLOW
    assert exit_code({"sherpa": Tally(too_slow=slow), "olla": Tally(findings=found)}) == FOUND
    assert exit_code({"olla": Tally(), "nginx": Tally(findings=found, too_slow=slow)}) == 0
