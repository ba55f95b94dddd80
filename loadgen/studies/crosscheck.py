"""`proxy-engines verify crosscheck`: the same load by our driver and by independent tools, on one process.

Without streaming by `wrk`, with streaming by `aiperf` (`make clients`). All of them keep a number of connections busy
in closed loop, in turns, against one target in front of mocks with known times; the medians over the turns must agree
within the tolerances below. What they disagree about beyond that is an error of one of them, and until found, of ours.

Exit codes: 0 they agree, 1 they do not, 69 a tool is missing, 70 a tool failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadgen.bench.child import ChildError
from loadgen.bench.mocks import Backends
from loadgen.errors import Missing, UsageRefusal
from loadgen.targets.catalogue import choose
from loadgen.targets.target import Wiring
from loadgen.workload.job import Closed, Job, Template, save_job
from loadgen.workload.scenario import Mock
from reports import store
from reports.schema import RunRecord

CLIENTS_FOLDER: Final = ".clients"
_PATH: Final = "/v1/chat/completions"
_WARMUP_S: Final = 1.0
_TOKENS: Final = 32


@dataclass(frozen=True, slots=True)
class Figures:
    """What a tool says: requests a second, and medians in milliseconds (None: it does not measure that)."""

    throughput_rps: float
    e2e_p50_ms: float
    ttft_p50_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ToolLoad:
    """One closed loop, and how near the other tool must come. `tolerances`: field of Figures -> share."""

    name: str
    tool: str
    users: int
    stream: bool
    body: str
    headers: tuple[tuple[str, str], ...]
    profile: dict[str, Any]
    tolerances: tuple[tuple[str, float], ...]


LOADS: Final = (
    ToolLoad(
        "small replies",
        "wrk",
        32,
        stream=False,
        body='{"model":"mock-model","messages":[{"role":"user","content":"%s"}],"seed":7}' % ("tell me more " * 70),
        headers=(("X-Mock-Body-Bytes", "1536"),),
        profile={"name": "even-20ms", "time_to_first_token": {"constant": "20ms"}, "token_gap": {"constant": "0ms"}},
        tolerances=(("throughput_rps", 0.03), ("e2e_p50_ms", 0.03)),
    ),
    ToolLoad(
        "streams",
        "aiperf",
        8,
        stream=True,
        body='{"model":"mock-model","messages":[{"role":"user","content":"tell me more"}],'
        f'"max_tokens":{_TOKENS},"stream":true}}',
        headers=(),
        profile={"name": "even-chat", "time_to_first_token": {"constant": "200ms"}, "token_gap": {"constant": "20ms"}},
        tolerances=(("throughput_rps", 0.05), ("e2e_p50_ms", 0.05), ("ttft_p50_ms", 0.05)),
    ),
)


# ---------------------------------------------------------------------------------------------------------------- ours
def ours(load: ToolLoad, url: str, folder: Path, seconds: float) -> Figures:
    """The load by our driver; what its rows say, the warm-up left out."""
    headers = {"Content-Type": "application/json", **dict(load.headers)}
    template = Template(_PATH, headers=headers, body=load.body, stream=load.stream)
    closed = Closed(users=load.users, duration_s=_WARMUP_S + seconds, warmup_s=_WARMUP_S)
    save_job(Job("crosscheck", url, folder / "out", (template,), closed=closed), folder / "job.json")
    _finished([sys.executable, "-m", "loadgen.driver", str(folder / "job.json")], 60 + seconds)
    rows = store.Run(folder / "out", RunRecord(run="r", scenario="s", target="t", round=1)).table("requests")
    assert rows is not None
    rows = rows[~rows["warmup"].astype(bool)]
    if rows.empty or not (rows["outcome"] == "ok").all():
        raise ChildError(f"our driver got other than right replies: {rows['outcome'].value_counts().to_dict()}")
    first = (rows["first_event_ns"] - rows["sent_ns"]) / 1e6
    # From the first request to the end of the last one, as the others count: users of long replies move in step, and a
    # window of fixed ends would hold one reply of each more or less.
    lasted_s = float(rows["end_ns"].max() - rows["sent_ns"].min()) / 1e9
    return Figures(
        throughput_rps=len(rows) / lasted_s,
        e2e_p50_ms=float(((rows["end_ns"] - rows["sent_ns"]) / 1e6).median()),
        ttft_p50_ms=float(first.median()) if load.stream else None,
    )


# ------------------------------------------------------------------------------------------------------------- theirs
def by_wrk(load: ToolLoad, url: str, folder: Path, seconds: float) -> Figures:
    """The load by wrk."""
    script = folder / "request.lua"
    lines = ['wrk.method = "POST"', f"wrk.body = [[{load.body}]]"]
    lines += [
        f'wrk.headers["{name}"] = "{value}"' for name, value in (("Content-Type", "application/json"), *load.headers)
    ]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [
        str(client("wrk")),
        "-t1",
        f"-c{load.users}",
        f"-d{seconds:.0f}s",
        "--latency",
        "-s",
        str(script),
        url + _PATH,
    ]
    return parse_wrk(_finished(command, 30 + seconds))


_WRK_UNITS_MS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def parse_wrk(text: str) -> Figures:
    """wrk's own words. Raises ChildError if replies were wrong or the words are not known."""
    if (wrong := re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", text)) is not None:
        raise ChildError(f"wrk: {wrong[0]}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)\b", text)
    if rate is None or median is None:
        raise ChildError(f"wrk said something else than expected: {text[-300:]}")
    return Figures(float(rate[1]), float(median[1]) * _WRK_UNITS_MS[median[2]])


# aiperf wants a tokenizer, and would download one. No figure here depends on how it counts: this one counts words.
_TOKENIZER: Final = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
inner = Tokenizer(models.WordLevel({"[UNK]": 0, "tell": 1, "me": 2, "more": 3}, unk_token="[UNK]"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]").save_pretrained(sys.argv[1])
"""


def by_aiperf(load: ToolLoad, url: str, folder: Path, seconds: float) -> Figures:
    """The load by aiperf."""
    binary = client("aiperf")
    tokenizer, prompts, out = folder / "tokenizer", folder / "prompts.jsonl", folder / "aiperf"
    _finished([str(binary.with_name("python")), "-c", _TOKENIZER, str(tokenizer)], 120)
    prompts.write_text(json.dumps({"text": "tell me more"}) + "\n", encoding="utf-8")
    command = [
        str(binary), "profile", "--model", "mock-model", "--url", url, "--endpoint-type", "chat",
        "--streaming", "--concurrency", str(load.users), "--benchmark-duration", f"{seconds:g}",
        "--tokenizer", str(tokenizer), "--input-file", str(prompts), "--custom-dataset-type", "single_turn",
        "--ui", "simple", "--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", str(out),
        "--extra-inputs", f"max_tokens:{_TOKENS}",
    ]  # fmt: skip
    _finished(command, 180 + seconds)
    found = next(out.rglob("profile_export_aiperf.json"), None)
    if found is None:
        raise ChildError("aiperf wrote no profile_export_aiperf.json")
    return parse_aiperf(json.loads(found.read_text(encoding="utf-8")))


def parse_aiperf(data: dict[str, Any]) -> Figures:
    """aiperf's own export. Raises ChildError if a figure is missing."""
    try:
        return Figures(
            throughput_rps=float(data["request_throughput"]["avg"]),
            e2e_p50_ms=float(data["request_latency"]["p50"]),
            ttft_p50_ms=float(data["time_to_first_token"]["p50"]),
        )
    except (KeyError, TypeError) as exc:
        raise ChildError(f"aiperf's export has no {exc}") from exc


THEIRS: Final[dict[str, Callable[[ToolLoad, str, Path, float], Figures]]] = {"wrk": by_wrk, "aiperf": by_aiperf}


def client(name: str) -> Path:
    """A benchmark client in its own environment, or on PATH. Raises Missing."""
    path = os.pathsep.join([str(Path(CLIENTS_FOLDER, "bin").resolve()), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=path)
    if found is None:
        how = "apt-get install wrk" if name == "wrk" else "make clients"
        raise Missing(f"{name} is not installed: {how}")
    return Path(found)


def _finished(command: Sequence[str], wait_s: float) -> str:
    """What a command printed. Raises ChildError with its last words if it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=wait_s, check=False)
    except subprocess.TimeoutExpired as exc:
        raise ChildError(f"{Path(command[0]).name} did not end within {wait_s:g} s") from exc
    if done.returncode != 0:
        raise ChildError(f"{Path(command[0]).name} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout


# ------------------------------------------------------------------------------------------------------- the comparison
@dataclass(frozen=True, slots=True)
class FigurePair:
    """One figure of one load by both tools: medians over the turns."""

    load: ToolLoad
    figure: str
    ours: float
    theirs: float
    tolerance: float

    @property
    def off(self) -> float:
        """How far ours is from theirs, as a share."""
        return self.ours / self.theirs - 1

    @property
    def agrees(self) -> bool:
        """Within the tolerance."""
        return abs(self.off) <= self.tolerance


def lines_of(load: ToolLoad, mine: Sequence[Figures], other: Sequence[Figures]) -> list[FigurePair]:
    """The figures of one load that both measured."""
    found = []
    for figure, tolerance in load.tolerances:
        middle = [statistics.median(getattr(one, figure) for one in some) for some in (mine, other)]
        found.append(FigurePair(load, figure, middle[0], middle[1], tolerance))
    return found


_UNITS: Final = {
    "throughput_rps": ("throughput", "req/s"),
    "e2e_p50_ms": ("end to end p50", "ms"),
    "ttft_p50_ms": ("TTFT p50", "ms"),
}


def page(lines: Sequence[FigurePair]) -> str:
    """The table in Markdown, for RESULTS.md."""
    text = ["| load | figure | ours | other tool | off by | tolerance | agrees |", "|---|---|---|---|---|---|---|"]
    for line in lines:
        name, unit = _UNITS[line.figure]
        text.append(
            f"| {line.load.name}, {line.load.users} connections | {name} | {line.ours:,.2f} {unit} | "
            f"{line.theirs:,.2f} {unit} ({line.load.tool}) | {line.off:+.1%} | {line.tolerance:.0%} | "
            f"{'yes' if line.agrees else 'NO'} |"
        )
    return "\n".join(text)


@contextlib.contextmanager
def _serving(target_name: str, load: ToolLoad, folder: Path) -> Iterator[str]:
    """Mocks and the target in front of them; gives its URL."""
    (target,) = choose([target_name], [])
    if (why := target.missing()) is not None:
        raise Missing(why)
    backends = Backends.start(1, folder, None)
    try:
        backends.behave(Mock(profile=load.profile))
        running = target.start(Wiring(backends=backends.urls, folder=folder, recorders=False))
        try:
            yield running.url
        finally:
            running.stop()
    finally:
        backends.stop()


def run(target: str, tools: Sequence[str] | None, seconds: float, turns: int) -> int:
    """Runs all loads and prints the table; returns the exit code. Raises Refusal, ChildError."""
    known = [load.tool for load in LOADS]
    if unknown := [tool for tool in tools or () if tool not in known]:
        raise UsageRefusal(f"--tools: {unknown[0]!r} is not known; known are {', '.join(known)}")
    loads = [load for load in LOADS if tools is None or load.tool in tools]
    lines: list[FigurePair] = []
    for load in loads:
        client(load.tool)
    for load in loads:
        with (
            tempfile.TemporaryDirectory(prefix="crosscheck-") as name,
            _serving(target, load, Path(name)) as url,
        ):
            mine, other = [], []
            for turn in range(turns):
                place = Path(name, f"turn-{turn}")
                place.mkdir()
                mine.append(ours(load, url, place, seconds))
                other.append(THEIRS[load.tool](load, url, place, seconds))
            lines += lines_of(load, mine, other)
    print(page(lines))
    return 0 if all(line.agrees for line in lines) else 1
