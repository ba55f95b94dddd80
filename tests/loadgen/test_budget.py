"""The allocation budget: what it makes of the recorders' totals, and one short run of both engines."""

from __future__ import annotations

import re

from loadgen.gate import budget
from loadgen.gate.budget import Collected


def reading(*totals: tuple[int, int]) -> dict[str, object]:
    return {"totals": {"gc": {str(g): {"count": count, "total_ns": ns} for g, (count, ns) in enumerate(totals)}}}


def test_what_the_collector_did_is_the_difference_of_two_readings():
    before = reading((5, 1_000_000), (1, 500_000), (0, 0))
    after = reading((25, 3_000_000), (3, 1_500_000), (1, 9_000_000))
    assert budget.between(before, after, 1000, 9.0) == Collected(1000, (20, 2, 1), 12.0, 9.0)


def test_settings_go_into_a_copy():
    config = {"proxy": {"engine": "olla"}, "runtime": {"recorders": False}}
    changed = budget.with_settings(config, {"proxy.pools.contexts": False, "runtime.recorders": True})
    assert changed == {"proxy": {"engine": "olla", "pools": {"contexts": False}}, "runtime": {"recorders": True}}
    assert config == {"proxy": {"engine": "olla"}, "runtime": {"recorders": False}}


def test_olla_serves_thousands_of_requests_without_one_collection_where_sherpa_needs_hundreds(capsys):
    assert budget.main(["--tools", "", "--requests", "6400", "--ballast", "1000"]) == 0
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if line.startswith("collections, gen 0 / 1 / 2, of 6,400"))
    olla, sherpa = re.findall(r"(\d+) / \d+ / \d+(?!,)", row.partition("of 6,400 requests")[2])
    assert int(olla) == 0
    assert int(sherpa) > 100
