"""Starts and lengths of a campaign that is asked for a precision or a time, from earlier campaigns or a pilot."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from loadgen.campaign import precision, schedule
from loadgen.campaign.campaign import LiveCampaign
from loadgen.campaign.plan import Planned
from loadgen.campaign.voice import Voice
from reports import store
from reports.stats import Costs

ROUNDS = 3
FOLDER = "pilot"


def decide(
    planned: Planned,
    before: Sequence[store.Campaign],
    folder: Path,
    voice: Voice,
    begun: float,
    rounds: int = ROUNDS,
) -> Planned:
    """The campaign with the starts and lengths that `planned.asked` wants. `before`: earlier campaigns that may tell
    what varies; where they do not, so many `rounds` of a pilot do, which are not counted. `begun`: monotonic seconds.
    Raises KeyboardInterrupt."""
    asked = planned.asked
    by_id = {one.id: one for one in planned.scenarios}
    prices = {name: precision.costs(planned, one) for name, one in by_id.items()}
    lengths = {name: one.duration_s for name, one in by_id.items()}
    rows = precision.known(planned, before)
    source: Literal["pilot", "earlier campaigns"] = "earlier campaigns"
    if not rows.keys() >= {one.id for one in planned.scenarios}:
        source = "pilot"
        voice.say(f"Pilot: {rounds} rounds, not counted, to see what varies")
        shutil.rmtree(folder / FOLDER, ignore_errors=True)  # of one that was killed
        pilot = LiveCampaign(replace(planned, rounds=rounds, repeats=0), folder / FOLDER, voice)
        pilot.create("pilot of the campaign in the folder above")
        try:
            pilot.run()
        except BaseException:
            shutil.rmtree(folder / FOLDER, ignore_errors=True)
            raise
        prices = as_slow(prices, lengths, pilot.measured_s / rounds)
        rows = {**rows, **precision.known(planned, [store.load_campaign(folder / FOLDER)])}
    rest = sum(planned.starts(one) * planned.round_s([one]) for name, one in by_id.items() if name not in rows)
    left = None
    if asked.time_s is not None:
        left = max(asked.time_s - (time.monotonic() - begun) - schedule.REPORT_S - rest, 0.0)
    decided = precision.Precision(
        wanted=asked.precision,
        time_s=asked.time_s,
        source=source,
        scenarios=precision.decide(rows, prices, lengths, asked.precision, left),
    )
    for line in precision.words(decided):
        voice.say(line)
    made = precision.apply(planned, decided)
    voice.say(f"Planned from {source}: about {precision.duration(made.seconds())} from here")
    return made


def as_slow(prices: Mapping[str, Costs], lengths: Mapping[str, float], round_s: float) -> dict[str, Costs]:
    """The prices where the rounds of a pilot took `round_s` each: a slow or busy machine starts processes slowly.
    Pure."""
    load_s = sum(price.load_s * lengths[name] for name, price in prices.items())
    start_s = sum(price.start_s for price in prices.values())
    slower = max((round_s - load_s) / start_s, 1.0) if start_s else 1.0
    return {name: replace(price, start_s=price.start_s * slower) for name, price in prices.items()}
