"""Traffic of the same shape as a real trace, for whoever has no file of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadgen.workload.trace import Accounting, Trace, clipped_to

Floats = npt.NDArray[np.float64]

# Quantiles of the gaps (seconds) and tokens of Azure's 2023 LLM inference traces (Microsoft, CC-BY-4.0; Patel et al.,
# "Splitwise", ISCA 2024). Between two of them values are spread evenly on a logarithmic scale.
_PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0)


@dataclass(frozen=True, slots=True)
class Fit:
    """Quantiles of gaps and token counts at fixed probabilities: enough to draw traffic of the same shape."""

    kind: str
    gap_s: tuple[float, ...]
    prompt: tuple[float, ...]
    output: tuple[float, ...]


AZURE_CONV = Fit(
    "azure-conv-fit",
    (2e-6, 0.00055, 0.0063, 0.0161, 0.0483, 0.1184, 0.2467, 0.4204, 0.5652, 0.8897, 1.0342, 1.4112, 4.3146),
    (2, 29, 181, 207, 396, 1020, 1189, 2734, 4083, 4142, 4831, 6179, 14050),
    (7, 16, 41, 54, 85, 129, 395, 424, 451, 601, 643, 954, 1000),
)
"""Chat: near Poisson (gap CV 1.09), 5.5 requests/s, prompts p50/p99 1,020/4,142 tokens, outputs 129/601."""

AZURE_CODE = Fit(
    "azure-code-fit",
    (6e-6, 2.2e-5, 8.8e-5, 0.00021, 0.0021, 0.0638, 0.104, 0.2729, 0.4008, 2.2051, 9.9783, 79.2325, 217.169),
    (3, 17, 75, 147, 578, 1469, 2744, 5188, 7303, 7436, 7436, 7437, 7437),
    (6, 6, 6, 7, 9, 13, 24, 55, 90, 251, 359, 825, 1899),
)
"""Code completion: extremely bursty (gap CV about 13, most seconds empty), outputs p50/p99 13/252 tokens. Gaps are
drawn one by one, so bursts are milder than the real ones (about 26 requests in the fullest second, not 67)."""

FITS = {"conv": AZURE_CONV, "code": AZURE_CODE}


def generate(
    fit: Fit,
    *,
    duration_s: float,
    seed: int,
    rate_rps: float | None = None,
    max_in: int | None = None,
    max_out: int | None = None,
) -> Trace:
    """Traffic of `fit`'s shape for `duration_s` seconds; with `rate_rps`, its gaps are scaled to that mean rate."""
    if duration_s <= 0 or (rate_rps is not None and rate_rps <= 0):
        raise ValueError(f"duration and rate must be more than 0, not {duration_s} s and {rate_rps}/s")
    rng = np.random.default_rng([seed, 0x67656E])
    # The mean gap is taken from a fixed draw, so that the scale does not depend on the seed.
    mean_gap = float(_draw(np.random.default_rng(0), fit.gap_s, 1_000_000).mean())
    scale = 1.0 if rate_rps is None else 1.0 / (rate_rps * mean_gap)
    chunks: list[Floats] = []
    reached = 0.0
    while reached < duration_s:
        chunks.append(reached + np.cumsum(_draw(rng, fit.gap_s, 4096) * scale))
        reached = float(chunks[-1][-1])
    seconds = np.concatenate(chunks)
    seconds = seconds[seconds < duration_s]
    n = len(seconds)
    clipped: dict[str, int] = {}
    return Trace(
        source=fit.kind,
        kind=fit.kind,
        offset_ns=np.rint(seconds * 1e9).astype(np.int64),
        prompt_tokens=clipped_to(np.rint(_draw(rng, fit.prompt, n)).astype(np.int32), max_in, "prompt", clipped),
        output_tokens=clipped_to(np.rint(_draw(rng, fit.output, n)).astype(np.int32), max_out, "output", clipped),
        accounting=Accounting(n, n, {}, clipped),
    )


def _draw(rng: np.random.Generator, quantiles: Iterable[float], n: int) -> Floats:
    """`n` values whose quantiles are the given ones."""
    drawn: Floats = np.exp(np.interp(rng.random(n), _PROBABILITIES, np.log(list(quantiles))))
    return drawn
