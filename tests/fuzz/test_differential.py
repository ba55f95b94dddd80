"""The differential test in short: both engines against the strict reader. CONTRIBUTING.md has the long form."""

import uvloop

from tests.fuzz import strict
from tests.fuzz.differential import OURS, run
from tests.fuzz.exchanges import exchange


def test_both_engines_do_with_random_exchanges_what_a_strict_reader_would() -> None:
    tallies = uvloop.run(run(OURS, seed=1, numbers=range(250), verbose=False))
    assert {name: tally.findings for name, tally in tallies.items()} == {"sherpa": {}, "olla": {}}


def test_an_exchange_without_faults_is_valid_and_one_with_faults_seldom() -> None:
    readings = [(one.faults, strict.requests(one.request)) for one in (exchange(1, i) for i in range(400))]
    assert all(reading.rest in ("", "closed") for faults, reading in readings if not faults)
    assert sum(reading.rest == "broken" for faults, reading in readings if faults) > 50
