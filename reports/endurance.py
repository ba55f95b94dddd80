"""Does anything grow, leak or get lost over a long run? Facts of runs of `soak` scenarios in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from reports import stats
from reports.store import Campaign
from reports.summarise import Facts, Floats

BLOCKS: Final = 30
"""A window is cut into so many parts; the sample of the slope is the mean of a part."""
LEAST_S: Final = 600.0
"""In less, what fills up once (caches, pools, the allocator) looks like a leak."""
SETTLING: Final = 1 / 3
"""The first part of a window is drawn and not judged, for the same reason: in the first half hour ever measured Olla
grew by 0.8 MiB and Sherpa by 1.5 in the first ten minutes, and both by 0.4 in the last twenty."""
MARGIN: Final = 0.05
"""An interval that reaches further than this share of the memory an hour shows no flatness, though it holds zero."""

WORDS: Final[Mapping[bool | None, str]] = {None: "not measured", True: "yes", False: "no"}

Memory = Literal["flat", "grows", "shrinks", "too-noisy", "too-short", "not-measured"]


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through memory over time, MiB and hours, with a 95 % interval of its slope."""

    per_hour: float
    low: float
    high: float
    level_mib: float
    """Where the line begins, at `from_s`."""
    from_s: float

    @property
    def word(self) -> Literal["flat", "grows", "shrinks", "too-noisy"]:
        """`flat` if the interval holds zero and is narrow enough to say so."""
        if self.low > 0 or self.high < 0:
            return "grows" if self.low > 0 else "shrinks"
        return "flat" if self.high - self.per_hour <= MARGIN * self.level_mib else "too-noisy"


@dataclass(frozen=True, slots=True)
class Endurance:
    """What one long run left."""

    facts: Facts
    seconds: float
    slope: Slope | None
    fds_before: int | None
    fds_after: int | None
    fds_peak: int | None
    accounting: Mapping[str, int]
    """The engine's own counts from the load's begin to its end, and `sent` by the driver; empty if it has none."""
    complaints: int | None
    """Lines on stderr about stray tasks, unraisable errors and the like; None: nobody looked."""
    said: tuple[str, ...]
    """The first of them."""

    @property
    def memory(self) -> Memory:
        """One word about memory."""
        if 0 < self.seconds < LEAST_S:
            return "too-short"
        return "not-measured" if self.slope is None else self.slope.word

    @property
    def descriptors_back(self) -> bool | None:
        """Whether no more descriptors are open than before the load."""
        return None if self.fds_before is None or self.fds_after is None else self.fds_after <= self.fds_before

    @property
    def accounted(self) -> bool | None:
        """Whether every request that was sent is in one of the engine's counts, and none is left."""
        counts = self.accounting
        if not counts:
            return None
        ended = counts["success"] + counts["failed"] + counts["client_disconnected"]
        return not counts["active"] and ended == counts["total"] and counts.get("sent") in (None, counts["total"])

    def say(self) -> str:
        """All of it in a sentence."""
        memory = self.memory.replace("-", " ")
        if self.slope is not None:
            low, high = self.slope.low, self.slope.high
            memory += f" ({self.slope.per_hour:+.2f} MiB an hour, 95 % CI {low:+.2f}..{high:+.2f})"
        back, exact = WORDS[self.descriptors_back], WORDS[self.accounted]
        stderr = {None: "not measured", 0: "clean"}.get(self.complaints, f"{self.complaints} complaints")
        return f"memory {memory}; descriptors back: {back}; every request accounted for: {exact}; stderr: {stderr}"

    def as_json(self) -> dict[str, Any]:
        """Its entry in verdict.json."""
        record, slope = self.facts.record, self.slope
        return {
            "run": record.run,
            "scenario": record.scenario,
            "target": record.target,
            "round": record.round,
            "void": record.void_reason,
            "seconds": self.seconds,
            "memory": self.memory,
            "rss_mib_per_hour": None if slope is None else slope.per_hour,
            "ci_low": None if slope is None else slope.low,
            "ci_high": None if slope is None else slope.high,
            "fds_before": self.fds_before,
            "fds_peak": self.fds_peak,
            "fds_after": self.fds_after,
            "descriptors_back": self.descriptors_back,
            "accounting": dict(self.accounting) or None,
            "accounted": self.accounted,
            "complaints": self.complaints,
        }


def of_campaign(campaign: Campaign, facts: Iterable[Facts]) -> list[Endurance]:
    """Of every run of a scenario tagged `soak`, void ones too: a late generator does not excuse a leak."""
    return [of_run(one) for one in facts if "soak" in campaign.scenario(one.record.scenario).tags]


def of_run(facts: Facts) -> Endurance:
    """What is known of one run."""
    left = facts.extras.get("endurance")
    left = left if isinstance(left, Mapping) else {}
    fds, stderr = left.get("fds") or {}, left.get("stderr")
    usage, seconds = facts.usage.get("target"), facts.window_s or 0.0
    line, peak = None, None
    if usage is not None:
        inside = (usage.at_s >= 0) & (usage.at_s < seconds)
        settled = inside & (usage.at_s >= SETTLING * seconds)
        line = slope(usage.at_s[settled], usage.rss_mib[settled])
        open_then = usage.fds[inside & ~np.isnan(usage.fds)]
        peak = int(open_then.max()) if open_then.size else None
    counts = {name: int(count) for name, count in (left.get("accounting") or {}).items() if count is not None}
    return Endurance(
        facts=facts,
        seconds=seconds,
        slope=line,
        fds_before=fds.get("before"),
        fds_after=fds.get("after"),
        fds_peak=peak,
        accounting=counts,
        complaints=None if stderr is None else int(stderr["count"]),
        said=() if stderr is None else tuple(str(line) for line in stderr["first"]),
    )


def slope(at_s: Floats, mib: Floats) -> Slope | None:
    """The slope of memory over time; None with fewer than four samples a block."""
    known = ~np.isnan(mib)
    at_s, mib = at_s[known], mib[known]
    found = stats.slope(at_s / 3600, mib, BLOCKS)
    if found is None:
        return None
    return Slope(found.slope, found.interval.low, found.interval.high, found.start, float(at_s[0]))
