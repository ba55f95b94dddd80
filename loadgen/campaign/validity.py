"""When a run may be believed: each rule a pure function from numbers to a `Check` with its value, limit and blame.

Rules and limits are those of METHODOLOGY.md. A failed check that the bench is to blame for (generator, mocks, machine)
voids its round of that scenario for every target, because the others were measured on the same bench at the same time.
A failed check that the target is to blame for is a result: the run is `overloaded` or `failed`
(`reports.schema.outcome_of`), keeps its figures and is not repeated. A check without data passes and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from reports import summarise
from reports.compare import DRIFT
from reports.schema import Check, RunOutcome

Floats = npt.NDArray[np.float64]
Blame = Literal["bench", "target"]

LAG_FLOOR_MS: Final = 1.0
LAG_SHARE_OF_TTFT: Final = 0.05
GENERATOR_CPU: Final = 0.70
BENCH_CPU: Final = 0.85
MOCK_HEADROOM: Final = 2.0
STEAL_VOID: Final = 0.05
STEAL_WARN: Final = 0.01
OTHER_LOAD_WARN: Final = 0.15
RATE: Final = 0.01
ERRORS: Final = 0.001
LITTLE: Final = 0.10
LITTLE_COMPLETIONS: Final = 500
LITTLE_LEAST_ACTIVE: Final = 4.0
AGREEMENT: Final = 0.001
OWN_CHECKS: Final = 20  # health checks that a target sends in a run
REPLY_SIZE: Final = 0.03
REPLY_HEAD_BYTES: Final = 4096
REPLY_FRAMING_BYTES: Final = 16  # of a chunk
TREND_RHO: Final = 0.5
TREND_LEAST_MS: Final = 0.05
TREND_BINS: Final = 20
TREND_PER_BIN: Final = 10

LIMITS: Final = {
    "generator-lag": f"p99 of dispatched - intended at most {LAG_FLOOR_MS:g} ms or {LAG_SHARE_OF_TTFT:.0%} of TTFT p50",
    "generator-cpu": f"open loop: driver at most {GENERATOR_CPU:.0%} of a core; a warning if a backlog explains more",
    "bench-cpu": f"open loop: driver and mocks at most {BENCH_CPU:.0%} of the core they share; as above",
    "saturation": f"a warning where closed loop leaves the target under {summarise.SATURATED:.0%} of its core",
    "mock-ceiling": f"mocks alone reach {MOCK_HEADROOM:g} x the offered rate",
    "steal": f"at most {STEAL_VOID:.0%} of CPU time stolen by the hypervisor; a warning above {STEAL_WARN:.0%}",
    "other-load": f"a warning when others use more than {OTHER_LOAD_WARN:.0%} of the cores",
    "achieved-rate": f"requests in flight grow by at most {RATE:.0%} of those due, and the scatter of arrivals",
    "errors": f"unexpected outcomes at most {ERRORS:.1%}",
    "little": f"active requests at most {LITTLE:.0%} and three standard errors over rate x mean time; fewer: a warning",
    "trend": f"|Spearman rho| to {TREND_RHO:g}, or a change to {DRIFT:.0%} or 50 us: warned, in most rounds unreliable",
    "digest": "every reply as the mock stated it and as the scenario pinned it",
    "agreement": f"wrk's replies are what the mocks served, but for one a connection, {OWN_CHECKS} and {AGREEMENT:.1%}",
    "reply-size": "wrk read at least the bytes of the mocks' replies, and no more than heads and framing beyond",
}


def _not_measured(check: str, why: str, blame: Blame) -> Check:
    return Check(check=check, ok=True, blame=blame, text=f"not measured: {why}")


def generator_lag(lag_p99_ms: float | None, ttft_p50_ms: float | None) -> Check:
    """The generator was on time. `lag_p99_ms`: from intended to dispatched, when the driver took the request up, over
    the measured requests; None in closed loop. Time to connect and to send is the target's."""
    if lag_p99_ms is None:
        return _not_measured("generator-lag", "closed loop has no intended times", "bench")
    limit = max(LAG_FLOOR_MS, LAG_SHARE_OF_TTFT * (ttft_p50_ms or 0.0))
    return Check(
        check="generator-lag",
        value=lag_p99_ms,
        limit=limit,
        ok=lag_p99_ms <= limit,
        unit="ms",
        text=f"generator lag p99 {_ms(lag_p99_ms)} ms {_against(lag_p99_ms <= limit)} {_ms(limit)} ms budget",
    )


def _ms(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _against(inside: bool) -> str:
    return "within its" if inside else "over its"


def generator_cpu(share: float | None, open_loop: bool) -> Check:
    """The driver had CPU to spare. `share`: of one core, over the window."""
    if share is None or not open_loop:
        return _not_measured("generator-cpu", "no rule in closed loop" if share is not None else "no samples", "bench")
    return Check(
        check="generator-cpu",
        value=share,
        limit=GENERATOR_CPU,
        ok=share <= GENERATOR_CPU,
        text=f"the driver used {share:.0%} of a core, limit {GENERATOR_CPU:.0%}",
    )


def bench_cpu(driver: float | None, mocks: float | None, open_loop: bool, cores: int) -> Check:
    """Driver and mocks had CPU to spare. Shares of one core each; `cores`: how many they have between them.

    With more than one core each is held to the limit by itself, as each is one thread.
    """
    if driver is None or mocks is None or not open_loop:
        why = "no rule in closed loop" if driver is not None else "no samples"
        return _not_measured("bench-cpu", why, "bench")
    share = driver + mocks if cores == 1 else max(driver, mocks)
    what = "driver and mocks together" if cores == 1 else "the busier of driver and mocks"
    return Check(
        check="bench-cpu",
        value=share,
        limit=BENCH_CPU,
        ok=share <= BENCH_CPU,
        text=f"{what} used {share:.0%} of a core, limit {BENCH_CPU:.0%}",
    )


def saturation(target: float | None, open_loop: bool, has_process: bool) -> Check:
    """Closed loop measures a target at its limit, so the target should be there; a warning. `target`: share of its
    core(s). Its capacity lies between the rate measured and that rate by this share; far from 1 that says little.
    """
    if open_loop:
        return _not_measured("saturation", "no rule in open loop", "target")
    if target is None:
        why = "no samples" if has_process else "the target has no process of its own"
        return _not_measured("saturation", why, "target")
    return Check(
        check="saturation",
        value=target,
        limit=summarise.SATURATED,
        warn=target < summarise.SATURATED,
        blame="target",
        text=f"the target used {target:.0%} of its core, {summarise.SATURATED:.0%} wanted: "
        "this generator cannot saturate it",
    )


def mock_ceiling(offered: float | None, ceiling: float | None, unit: str) -> Check:
    """The mocks could serve far more than was asked. Both in `unit` (req/s or events/s)."""
    if offered is None or ceiling is None:
        why = "closed loop offers no rate" if ceiling is not None else "the mocks' ceiling is not known"
        return _not_measured("mock-ceiling", why, "bench")
    limit = MOCK_HEADROOM * offered
    return Check(
        check="mock-ceiling",
        value=ceiling,
        limit=limit,
        ok=ceiling >= limit,
        unit=unit,
        text=f"the mocks alone reach {ceiling:,.0f} {unit}, {limit:,.0f} needed",
    )


def steal(share: float) -> Check:
    """The hypervisor left the machine alone. `share`: of all CPU time while the run lasted, 0..1."""
    return Check(
        check="steal",
        value=share,
        limit=STEAL_VOID,
        ok=share <= STEAL_VOID,
        warn=STEAL_WARN < share <= STEAL_VOID,
        text=f"{share:.1%} of CPU time was stolen by the hypervisor, limit {STEAL_VOID:.0%}",
    )


def other_load(share: float | None) -> Check:
    """Nobody else was busy on the machine; a warning only. `share`: of the cores in use, beyond our own processes."""
    if share is None:
        return _not_measured("other-load", "no samples", "bench")
    return Check(
        check="other-load",
        value=share,
        limit=OTHER_LOAD_WARN,
        warn=share > OTHER_LOAD_WARN,
        text=f"other programs and the kernel used {share:.0%} of the cores; stop what can be stopped",
    )


def achieved_rate(due_ns: Floats, end_ns: Floats, window_ns: tuple[int, int], steady: bool = True) -> Check:
    """The target kept up: the requests in flight did not grow from the first quarter of the window to the last.

    `due_ns`, `end_ns`: of all requests of the run, warm-up too (NaN: never ended). The means of the two quarters lie
    three quarters of the window apart, so four thirds of their difference is what the target did not carry of all that
    was due. Three times the square root of the requests in flight is allowed for: arrivals scatter by that. `steady`
    false: load or replies change on purpose, and so does what is in flight; then all that was due must have ended.
    """
    inside = (due_ns >= window_ns[0]) & (due_ns < window_ns[1])
    due = int(inside.sum())
    if due == 0 or np.isnan(end_ns[inside]).all():
        return _rate(0.0, RATE, False, "no request of the window ended")
    if not steady:
        ended = int((~np.isnan(end_ns[inside])).sum())
        said = f"{ended:,} of {due:,} requests that were due came to an end, limit {1 - RATE:.0%}"
        return _rate(1 - ended / due, RATE, 1 - ended / due <= RATE, said)
    quarter = (window_ns[1] - window_ns[0]) / 4
    early, late = (_in_flight(due_ns, end_ns, at, at + quarter) for at in (window_ns[0], window_ns[1] - quarter))
    lost = (late - early) * 4 / 3 / due
    limit = RATE + 3 * float(np.sqrt(max(early, late) + 1)) / due
    said = f"requests in flight went from {early:,.0f} to {late:,.0f} while {due:,} were due: "
    return _rate(lost, limit, lost <= limit, said + f"{max(lost, 0):.1%} were not carried, limit {limit:.1%}")


def _rate(value: float, limit: float, ok: bool, text: str) -> Check:
    return Check(check="achieved-rate", value=value, limit=limit, ok=ok, blame="target", text=text)


def _in_flight(due_ns: Floats, end_ns: Floats, start: float, end: float) -> float:
    """How many requests were in flight between two moments, on average."""
    open_ns = np.minimum(np.where(np.isnan(end_ns), end, end_ns), end) - np.maximum(due_ns, start)
    return float(np.clip(np.nan_to_num(open_ns), 0.0, None).sum()) / (end - start)


def errors(ratio: float | None) -> Check:
    """Requests ended as the scenario expects. `ratio`: unexpected outcomes over all."""
    if ratio is None:
        return Check(check="errors", ok=False, blame="target", text="no request fell into the measured window")
    return Check(
        check="errors",
        value=ratio,
        limit=ERRORS,
        ok=ratio <= ERRORS,
        blame="target",
        text=f"{ratio:.2%} of the requests ended unexpectedly, limit {ERRORS:.1%}",
    )


def little(
    active: Sequence[float], completions: int, rate_rps: float, mean_s: float | None, *, steady: bool = True
) -> Check:
    """Little's law: the engine's own count of active requests against rate x mean time.

    `active`: samples of `proxy.active_connections` in the middle 80 % of the window; `mean_s`: from sent to end. A few
    samples of a small count scatter (Poisson: by its square root), so three standard errors are allowed on top, and
    below four active requests the client's own share of the time is too large to tell. An engine that counts fewer is
    a warning: requests that wait in the kernel until it reads them are none of its active ones, and many do near its
    limit. `steady` false: load comes in turns, and a few samples say nothing about the mean of what is on and off.
    """
    if not steady:
        return _not_measured("little", "load comes in turns", "target")
    expected = rate_rps * (mean_s or 0.0)
    if mean_s is None or completions < LITTLE_COMPLETIONS:
        return _not_measured("little", f"needs {LITTLE_COMPLETIONS} completions", "target")
    if not active:
        return _not_measured("little", "the target does not count its active requests", "target")
    if expected < LITTLE_LEAST_ACTIVE:
        return _not_measured("little", f"only {expected:.1f} requests are active on average", "target")
    seen = float(np.mean(active))
    off = abs(seen / expected - 1)
    limit = LITTLE + 3 * float(np.sqrt(expected / len(active))) / expected
    return Check(
        check="little",
        value=off,
        limit=limit,
        ok=off <= limit or seen < expected,
        warn=off > limit and seen < expected,
        blame="target",
        text=f"the engine counted {seen:.1f} active requests where {expected:.1f} are expected, off by {off:.0%}",
    )


def trend(at_s: Floats, latency_ms: Floats, duration_s: float, steady: bool) -> Check:
    """Latency did not drift through the run: a warning, as within one run the machine's speed may have stepped. What
    repeats over the rounds of a target makes it unreliable (`reports.compare.drift`). `steady` false: the scenario
    itself changes over time.
    """
    if not steady:
        return _not_measured("trend", "the scenario itself changes over time", "target")
    known = ~np.isnan(latency_ms)
    at_s, latency_ms = at_s[known], latency_ms[known]
    if at_s.size < TREND_BINS * TREND_PER_BIN:
        return _not_measured("trend", f"needs {TREND_BINS * TREND_PER_BIN} replies", "target")
    bins = np.clip((at_s / duration_s * TREND_BINS).astype(np.int64), 0, TREND_BINS - 1)
    medians = np.array(
        [np.median(latency_ms[bins == number]) for number in range(TREND_BINS) if (bins == number).any()]
    )
    quarter = max(len(medians) // 4, 1)
    early, late = float(np.median(medians[:quarter])), float(np.median(medians[-quarter:]))
    change = late / early - 1 if early > 0 else 0.0
    small = abs(late - early) < TREND_LEAST_MS  # as much as latency verdicts themselves allow for
    rho = float(stats.spearmanr(np.arange(len(medians)), medians).statistic) if np.ptp(medians) > 0 else 0.0
    return Check(
        check="trend",
        value=change,
        limit=DRIFT,
        warn=not small and abs(rho) > TREND_RHO and abs(change) > DRIFT,
        unit="of its latency",
        blame="target",
        text=f"latency changed by {change:+.0%} from the first to the last quarter (Spearman rho {rho:+.2f})",
    )


def digest(wrong: int, checked: int) -> Check:
    """Every reply was right, byte for byte. One wrong reply makes its target unreliable: a proxy that corrupts is not
    fast."""
    if not checked:
        return _not_measured("digest", "no reply had a digest", "target")
    return Check(
        check="digest",
        value=float(wrong),
        limit=0.0,
        ok=wrong == 0,
        blame="target",
        text=f"{wrong:,} of {checked:,} checked replies were not what the mock sent",
    )


def agreement(seen: int, served: int, connections: int) -> Check:
    """wrk and the mocks counted the same replies, from the first to the last of the whole run.

    `seen`: replies that wrk read whole; `served`: requests that reached the mocks, of which one a connection may have
    been under way when wrk stopped, and a few were the target's own health checks.
    """
    off = abs(served - seen)
    limit = connections + OWN_CHECKS + AGREEMENT * served
    return Check(
        check="agreement",
        value=off,
        limit=limit,
        ok=off <= limit,
        blame="target",
        text=f"wrk saw {seen:,} replies, the mocks served {served:,}, limit {limit:,.0f} apart",
    )


def reply_size(seen: float, body: float, events: float, stream: bool) -> Check:
    """Replies arrived whole: bytes a reply as wrk read them against the mocks' body, heads and framing allowed for.

    `events`: of a reply; each may be a chunk of its own. `stream`: a window holds parts of streams, and the mocks count
    a body when it ends: nothing can be said.
    """
    if stream:
        return _not_measured("reply-size", "a window holds parts of streams", "target")
    most = body * (1 + REPLY_SIZE) + REPLY_HEAD_BYTES + events * REPLY_FRAMING_BYTES
    return Check(
        check="reply-size",
        value=seen,
        limit=most,
        ok=body * (1 - REPLY_SIZE) <= seen <= most,
        unit="bytes",
        blame="target",
        text=f"wrk read {seen:,.0f} bytes a reply where the mocks sent bodies of {body:,.0f}",
    )


def broken(what: str, blame: Blame) -> Check:
    """The run could not be made or finished: a process ended, a reply was wrong before the start."""
    return Check(check="completed", ok=False, blame=blame, text=what)


def excused(checks: Sequence[Check]) -> list[Check]:
    """The checks, with the CPU of generator and bench as warnings where a target fell behind a generator on time.

    Each request that waits for a slow target is an open connection, which costs the driver CPU. Had the driver been the
    cause it would have been late.
    """
    failed = {check.check for check in checks if not check.ok}
    if "achieved-rate" not in failed or failed & {"generator-lag", "mock-ceiling", "steal"}:
        return list(checks)
    costly = ("generator-cpu", "bench-cpu")
    return [
        check.model_copy(update={"ok": True, "warn": True}) if check.check in costly and not check.ok else check
        for check in checks
    ]


def reason(checks: Sequence[Check], outcome: RunOutcome) -> str | None:
    """The sentence of the check that decided how the run ended. None if it is `ok`."""
    failed = [check for check in checks if not check.ok]
    if not failed or outcome == "ok":
        return None
    deciding = {
        "void": [check for check in failed if check.blame == "bench"],
        "overloaded": [check for check in failed if check.check == "achieved-rate"],
        "failed": [check for check in failed if check.check in ("completed", "digest")],
    }[outcome]
    first = (deciding or failed)[0]
    return first.text or f"{first.check} is {first.value}, limit {first.limit}"
