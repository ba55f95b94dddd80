"""The fixed words of every report: verdict sentences, units, digits. One home, so that no page says it differently.

`Olla is faster: CPU per request -78 % (95 % CI -79..-77), 6 rounds` · `Equivalent within 5 %: ...` ·
`Too noisy to tell: ... effects under 12 % are not visible here` · `No verdict: ...` (an effect was seen, and something
else may have made it) · `Overloaded: ...` · `Unreliable: ...` · `Void: ...` · `Not measured: ...`. Secondary rows have
other words: `With Olla: memory idle +12 % (95 % CI 11..13), 6 rounds, secondary`.
Never `faster` with an interval that crosses 1, never a bare percentage, never a rank by mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports.compare import Row, margin
from reports.schema import ENGINES

PACED = (
    "The machine's TCP congestion control is BBR. It paces large answers, and on loopback it can hold one up for 100 "
    "ms, whichever proxy sends it. Tails of large answers are the kernel's here, not the target's. To measure them: "
    "sysctl net.ipv4.tcp_congestion_control=cubic"
)
"""Before a campaign and in its report, where the machine's congestion control is BBR."""


def number(value: float) -> str:
    """Three honest digits, thousands separated."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100 or value == 0:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}"


def digits(value: float) -> str:
    """Two digits below 1, where a zero at the end counts: `0.20`; as `number` above."""
    if value == 0 or not math.isfinite(value) or abs(float(f"{value:.2g}")) >= 1:
        return number(value)
    return f"{value:#.2g}"


def share(value: float) -> str:
    """A share in percent without a sign: `36.9 %`, `4 %`."""
    return f"{value * 100:.3g} %"


def percent(share: float) -> str:
    """A signed change in percent: `-78 %`, `+0.4 %`; above tenfold as a factor."""
    if share >= 9:
        return f"×{number(share + 1)}"
    points = share * 100
    if abs(points) < 0.05:
        return "0 %"
    return f"{points:+.0f} %" if abs(points) >= 9.95 else f"{points:+.1f} %"


def interval(low: float, high: float) -> str:
    """An interval of shares in percent, short: `-79..-77`."""
    if high >= 9:
        # Wider than a hundredfold is no information but its width.
        ends_text = (
            "<×0.01" if low + 1 < 0.01 else f"×{number(low + 1)}",
            ">×100" if high + 1 > 100 else f"×{number(high + 1)}",
        )
        return "..".join(ends_text)
    digits = 0 if min(abs(low), abs(high)) >= 0.0995 and high - low >= 0.01 else 1
    ends = [f"{share * 100:+.{digits}f}" for share in (low, high)]
    return "..".join("0" if end in ("+0.0", "-0.0") else end for end in ends)


def confidence(level: float) -> str:
    """How an interval of this level is labelled: `95 % CI`."""
    return f"{100 * (1 - level):.4g} % CI"


def change(row: Row) -> str:
    """The row's effect with its interval: `-78 % (95 % CI -79..-77)`; empty where there is none."""
    effect = row.effect
    if effect is None:
        return ""
    label = confidence(row.level)
    if row.basis == "ratio":
        return f"{percent(effect[0])} ({label} {interval(effect[1], effect[2])})"
    unit = row.spec.shown_unit
    numbers = [f"{'+' if value > 0 else ''}{number(value)}" for value in effect]
    return f"{numbers[0]} {unit}".rstrip() + f" ({label} {numbers[1]}..{numbers[2]})"


def sentence(row: Row) -> str:
    """The verdict of a row in the fixed words of the report. Never a bare percentage."""
    rounds = f"{row.rounds} round{'' if row.rounds == 1 else 's'}"
    label = row.spec.label
    label = label if label.isupper() or label.split()[0].isupper() else label[0].lower() + label[1:]
    name = title(row.candidate.target)
    better, worse = row.spec.words
    match row.verdict:
        case "faster":
            return f"{name} is {better}: {label} {change(row)}, {rounds}"
        case "slower":
            return f"{name} is {worse}: {label} {change(row)}, {rounds}"
        case "equivalent":
            return f"Equivalent within {_margin(row)}: {label} {change(row)}, {rounds}"
        case "too-noisy" | "unclear" if row.withheld:
            return f"No verdict: {label} {change(row)}, {rounds}; {row.reason}"
        case "too-noisy":
            return f"Too noisy to tell: {label}, {row.reason}"
        case "lower" | "higher":
            return f"With {name}: {label} {change(row)}, {rounds}, secondary"
        case "similar":
            return f"No difference beyond {_margin(row)}: {label} {change(row)}, {rounds}, secondary"
        case "unclear":
            return f"Unclear: {label}, {row.reason}"
        case "void" | "overloaded" | "unreliable":
            return f"{row.verdict.capitalize()}: {row.reason}"
        case _:
            return f"Not measured: {label}, {row.reason}"


def shown(row: Row) -> str:
    """The verdict word as pages show it: memory and the like are better or worse, never faster."""
    better, worse = row.spec.words
    if row.withheld:
        return "no verdict"
    return {"faster": better, "slower": worse}.get(row.verdict, row.verdict.replace("-", " "))


def _margin(row: Row) -> str:
    allowed = margin(row)
    if row.basis == "ratio":
        return f"{allowed * 100:g} %"
    return f"{number(allowed)} {row.spec.shown_unit}".rstrip()


def title(target: str) -> str:
    """An engine's name as a proper noun, `direct` in words; other targets as they are written."""
    if target == "direct":
        return "No proxy"
    return target.capitalize() if target in ENGINES else target


def headline(rows: Sequence[Row]) -> Row | None:
    """The row that answers a use case: what a target did wrong, else a decided primary (what was served first), else a
    doubt, else an equivalence; CPU before latency."""
    for words in (
        ("unreliable", "overloaded"),
        ("faster", "slower"),
        ("too-noisy",),
        ("void",),
        ("equivalent",),
        ("not-measured",),
    ):
        found = [row for row in rows if row.primary and row.verdict in words]
        if found:
            order = ["throughput"] * ("faster" in words) + ["cpu", "latency"]
            return min(found, key=lambda row: order.index(row.spec.family) if row.spec.family in order else len(order))
    return None
