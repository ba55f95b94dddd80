"""What people call the scenarios of a campaign, and which of them are use cases of their own. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from reports import ladder
from reports.schema import ScenarioRecord
from reports.store import Campaign


def called(scenario: ScenarioRecord) -> str:
    """A scenario in people's words, from its load: `small answers, 1,000 req/s`. Empty where nothing is known."""
    tags = set(scenario.tags)
    rate = f"{scenario.rate_rps:,.0f} req/s" if scenario.rate_rps else ""
    if scenario.faults:
        fault = scenario.faults[0].kind.replace("_", " ")
        return f"one endpoint fails ({fault})" if "slow" not in fault else "one endpoint is slow"
    workers = scenario.settings.get("server.workers")
    if workers is not None and "soak" not in tags:
        connections = f", {scenario.connections} connections" if scenario.connections else ""
        return f"{workers} worker{'' if workers == 1 else 's'}{connections}"
    if "saturation" in tags:
        return "one core at full load"
    if "cold-start" in tags:
        return "the first second after a start"
    if "gc-load" in tags:
        return f"garbage collection, {scenario.ballast or 0:,} live objects"
    if "soak" in tags:
        return "a long run"
    if "sweep-connections" in tags and scenario.connections:
        return f"{scenario.connections:,} open streams"
    if scenario.kind == "stream":
        events = f" of {scenario.events_per_request:g} tokens" if scenario.events_per_request else ""
        return ", ".join(part for part in (f"streams{events}", rate) if part)
    if (scenario.response_bytes or 0) >= 65536:
        return ", ".join(part for part in (f"answers of {_size(scenario.response_bytes or 0)}", rate) if part)
    if "sweep-endpoints" in tags and scenario.endpoints and scenario.endpoints > 1:
        return f"{scenario.endpoints} endpoints"
    if "instant" in tags or scenario.profile == "instant":
        return ", ".join(part for part in ("small answers", rate) if part)
    return ""


def _size(count: int) -> str:
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count / 2**10:g} KiB"


def names(campaign: Campaign, scenarios: Sequence[str]) -> dict[str, str]:
    """Each scenario's words; its id where there are none, and behind them where two scenarios share them."""
    known = {name: campaign.scenario(name) for name in scenarios}
    found = {
        name: ladder.called(name) if one.group == ladder.GROUP else called(one) or name for name, one in known.items()
    }
    often = Counter(found.values())
    return {name: words if often[words] == 1 else f"{words} ({name})" for name, words in found.items()}


def use_cases(campaign: Campaign, scenarios: Sequence[str]) -> list[str]:
    """Scenarios that somebody may have to decide for: no controls, no long runs, no counts of the garbage collector,
    and of a sweep (see schema.Scenario.group) the point that is named as a use case, else the largest."""
    controls = {campaign.scenario(name).healthy for name in scenarios}
    cases: set[str] = set()
    named: set[str] = set()
    largest: dict[str, tuple[float, str]] = {}
    for name in scenarios:
        scenario = campaign.scenario(name)
        if scenario.group == ladder.GROUP:
            continue  # each rung is measured with one target alone
        swept = any(tag.startswith("sweep-") for tag in scenario.tags)
        if (name in controls and not swept) or {"soak", "gc-load"}.intersection(scenario.tags):
            continue
        tag = next((tag for tag in scenario.tags if tag.startswith("sweep-")), None)
        sizes = {
            "sweep-rate": scenario.rate_rps, "sweep-connections": scenario.connections,
            "sweep-body": scenario.response_bytes, "sweep-events": scenario.events_per_request,
            "sweep-endpoints": scenario.endpoints,
        }  # fmt: skip
        curve = f"{tag} {scenario.group}"
        if tag is None or not re.search(r"-\d+$", name):
            cases.add(name)
            named.add(curve)
            continue
        size = float(sizes.get(tag) or 0)
        if curve not in largest or size > largest[curve][0]:
            largest[curve] = (size, name)
    cases |= {name for curve, (_, name) in largest.items() if curve not in named}
    return [name for name in scenarios if name in cases]
