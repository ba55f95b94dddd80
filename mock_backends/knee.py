"""Where a batched server bends: the model of `pacing` under rising load, in virtual time, drawn to a PNG.

No sockets and no waiting: the same scripts and the same `Pace` that the server plays, driven by a simulated clock, so
the picture is the same on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mock_backends.dialects import Ask
from mock_backends.distribution import Sampler
from mock_backends.pacing import Entry, Pace
from mock_backends.profile import Profile
from mock_backends.script import Script, ScriptWriter
from mock_backends.strict import Refused

REQUESTS = 400  # at each rate; the first quarter warms up and is not counted


@dataclass(frozen=True, slots=True)
class Point:
    """One offered rate. Times in ms; `refused` is a share."""

    rate: float
    ttft_p50: float
    ttft_p99: float
    gap_p50: float
    tokens_per_s: float
    in_flight: float
    refused: float


def simulate(profile: Profile, seed: int, rate: float, requests: int = REQUESTS) -> Point:
    """Poisson arrivals at `rate` per second, each request with a seed of its own."""
    rng = Random(f"{seed} knee")
    writer = ScriptWriter(profile, seed)
    prompts = Sampler(profile.prompt_tokens).draw(rng, requests)
    scripts: list[Script] = []
    turns: list[tuple[int, int, int]] = []  # due, request, event
    arrival = 0.0
    arrivals = []
    for i, prompt in enumerate(prompts):
        scripts.append(writer.write(Ask(b"/v1/chat/completions", "m", True, seed=i, prompt_tokens=prompt)))
        arrival += rng.expovariate(rate) * 1e9
        arrivals.append(int(arrival))
        turns.append((int(arrival), i, -1))
    heapq.heapify(turns)

    pace = Pace(profile, 0)
    firsts: dict[int, int] = {}
    lasts: dict[int, int] = {}
    refused = 0
    occupied, since, busy = 0, 0, 0.0  # in flight, from when, and its integral

    def start(i: int, now: int) -> None:
        heapq.heappush(turns, (now + pace.loading(now) + int(scripts[i].offsets[0] * pace.stretch(now)), i, 0))

    while turns:
        now, i, event = heapq.heappop(turns)
        busy += occupied * (now - since)
        since = now
        if event < 0:
            entry = pace.enter(i)
            refused += entry is Entry.FULL
            if entry is Entry.STARTED:
                start(i, now)
        else:
            offsets = scripts[i].offsets
            firsts.setdefault(i, now)
            if event + 1 < len(offsets):
                gap = int((offsets[event + 1] - offsets[event]) * pace.stretch(now))
                heapq.heappush(turns, (now + gap, i, event + 1))
            else:
                lasts[i] = now
                successor = pace.leave(i, now)
                if isinstance(successor, int):
                    start(successor, now)
        occupied = pace.running
    counted = [i for i in lasts if i >= requests // 4]
    if not counted:
        raise Refused(f"at {rate:g} requests/s nothing was answered")
    ttft = sorted((firsts[i] - arrivals[i]) / 1e6 for i in counted)
    gaps = sorted((lasts[i] - firsts[i]) / 1e6 / max(1, _gaps(scripts[i])) for i in counted)
    seconds = max(lasts.values()) / 1e9
    return Point(
        rate=rate,
        ttft_p50=ttft[len(ttft) // 2],
        ttft_p99=ttft[min(len(ttft) - 1, int(len(ttft) * 0.99))],
        gap_p50=gaps[len(gaps) // 2],
        tokens_per_s=sum(_gaps(scripts[i]) + 1 for i in lasts) / seconds,
        in_flight=busy / max(1, since),
        refused=refused / requests,
    )


def sweep(profile: Profile, seed: int, points: int = 14) -> list[Point]:
    """Rates from an eighth of what one sequence at a time would do to well past where it bends."""
    if profile.batch is None:
        raise Refused(f"profile {profile.name} has no knee: it has no `batch`; try chat-8b-batched or overloaded")
    lone = simulate(profile, seed, rate=0.01, requests=40)
    batch = profile.batch
    # Tokens per second with all slots taken, were the queue never empty; and the requests that they make.
    stretch = 1 + batch.growth * max(0, batch.slots - batch.free)
    tokens = Sampler(profile.output_tokens).mean
    full = batch.slots / (tokens * max(lone.gap_p50, 0.001) / 1e3 * stretch)
    return [simulate(profile, seed, rate=full * (0.1 + 1.5 * i / (points - 1))) for i in range(points)]


def knee_of(points: Sequence[Point]) -> Point:
    """The last point before the median time to first token is more than twice that of the lowest rate."""
    inside = [point for point in points if point.ttft_p50 <= 2 * points[0].ttft_p50 and not point.refused]
    return inside[-1] if inside else points[0]


def draw(profile: Profile, seed: int, file: Path) -> str:
    """Draws the sweep to `file`; returns it as a table. Raises `Refused`."""
    import matplotlib  # only this command needs it, and it is heavy

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = sweep(profile, seed)
    knee = knee_of(points)
    rates = [point.rate for point in points]
    figure, (first, gap, done) = pyplot.subplots(3, 1, figsize=(8, 9), sharex=True, constrained_layout=True)
    first.plot(rates, [point.ttft_p50 for point in points], "o-", label="p50")
    first.plot(rates, [point.ttft_p99 for point in points], "o--", label="p99")
    first.set_yscale("log")
    first.set_ylabel("time to first token, ms")
    first.legend()
    gap.plot(rates, [point.gap_p50 for point in points], "o-", color="tab:green")
    gap.set_ylabel("time per output token, ms (p50)")
    done.plot(rates, [point.tokens_per_s for point in points], "o-", color="tab:red", label="tokens/s")
    done.set_ylabel("tokens/s")
    done.set_xlabel("offered requests/s (Poisson)")
    share = done.twinx()
    share.plot(rates, [100 * point.refused for point in points], "x:", color="tab:gray")
    share.set_ylabel("turned away, %  (grey)")
    share.set_ylim(0, 100)
    done.set_ylim(bottom=0)
    gap.set_ylim(bottom=0)
    for axis in (first, gap, done):
        axis.axvline(knee.rate, color="black", linewidth=0.8, linestyle=":")
        axis.grid(alpha=0.3)
    figure.suptitle(f"{profile.name}: the knee is near {knee.rate:.1f} requests/s ({knee.in_flight:.0f} in flight)")
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as exc:
        raise Refused(f"{file}: the plot cannot be written: {exc}") from exc
    finally:
        pyplot.close(figure)
    return table(points, knee)


def table(points: Sequence[Point], knee: Point) -> str:
    """The points as text."""
    rows = ["requests/s   TTFT p50    TTFT p99   per token   tokens/s   in flight   turned away"]
    rows += [
        f"{p.rate:>10.2f} {p.ttft_p50:>7.0f} ms {p.ttft_p99:>8.0f} ms {p.gap_p50:>8.1f} ms {p.tokens_per_s:>10,.0f} "
        f"{p.in_flight:>11.1f} {p.refused:>13.0%}{'   <- knee' if p is knee else ''}"
        for p in points
    ]
    return "\n".join(rows)


def _gaps(script: Script) -> int:
    """How many gaps between content events a stream has: what is not opening or closing (which come with the first and
    the last)."""
    return len(set(script.offsets)) - 1
