"""Part 7: how far to trust this campaign. Its noise floor, its checks, its doubts, and who measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from reports import compare, ladder, stats
from reports.page import Block, Cell, Column, Note, Part, Span, Table, TableRow, Text, missing
from reports.parts.rows import change, noise
from reports.schema import AA_SUFFIX, Check
from reports.study import Study
from reports.summarise import Facts
from reports.words import number, share, title

_BIAS = (
    "The authors wrote both engines, the harness and the scenarios.",
    "Backends are mocks: they answer when told to, and no model competes for the machine.",
    "All traffic is loopback on one host. Networks, TLS and other tenants are absent.",
    "Loads last seconds to minutes; only long runs show slow leaks.",
)


def part(study: Study) -> Part:
    """Trust."""
    blocks: list[Block] = []
    doubts = [doubt for one in study.all for doubt in _doubts(one)]
    if doubts:
        blocks.append(Note(heading="Doubts", items=tuple(doubts), tone="doubt"))
    else:
        blocks.append(Text("Every planned round is there, and nothing is void.", heading="Doubts"))
    blocks.append(Text(_aa_words(study), heading="Noise floor"))
    blocks += _floor(study)
    blocks += _checks(study)
    blocks.append(Text(heading="Bias: who measured, and what", items=_BIAS))
    return Part("trust", "Trust", tuple(blocks))


def valid_runs(study: Study) -> str:
    """How many runs count, and in how many of these the target fell behind or failed. A run does not count if the
    bench spoilt it or another run of its round."""
    ended = Counter(facts.record.ended for runs in study.comparison.valid.values() for facts in runs)
    wrong = ", ".join(f"{ended[word]} {word}" for word in ("overloaded", "failed") if ended[word])
    return f"{ended.total()} of {len(study.campaign.runs)} runs are valid" + (f" ({wrong})" if wrong else "")


def tally(study: Study) -> str:
    """How many runs, rounds and replies, in one sentence."""
    rounds = len({run.record.round for run in study.campaign.runs})
    planned = study.campaign.header.rounds_planned
    more = "" if rounds == planned else f" ({planned} planned)"
    replies = sum(map(_compared, study.facts))
    said = f"{replies:,} replies were compared byte for byte" if replies else "no reply could be compared byte for byte"
    return f"{valid_runs(study)}, in {rounds} round{'' if rounds == 1 else 's'}{more}; {said} with what was sent"


def _compared(facts: Facts) -> int:
    """Replies of a run that had a digest: all of our driver's from mocks, none of wrk's."""
    known = any(check.check == "digest" and check.value is not None for check in facts.record.validity)
    outcomes = facts.extras.get("outcomes") or {}
    return sum(int(outcomes.get(name, 0)) for name in ("ok", "wrong_reply")) if known else 0


# -------------------------------------------------------------------------------------------------------------- doubts
def _doubts(study: Study) -> list[str]:
    header, campaign = study.campaign.header, study.campaign
    said = [
        f"{study.called.get(scenario, scenario)}: {one.say}."
        for (scenario, _), one in study.comparison.blames.items()
        if one.wrong_replies or study.campaign.scenario(scenario).group != ladder.GROUP  # which ends beyond capacity
    ]
    rounds = len({run.record.round for run in campaign.runs})
    if header.state != "complete":
        said.append(
            f"The campaign did not run to its end: {len(campaign.runs)} runs of {rounds} rounds are here, "
            f"{header.rounds_planned} rounds were planned. Rounds that never ran are missing, not void."
        )
    if campaign.unfinished:
        more = "" if len(campaign.unfinished) <= 4 else f" and {len(campaign.unfinished) - 4} more"
        said.append(f"Unfinished runs, not measured: {', '.join(campaign.unfinished[:4])}{more}.")
    if header.rounds_planned < 6:
        said.append(f"Rounds planned: {header.rounds_planned}. Intervals from so few are wide.")
    if header.attempt > 1:
        said.append(f"This is attempt {header.attempt} of this command on this machine.")
    if not _has_aa(study) and study.facts:
        said.append("The baseline did not run against itself: the noise floor of this machine is unknown.")
    ran = {f.record.target for f in study.facts}
    absent = [target.name for target in header.targets if target.name not in ran]
    if absent:
        said.append(f"Listed but never run: {', '.join(absent)}.")
    silent = [name for name in study.scenarios if not any(f.record.scenario == name for f in study.facts)]
    if silent and study.facts:
        said.append(f"Scenarios without a single run: {', '.join(study.called[name] for name in silent)}.")
    return said + _voids(study) + _warnings(study)


def _voids(study: Study) -> list[str]:
    """One sentence a scenario: how many of its runs are void, of whom, and why most of them."""
    said = []
    for name in study.scenarios:
        found = [
            (target, reason) for (s, target), runs in study.comparison.voided.items() if s == name for _, reason in runs
        ]
        if found:
            total = sum(f.record.scenario == name for f in study.facts)
            whose = ", ".join(dict.fromkeys(target for target, _ in found))
            reasons = sorted({re.sub(r" \(in [^)]*\)$", "", reason) for _, reason in found})
            more = f" and {len(reasons) - 2} more" if len(reasons) > 2 else ""
            are = "is" if len(found) == 1 else "are"
            said.append(
                f"{study.called[name]}: {len(found)} of {total} runs {are} void ({whose}): "
                f"{'; '.join(reasons[:2])}{more}."
            )
    return said


MEANINGS: Final = {
    "generator-lag": "how late the driver took up requests, p99",
    "generator-cpu": "CPU of the driver, of one core",
    "bench-cpu": "CPU of driver and mocks, of the core they share",
    "saturation": "how busy a closed loop kept the target",
    "mock-ceiling": "what the mocks alone serve; the limit is twice the load",
    "steal": "CPU that the hypervisor took away",
    "other-load": "CPU of other programs",
    "achieved-rate": "of what was due, what piled up",
    "errors": "requests that ended unexpectedly",
    "little": "the engine's count of open requests against rate × time",
    "trend": "change of latency within a run",
    "digest": "replies that were changed",
    "agreement": "by how many replies wrk and the mocks differ",
    "reply-size": "bytes of a reply as wrk read it",
    "completed": "whether the run could be made",
}
"""What each check of a run looks at."""
_COUNTS: Final = ("digest", "agreement")
"""Checks whose values without a unit are counts, and not shares."""
_CHANGES: Final = {
    "trend": "latency changed within the run",
    "steal": "the host took CPU away",
    "other-load": "others used CPU",
    "little": "the engine counted fewer open requests than rate × time",
    "generator-cpu": "the driver was busier than it should be",
    "bench-cpu": "driver and mocks were busier than they should be",
    "saturation": "the target was not at the limit of its core",
}


def _warnings(study: Study) -> list[str]:
    """One sentence a check that warned without voiding: in how many runs, and how far it went."""
    warned: dict[str, list[Check]] = {}
    for run in study.campaign.runs:
        for check in run.record.validity:
            if check.warn:
                warned.setdefault(check.check, []).append(check)
    said = []
    for name, checks in sorted(warned.items()):
        values = [float(check.value) for check in checks if isinstance(check.value, float | int)]
        what = _CHANGES.get(name, f"{name} was outside its comfortable range")
        span = f" ({_range(values, name, checks[0].unit)})" if values else ""
        said.append(f"In {len(checks)} of {len(study.campaign.runs)} runs {what}{span}.")
    return said


# --------------------------------------------------------------------------------------------------------- noise floor
def _has_aa(study: Study) -> bool:
    return any(f.record.target.endswith(AA_SUFFIX) for f in study.facts)


def _aa_words(study: Study) -> str:
    judged = [r for r in study.comparison.rows if r.is_aa and r.p is not None]
    if not judged:
        return (
            "The baseline "
            f"{'ran against itself, but no round of it is valid' if _has_aa(study) else 'did not run against itself'}."
        )
    differ = sum(row.p is not None and row.p <= stats.LEVEL for row in judged)
    primaries = sum(row.verdict in compare.DECIDED for row in judged)
    return (
        f"The baseline ran against itself: {differ} of {len(judged)} rows differ at 95 %, where about "
        f"{len(judged) * stats.LEVEL:.0f} would by chance. {primaries} primary rows are called different. Where the "
        "baseline differs from itself, an effect no larger than that gets no verdict."
    )


def _floor(study: Study) -> list[Block]:
    rows = []
    for aa in study.comparison.rows:
        if aa.is_aa and aa.primary and aa.effect is not None and (aa.effect[1], aa.effect[2]) != (0, 0):
            row = study.comparison.row(aa.scenario, aa.metric, study.main or "")
            effect = "" if row is None else change(row)[0]
            name = Cell(f"{study.called[aa.scenario]} · {aa.spec.label}", hint=aa.scenario)
            rows.append(TableRow((name, Cell(noise(aa)), Cell(effect or "–"))))
    columns = (
        Column("Metric"),
        Column(f"{title(study.baseline or '')} against itself, 95 % CI", True),
        Column(title(study.main or "effect"), True),
    )
    return (
        [Table("floor", "The noise floor beside the effect", columns, tuple(rows), folded=len(rows) > 12)]
        if rows
        else []
    )


# -------------------------------------------------------------------------------------------------------------- checks
def _checks(study: Study) -> list[Block]:
    grouped: dict[str, list[Check]] = {}
    for one in study.all:
        for run in one.campaign.runs:
            for check in run.record.validity:
                grouped.setdefault(check.check, []).append(check)
    if not grouped:
        return [missing("the runs carry no validity checks")]
    rows = []
    for name, checks in grouped.items():
        judged = [check for check in checks if check.value is not None or not check.ok]
        failed, warned = sum(not check.ok for check in judged), sum(check.warn and check.ok for check in judged)
        word, say = (
            ("bad", f"{failed} failed") if failed else ("warn", f"{warned} warned") if warned else ("ok", "all passed")
        )
        if not judged:
            word, say = "none", "does not apply here"
        unit = next((check.unit for check in checks if check.unit), "")
        seen = [check.value for check in judged if isinstance(check.value, float | int)]
        limits = [check.limit for check in judged if isinstance(check.limit, float | int)]
        meaning = MEANINGS.get(name, "")
        rows.append(
            TableRow(
                (
                    Cell([name, Span(f" {meaning}", "quiet")] if meaning else name),
                    Cell(_range(seen, name, unit)),
                    Cell(_range(limits, name, unit)),
                    Cell("a void round" if checks[0].blame == "bench" else "the target's result"),
                    Cell(
                        f"{len(judged) - failed} of {len(judged)}", hint=f"no rule for {len(checks) - len(judged)} runs"
                    ),
                    Cell(Span(say, word=word)),
                )
            )
        )
    caption = (
        "Checks of every run. A failure of the bench voids the round for every target; one of the target is its result"
    )
    columns = (
        Column("Check"),
        Column("Seen", True),
        Column("Limit", True),
        Column("A failure is"),
        Column("Passed", True),
        Column("Result"),
    )
    return [Table("checks", caption, columns, tuple(rows))]


def _range(values: Sequence[float], check: str, unit: str) -> str:
    """`1.00..10.3 ms`, or one number where they are all the same; shares in percent."""
    if not values:
        return "–"
    ends = (min(values), max(values))
    if check in _COUNTS or (unit and not unit.startswith("of ")):
        return f"{'..'.join(dict.fromkeys(map(number, ends)))} {unit or 'replies'}".strip()
    return " to ".join(dict.fromkeys("0 %" if abs(one) < 0.0005 else share(float(f"{one:.2g}")) for one in ends))
