"""The differential test in short: both engines against the strict reader. CONTRIBUTING.md has the long form."""

import uvloop

from tests.fuzz import strict
from tests.fuzz.differential import OURS, Seen, expected, judge, run
from tests.fuzz.exchanges import Exchange, exchange
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
