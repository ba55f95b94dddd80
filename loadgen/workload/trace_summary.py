"""What a trace holds and what would be played of it, in words and as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from loadgen.workload.scenario import Replay
from loadgen.workload.timetable import replayed
from loadgen.workload.trace import BYTES_PER_TOKEN, Trace

_QUANTILES = {"p1": 0.01, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def describe(replay: Replay, *, as_json: bool = False) -> str:
    """The file and what `compare --trace` would play of it. Raises Missing, BadInput."""
    trace = replayed(replay)
    found = figures(trace, replay.time_scale)
    return json.dumps(found, indent=2) if as_json else "\n".join(_words(found))


def figures(trace: Trace, time_scale: float = 1.0) -> dict[str, Any]:
    """Pure. Rates in requests a second as played; `gap_cv`: standard deviation of gaps over their mean (Poisson: 1);
    null where there are too few requests to say."""
    seconds = trace.offset_ns / 1e9
    gaps = np.diff(seconds)
    span = trace.duration_s
    per_second = np.bincount(seconds.astype(np.int64)) if len(trace) and span < 10**7 else np.zeros(0, dtype=np.int64)
    return {
        "source": trace.source,
        "format": trace.kind,
        "notes": list(trace.notes),
        "rows": trace.accounting.as_json(),
        "time_scale": time_scale,
        "span_s": span,
        "rate_rps": len(trace) / span if span > 0 else None,
        "busiest_second": int(per_second.max(initial=0)),
        "empty_seconds_share": float((per_second == 0).mean()) if len(per_second) else None,
        "gap_cv": float(gaps.std() / gaps.mean()) if len(gaps) > 1 and gaps.mean() > 0 else None,
        "conversations": _conversations(trace),
        "prompt_tokens": _lengths(trace.prompt_tokens),
        "output_tokens": _lengths(trace.output_tokens),
    }


def _conversations(trace: Trace) -> dict[str, float] | None:
    """`several_turns`: how many conversations have more than one; null where the file does not say whose a row is."""
    if trace.conversation is None or not len(trace):
        return None
    turns = np.bincount(trace.conversation)
    return {
        "count": len(turns),
        "several_turns": int((turns > 1).sum()),
        "turns_mean": float(turns.mean()),
        "turns_max": int(turns.max()),
    }


def _lengths(tokens: Any) -> dict[str, float]:
    if not len(tokens):
        return {}
    return {"mean": float(tokens.mean()), **{name: float(np.quantile(tokens, q)) for name, q in _QUANTILES.items()}}


def _words(found: dict[str, Any]) -> list[str]:
    rows = found["rows"]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in rows["dropped"].items()) or "none"
    lines = [
        f"{found['source']}: {'; '.join(found['notes'])}",
        f"rows: {rows['read']:,} read, {rows['used']:,} used, dropped: {dropped}",
    ]
    if rows["clipped"]:
        lines.append("cut: " + ", ".join(f"{count:,} {what}" for what, count in rows["clipped"].items()))
    rate = "" if found["rate_rps"] is None else f", {found['rate_rps']:.3g} requests/s on average"
    lines.append(
        f"played: {rows['used']:,} requests in {_time(found['span_s'])}{rate} (time scale {found['time_scale']:g})"
    )
    if found["gap_cv"] is not None:
        kind = "near Poisson" if 0.8 <= found["gap_cv"] <= 1.25 else "bursty" if found["gap_cv"] > 1.25 else "regular"
        lines.append(
            f"burstiness: gap CV {found['gap_cv']:.3g} ({kind}), busiest second {found['busiest_second']:,}, "
            f"{found['empty_seconds_share']:.0%} of seconds empty"
        )
    if (held := found["conversations"]) is not None:
        lines.append(
            f"conversations: {held['count']:,}, {held['several_turns']:,} of several turns "
            f"(mean {held['turns_mean']:.3g}, most {held['turns_max']:,}); turns come in order under one "
            "X-Session-ID, each prompt beginning with the one before"
        )
    for name in ("prompt", "output"):
        if lengths := found[f"{name}_tokens"]:
            figures_ = ", ".join(f"{key} {value:,.0f}" for key, value in lengths.items())
            lines.append(f"{name} tokens: {figures_}")
    lines.append(f"each prompt is sent as {BYTES_PER_TOKEN} bytes a token, each token of output is one event")
    return lines


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.4g} min"
