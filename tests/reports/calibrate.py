"""How often the report's words are right, on campaigns whose truth is known: `python -m tests.reports.calibrate`.

Prints, for each true effect and number of rounds: how often the 95 % interval of a secondary metric covers the truth
(coverage), how often any primary of a scenario without effect is called faster or slower (false alarms, its primaries
together), and how often a true effect is called by its name (power). Noise per process start as measured on the
project's machine: 4.4 % for CPU per request, 9.6 % for medians of latency, after a drift of 5 % shared by a round.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from reports.compare import compare
from tests.reports.synthetic import campaign_of, facts_of

SECONDARY = "e2e_p50_ms"
EFFECTS = (1.0, 0.97, 0.9, 0.5)
ROUNDS = (6, 8, 12)


@dataclass
class Score:
    """What happened to one true effect over many campaigns."""

    campaigns: int = 0
    covered: int = 0
    alarms: int = 0
    secondary_alarms: int = 0
    words: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def coverage(self) -> float:
        """Share of secondary intervals that hold the truth."""
        return self.covered / self.campaigns

    @property
    def false_alarms(self) -> float:
        """Share of campaigns in which any primary of the first scenario was called faster or slower."""
        return self.alarms / self.campaigns

    def share(self, metric: str, word: str) -> float:
        """How often `metric` got `word`."""
        return self.words[metric][word] / self.campaigns


def score(effect: float, rounds: int, campaigns: int, seed: int = 0) -> Score:
    """Judge `campaigns` synthetic campaigns of two scenarios in which olla's true ratio to sherpa is `effect`."""
    rng = np.random.default_rng([seed, rounds, int(effect * 1000)])
    scenarios = ("one", "two")
    campaign = campaign_of(("sherpa", "olla"), scenarios, rounds)
    found = Score()
    for _ in range(campaigns):
        facts = facts_of({"sherpa": 1.0, "olla": effect, "sherpa@aa": 1.0}, rounds=rounds, rng=rng, scenarios=scenarios)
        comparison = compare(campaign, facts)
        rows = [row for row in comparison.rows if row.candidate.target == "olla" and row.ratio is not None]
        first = [row for row in rows if row.scenario == "one"]
        secondary = next(row for row in first if row.metric == SECONDARY)
        assert secondary.ci_low is not None and secondary.ci_high is not None
        found.campaigns += 1
        found.covered += secondary.ci_low <= effect <= secondary.ci_high
        found.secondary_alarms += secondary.verdict in ("lower", "higher")
        found.alarms += any(row.primary and row.verdict in ("faster", "slower") for row in first)
        for row in first:
            found.words.setdefault(row.metric, Counter())[row.verdict] += 1
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--campaigns", type=int, default=2000, help="synthetic campaigns per line (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(f"{asked.campaigns} campaigns a line, two scenarios, three primary metrics each")
    print("true effect  rounds  coverage   any false alarm | CPU per request: faster  equivalent  too-noisy  slower")
    for effect in EFFECTS:
        for rounds in ROUNDS:
            found = score(effect, rounds, asked.campaigns, asked.seed)
            alarms = f"{found.false_alarms:14.1%}" if effect == 1.0 else f"{'-':>14}"
            shares = [
                found.share("cpu_us_per_request", word) for word in ("faster", "equivalent", "too-noisy", "slower")
            ]
            cells = "  ".join(f"{share:9.1%}" for share in shares)
            print(f"{effect - 1:+11.0%}  {rounds:6}  {found.coverage:8.1%}  {alarms} | {'':16}{cells}")


if __name__ == "__main__":
    main()
