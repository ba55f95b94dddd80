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
    Bench,
    Difference,
    Reached,
    Script,
    Seen,
    Tally,
    exit_code,
    expected,
    judge,
    number_of,
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
REFUSED = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@contextlib.asynccontextmanager
async def proxy_that(answers: Callable[[bytes], Awaitable[bool]], answer: bytes = OK) -> AsyncIterator[int]:
    """The port of one that gives `answer` to a request when `answers` says so, and none if it says no."""
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await answers(await reader.readuntil(b"\r\n\r\n")):
            writer.write(answer)
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


def request_of(one: Exchange) -> Message:
    return Message((b"POST", b"/" + one.tag, b"1"), (), b"", 0)


def test_an_exchange_that_is_not_over_in_time_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "ENOUGH", 0.2)
    one = lenient_exchange()
    tally = Tally()

    async def scenario() -> None:
        async with proxy_that(never) as port:
            with pytest.raises(TooSlow):
                await converse(port, [ASKED], b"ok", 0.05)
            party = Party("olla", port)
            bench = Bench(party, Reached(party), tally, Script())
            await bench.examine(one, expected(one))
            party.reached.append(request_of(one))  # it arrives after all
            await bench.examine_late(lambda number: one)

    asyncio.run(scenario())
    assert (tally.too_slow, tally.findings, tally.kinds) == ({one.number}, {}, {})


@pytest.mark.parametrize("comes_again", [False, True])
def test_what_came_late_is_a_finding_only_if_it_comes_again(comes_again: bool) -> None:
    tag = b"t00000007x"
    one = Exchange(7, tag, b"GET", (b"GET /%b HTTP/1.1\r\nNo colon\r\n\r\n" % tag,), OK, False, ("colon",), ())
    party = Party("olla", 0)

    async def refuse(request: bytes) -> bool:
        if comes_again and one.again().tag in request:
            party.reached.append(request_of(one.again()))
        return True

    async def scenario() -> Tally:
        async with proxy_that(refuse, REFUSED) as party.port:
            bench = Bench(party, Reached(party), Tally(), Script())
            await bench.examine(one, expected(one))
            party.reached.append(request_of(one))
            await bench.examine_late({7: one}.__getitem__)
            return bench.tally

    tally = asyncio.run(scenario())
    assert tally.run_again == {7}
    assert set(tally.findings) == ({7} if comes_again else set())


def test_late_requests_of_a_run_that_was_repeated_do_not_count_and_those_of_the_repetition_do() -> None:
    once, twice = exchange(1, 5), exchange(1, 6)
    tally = Tally(run_again={twice.number})
    tally.late([request_of(twice)])
    assert tally.findings == {}
    tally.late([request_of(once), request_of(twice.again())])
    assert [*tally.findings] == [5, 6]


def test_an_exchange_is_run_again_under_another_tag_and_is_else_the_same() -> None:
    for one in (exchange(1, number) for number in range(200)):
        again = one.again()
        assert again.tag != one.tag
        assert one.tag not in again.request + again.answer
        assert again.request.replace(again.tag, one.tag) == one.request
        assert again.answer.replace(again.tag, one.tag) == one.answer
        assert [*map(len, again.segments)] == [*map(len, one.segments)]
        assert number_of(request_of(one)) == (one.number, False)
        assert number_of(request_of(again)) == (one.number, True)


def test_exchanges_too_slow_to_judge_have_an_exit_code_of_their_own_and_findings_come_first() -> None:
    found, slow = {1: Difference("refused", "")}, {2}
    assert exit_code({"sherpa": Tally(), "olla": Tally()}) == 0
    assert exit_code({"sherpa": Tally(too_slow=slow), "olla": Tally()}) == TOO_SLOW
    assert exit_code({"sherpa": Tally(too_slow=slow), "olla": Tally(findings=found)}) == FOUND
    assert exit_code({"olla": Tally(), "nginx": Tally(findings=found, too_slow=slow)}) == 0
