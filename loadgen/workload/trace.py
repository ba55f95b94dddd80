"""Real traffic: reads request traces of LLM services, or makes traffic of the same shape when there is no file.

Two formats are read: Azure's 2023 CSV (``TIMESTAMP,ContextTokens,GeneratedTokens``) and Mooncake's JSON lines
(``timestamp`` in ms, ``input_length``, ``output_length``; ``hash_ids`` is not needed). A row becomes a request with a
due time, a prompt of 4 bytes a token and one event per token of output. Every row read is used or counted under the
reason why not; clipped rows are used and counted too.

Nothing here knows sockets or gevent: the campaign makes its plans with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from loadgen.errors import BadInput, Missing
from loadgen.workload.arrivals import scaled
from loadgen.workload.plan import Plan, make_plan

Ints64 = npt.NDArray[np.int64]
Ints32 = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Kind = Literal["azure", "mooncake", "azure-conv-fit", "azure-code-fit"]

BYTES_PER_TOKEN = 4
MAX_TOKENS = 10_000_000  # more than any model's context: such a row is damaged, and would become a body of 40 MB

_AZURE_HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Accounting:
    """What became of the rows: ``read == used + sum(dropped.values())``. ``clipped`` rows are among the used ones."""

    read: int
    used: int
    dropped: dict[str, int] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON, for a campaign's header."""
        return {"read": self.read, "used": self.used, "dropped": dict(self.dropped), "clipped": dict(self.clipped)}


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in the order they are due. Shapes: three arrays of length n; offsets are ns after the first request."""

    source: str
    kind: Kind
    offset_ns: Ints64
    prompt_tokens: Ints32
    output_tokens: Ints32
    accounting: Accounting

    def __len__(self) -> int:
        return len(self.offset_ns)

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last request."""
        return float(self.offset_ns[-1]) / 1e9 if len(self) else 0.0

    def plan(self, *, seed: int, template: int = 0, warmup_s: float = 0.0) -> Plan:
        """The driver's plan: prompts of 4 bytes a token; each request's own seed follows from `seed`."""
        rng = np.random.default_rng([seed, 0x74726163])
        return make_plan(
            self.offset_ns,
            template=template,
            prompt_bytes=(self.prompt_tokens * BYTES_PER_TOKEN).astype(np.int32),
            output_tokens=self.output_tokens,
            request_seed=rng.integers(0, 2**31, len(self)),
            warmup_s=warmup_s,
        )


def read_trace(
    path: Path,
    *,
    time_scale: float = 1.0,
    rows: int | None = None,
    max_in: int | None = None,
    max_out: int | None = None,
    duration_s: float | None = None,
    seed: int = 0,
) -> Trace:
    """Reads a trace file, played `time_scale` times as fast.

    - `rows`: the first so many usable rows, in the order of the file; what follows is not read.
    - `max_in`, `max_out`: longer prompts and outputs are cut to so many tokens.
    - `duration_s`: requests due later than that (after scaling) are dropped.
    - `seed`: where in its bucket a request falls, for traces with coarse times (Mooncake: 3 s).

    Raises Missing if there is no such file, BadInput if it is not a trace or holds no usable row.
    """
    kind, lines = _open(path)
    dropped: Counter[str] = Counter()
    times: list[int] = []
    tokens_in: list[int] = []
    tokens_out: list[int] = []
    parse = _azure_row if kind == "azure" else _mooncake_row
    for line in lines:
        if rows is not None and len(times) >= rows:
            break
        row = parse(line)
        if isinstance(row, str):
            dropped[row] += 1
            continue
        times.append(row[0])
        tokens_in.append(row[1])
        tokens_out.append(row[2])
    read = len(times) + dropped.total()
    if not times:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "it holds no rows"
        raise BadInput(f"{path}: no usable row in this {kind} trace ({why})")
    time_ns = np.array(times, dtype=np.int64)
    if kind == "mooncake":
        time_ns = _jittered(time_ns, seed)
    order = np.argsort(time_ns, kind="stable")
    offset_ns = scaled(time_ns[order], time_scale)
    keep = np.ones(len(order), dtype=bool) if duration_s is None else offset_ns < duration_s * 1e9
    if dropped_late := int(len(keep) - keep.sum()):
        dropped["after the end of the run"] = dropped_late
    clipped: dict[str, int] = {}
    return Trace(
        source=path.name,
        kind=kind,
        offset_ns=offset_ns[keep],
        prompt_tokens=_clip(np.array(tokens_in, dtype=np.int32)[order][keep], max_in, "prompt", clipped),
        output_tokens=_clip(np.array(tokens_out, dtype=np.int32)[order][keep], max_out, "output", clipped),
        accounting=Accounting(read, int(keep.sum()), dict(dropped), clipped),
    )


def _open(path: Path) -> tuple[Literal["azure", "mooncake"], Iterator[str]]:
    """What kind of trace `path` is, and its lines without the header."""
    try:
        with path.open("rb") as file:
            start = file.read(65536)
    except FileNotFoundError as exc:
        raise Missing(f"{path}: there is no such trace file; see the README for where public traces are found") from exc
    except OSError as exc:
        raise Missing(f"{path}: the trace cannot be read: {exc.strerror}") from exc
    first = start.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].strip()
    if tuple(name.strip().encode() for name in _AZURE_HEADER) == tuple(name.strip() for name in first.split(b",")):
        return "azure", _lines(path, skip=1)
    if first.startswith(b"{") and b'"input_length"' in first and b'"output_length"' in first:
        return "mooncake", _lines(path, skip=0)
    raise BadInput(
        f"{path}: is not a trace: expected the CSV header {','.join(_AZURE_HEADER)} (Azure) "
        "or JSON lines with timestamp, input_length and output_length (Mooncake)"
    )


def _lines(path: Path, skip: int) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        for number, line in enumerate(file):
            text = line.strip()
            if number >= skip and text:
                yield text


def _azure_row(line: str) -> tuple[int, int, int] | str:
    """(time in ns, tokens in, tokens out), or the reason why the row is dropped."""
    fields = line.split(",")
    if len(fields) != 3:
        return "malformed line"
    try:
        moment = datetime.fromisoformat(fields[0].strip())
    except ValueError:
        return "bad time"
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - _EPOCH
    time_ns = ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    if not 0 <= time_ns < 2**62:  # 1970 to 2116: also what 64 bits of nanoseconds can hold a difference of
        return "bad time"
    try:
        return _checked(time_ns, int(fields[1]), int(fields[2]))
    except ValueError:
        return "bad token count"


def _mooncake_row(line: str) -> tuple[int, int, int] | str:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits is no JSONDecodeError
        return "malformed line"
    if not isinstance(data, dict):
        return "malformed line"
    time_ms, tokens_in, tokens_out = (data.get(name) for name in ("timestamp", "input_length", "output_length"))
    if isinstance(time_ms, bool) or not isinstance(time_ms, int | float) or not 0 <= time_ms < 2**43:
        return "bad time"
    if type(tokens_in) is not int or type(tokens_out) is not int:
        return "bad token count"
    return _checked(round(time_ms * 1_000_000), tokens_in, tokens_out)


def _checked(time_ns: int, tokens_in: int, tokens_out: int) -> tuple[int, int, int] | str:
    if not (0 <= tokens_in <= MAX_TOKENS and 0 <= tokens_out <= MAX_TOKENS):
        return "bad token count"
    if tokens_out == 0:
        return "no output tokens"  # nothing would be streamed: such a request measures nothing
    return time_ns, tokens_in, tokens_out


def _jittered(time_ns: Ints64, seed: int) -> Ints64:
    """Spreads rows that share a coarse time evenly over the time's bucket; exact times are left as they are."""
    distinct = np.unique(time_ns)
    if 2 * len(distinct) > len(time_ns):
        return time_ns
    bucket = int(np.median(np.diff(distinct))) if len(distinct) > 1 else 3_000_000_000
    return time_ns + np.random.default_rng([seed, 0x6A697474]).integers(0, bucket, len(time_ns))


def _clip(tokens: Ints32, most: int | None, name: str, clipped: dict[str, int]) -> Ints32:
    if most is None:
        return tokens
    if most < 1:
        raise ValueError(f"the most {name} tokens must be 1 or more, not {most}")
    if count := int((tokens > most).sum()):
        clipped[name] = count
    return np.minimum(tokens, np.int32(most))


# --- traffic of the same shape, without the file ----------------------------------------------------------------------

# Quantiles of the gaps (seconds) and tokens of Azure's 2023 LLM inference traces (Microsoft, CC-BY-4.0; Patel et al.,
# "Splitwise", ISCA 2024). Between two of them values are spread evenly on a logarithmic scale.
_PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0)


@dataclass(frozen=True, slots=True)
class Fit:
    """Quantiles of gaps and token counts at fixed probabilities: enough to draw traffic of the same shape."""

    kind: Kind
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
        prompt_tokens=_clip(np.rint(_draw(rng, fit.prompt, n)).astype(np.int32), max_in, "prompt", clipped),
        output_tokens=_clip(np.rint(_draw(rng, fit.output, n)).astype(np.int32), max_out, "output", clipped),
        accounting=Accounting(n, n, {}, clipped),
    )


def _draw(rng: np.random.Generator, quantiles: Iterable[float], n: int) -> Floats:
    """`n` values whose quantiles are the given ones."""
    drawn: Floats = np.exp(np.interp(rng.random(n), _PROBABILITIES, np.log(list(quantiles))))
    return drawn
