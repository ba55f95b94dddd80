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


BLANKS = b"GET  /t00000000x HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n\r\n"
FOLDED = b"HTTP/1.1 200 OK\r\nX-Script: t00000000x\r\nX-B: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok"


def lenient_exchange() -> Exchange:
    return Exchange(0, b"t00000000x", b"GET", (BLANKS,), FOLDED, True, ("line-blanks",), ("fold",))


def seen(fields: Fields = ((b"X-A", b"1"),), body: bytes = b"", *, folded: bytes = b"1 2", requests: int = 1) -> Seen:
    request = Message((b"GET", b"/t00000000x", b"1"), ((b"Host", b"e"), *fields), body, 0)
    answer = Message((b"1", b"200", b"OK"), ((b"X-Script", b"t00000000x"), (b"X-B", folded)), b"ok", 0)
    return Seen((request,) * requests, (answer,), "", True)


def judged(party: str, what: Seen) -> tuple[int, list[str]]:
    """How many explanations there are, and what they leave."""
    one = lenient_exchange()
    reasons, left = judge(party, one, expected(one), what)
    return len(reasons), [difference.kind for difference in left]


def test_a_known_leniency_explains_what_was_read_by_it() -> None:
    assert judged("sherpa", seen()) == (2, [])


def test_a_leniency_explains_nobody_else() -> None:
    assert judged("olla", seen()) == (0, ["accepted", "a broken answer arrived as a whole one"])


def test_a_leniency_explains_nothing_but_what_it_says() -> None:
    assert judged("sherpa", seen(fields=()))[1]
    assert judged("sherpa", seen(body=b"x"))[1]
    assert judged("sherpa", seen(folded=b"12"))[1]
    assert judged("sherpa", seen(requests=2))[1]
