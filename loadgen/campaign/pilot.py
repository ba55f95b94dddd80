"""Starts and lengths of a campaign that is asked for a precision or a time, from earlier campaigns or a pilot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from loadgen.campaign import precision, schedule
from loadgen.campaign.campaign import Campaign
from loadgen.campaign.plan import Planned
from loadgen.campaign.voice import Voice
from reports import store

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
    rows = precision.known(planned, before)
    source: Literal["pilot", "earlier campaigns"] = "earlier campaigns"
    if not rows.keys() >= {one.id for one in planned.scenarios}:
        source = "pilot"
        voice.say(f"Pilot: {rounds} rounds, not counted, to see what varies")
        pilot = Campaign(replace(planned, rounds=rounds, limit_s=1.0), folder / FOLDER, voice)
        pilot.create("pilot of the campaign in the folder above")
        pilot.run()
        rows = {**rows, **precision.known(planned, [store.load_campaign(folder / FOLDER)])}
    by_id = {one.id: one for one in planned.scenarios}
    prices = {name: precision.costs(planned, one) for name, one in by_id.items()}
    lengths = {name: one.duration_s for name, one in by_id.items()}
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
