"""The report's figures: one style, one colour per target, the same bytes each time.

Every figure states its scenario, rounds and interval in its caption, names what the lines are in `alt`, and is drawn
from valid runs only; void runs appear as hollow marks where single runs are shown. Samples of several rounds are
pooled for distributions; percentiles are never averaged.

SVG keeps text as text, so that it can be read aloud, searched and scaled. Nothing is drawn with pyplot: no global
state, no display.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from reports import endurance, ladder
from reports.ablation import Step
from reports.ablation import steps as ablation_steps
from reports.compare import Comparison, Row, candidate_order
from reports.schema import AA_SUFFIX, FLOOR_TARGETS, METRICS
from reports.stats import estimate
from reports.store import Campaign
from reports.summarise import Facts, Histogram
from reports.words import number, title

Floats: TypeAlias = npt.NDArray[np.float64]

FIGURES: Final = (
    "effects", "overhead", "transit", "load", "tail", "cpu", "gc", "timeline", "memory", "endurance", "resilience",
    "ablation",
)  # fmt: skip
"""In the order of the report; each is a method of Gallery."""

# Theme colours: the page swaps these for its own, so that figures follow a dark theme.
INK: Final = "#1b2431"
MUTED: Final = "#5c6776"
GRID: Final = "#e4e8ed"
PAPER: Final = "#fefefe"

_ENGINE_COLOURS: Final = {"sherpa": "#d2691e", "olla": "#0b74b8", "direct": "#7a8594", "relay": "#a3acb8"}
_PEER_COLOURS: Final = ("#2a9d6f", "#b4508f", "#7d6bc9", "#8f7a2b", "#c24d4d", "#3aa6b0", "#5f7f3a", "#9a6b4f")
_MARKS: Final = ("o", "s", "D", "^", "v", "P", "X", "h")

_STYLE: Final[Any] = {  # matplotlib types each key as a literal; a plain dict of str says the same
    "svg.fonttype": "none",
    "svg.hashsalt": "proxy-engines",
    "text.parse_math": False,  # names may hold $
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titley": 1.0,  # fixed: searching for a free place measures every tick label twice
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify_threshold": 0.4,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn figure: `svg` for the page, `png` for Markdown and mail, words for those who cannot see it."""

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes
    min_width: int
    """Pixels below which the page lets it scroll sideways instead of shrinking it."""

    def _repr_png_(self) -> bytes:
        """How notebooks show it."""
        return self.png


@dataclass(frozen=True, slots=True)
class NotDrawn:
    """Why a figure is absent."""

    name: str
    reason: str


Drawn: TypeAlias = "Figure | NotDrawn"


class Gallery:
    """Draws the figures of one campaign."""

    def __init__(self, campaign: Campaign, comparison: Comparison) -> None:
        self.campaign, self.comparison = campaign, comparison
        self.baseline = comparison.baseline
        self.main = comparison.main
        ran = {target for _, target in (*comparison.valid, *comparison.voided)}
        order = [self.baseline] if self.baseline else []
        order += [t for t in candidate_order(campaign, self.baseline or "", ran) if not t.endswith(AA_SUFFIX)]
        # An engine with a switch changed is a matter of the ablation figure, and would hide the others here.
        variants = {target.name for target in campaign.header.targets if target.kind == "variant"}
        self.targets = [name for name in order if name in ran and name not in variants]
        peers = [name for name in self.targets if name not in _ENGINE_COLOURS]
        self._colours = {name: _PEER_COLOURS[i % len(_PEER_COLOURS)] for i, name in enumerate(peers)} | _ENGINE_COLOURS
        self._marks = {name: _MARKS[i % len(_MARKS)] for i, name in enumerate(self.targets)}
        self.scenarios = [name for name in campaign.header.scenarios if any(name == s for s, _ in comparison.valid)]
        self.shown = representatives(campaign, self.scenarios)

    def all(self) -> dict[str, Drawn]:
        """Every figure by name, in the order of the report."""
        with mpl.rc_context(_STYLE):
            return {name: getattr(self, name)() for name in FIGURES}

    # --------------------------------------------------------------------------------------------------- helpers
    def colour(self, target: str) -> str:
        """The colour of a target everywhere in the report."""
        return self._colours.get(target.removesuffix(AA_SUFFIX), MUTED)

    def runs(self, scenario: str, target: str) -> tuple[Facts, ...]:
        """Valid runs."""
        return self.comparison.valid.get((scenario, target), ())

    def void_runs(self, scenario: str, target: str) -> list[Facts]:
        """Void runs."""
        return [facts for facts, _ in self.comparison.voided.get((scenario, target), ())]

    def _of(self, scenarios: Iterable[str]) -> str:
        """The scenarios of a figure in words, and what was left to other figures."""
        left = len(self.scenarios) - len(self.shown)
        more = f" ({left} more, points of sweeps, in parts 3, 5 and 10)" if left else ""
        return ", ".join(scenarios) + more

    def _line(self, target: str) -> dict[str, Any]:
        floor = target in FLOOR_TARGETS
        return {"color": self.colour(target), "linestyle": (0, (4, 2)) if floor else "-", "lw": 1.4 if floor else 1.9}

    def _legend(self, canvas: Canvas, names: Iterable[str], inches: float) -> None:
        handles = [Line2D([], [], label=_short(title(name)), **self._line(name)) for name in names]
        canvas.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.005, 1 - 0.04 / inches), columnspacing=1.6,
            ncols=int(canvas.get_size_inches()[0] / 1.2),
            handlelength=1.9, borderaxespad=0,
        )  # fmt: skip

    def _rounds(self, scenarios: Iterable[str], targets: Iterable[str]) -> str:
        counts = sorted({len(self.runs(s, t)) for s in scenarios for t in targets if self.runs(s, t)})
        if not counts:
            return "no valid round"
        text = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"{text} valid round{'' if counts == [1] else 's'}"

    # ------------------------------------------------------------------------------------------ 3: primary effects
    def effects(self) -> Drawn:
        """Forest plot of the primary metrics: the main candidate against the baseline, with the A/A interval."""
        rows = [r for r in self.comparison.rows if r.primary and r.candidate.target == self.main and r.basis == "ratio"]
        rows = [row for row in rows if row.ratio is not None and row.ci_low is not None]
        if not rows or self.baseline is None:
            return NotDrawn("effects", "no primary metric has an interval as a ratio")
        height = 0.9 + 0.34 * len(rows)
        canvas = Canvas(figsize=(9.2, height))
        ax = _panels(canvas, 1, 1, left=2.9, top=0.12, bottom=0.62, right=0.3)[0]
        labels = []
        for position, row in enumerate(rows):
            y = -position
            aa = self.comparison.row(row.scenario, row.metric, self.baseline + AA_SUFFIX)
            if aa is not None and aa.ci_low and aa.ci_high and aa.basis == "ratio":
                ax.plot([aa.ci_low, aa.ci_high], [y, y], color=GRID, lw=9, solid_capstyle="butt", zorder=1)
            colour = _word_colour(row)
            ax.plot([row.ci_low or 1, row.ci_high or 1], [y, y], color=colour, lw=2.2, solid_capstyle="round", zorder=3)
            hollow = row.verdict == "void"
            ax.plot(
                [row.ratio or 1], [y], "o", ms=6.5, mec=colour, mfc=PAPER if hollow else colour, zorder=4
            )  # fmt: skip
            labels.append(f"{_short(row.scenario, 22)}  ·  {row.spec.label}")
        ax.axvline(1, color=MUTED, lw=1)
        ax.set_xscale("log")
        low = min(min(row.ci_low or 1 for row in rows), 0.8) * 0.92
        high = max(max(row.ci_high or 1 for row in rows), 1.25) * 1.08
        ax.set_xlim(max(low, 1e-3), min(high, 1e3))
        if not _log_ticks(ax.xaxis, *ax.get_xlim(), prefix="×"):
            near = [tick for tick in (0.8, 0.9, 1, 1.1, 1.25) if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]]
            ax.set_xticks(near, [f"×{tick:g}" for tick in near])
            ax.minorticks_off()
        ax.set_yticks(range(0, -len(rows), -1), labels)
        ax.set_ylim(-len(rows) + 0.45, 0.55)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel(f"{_short(title(self.main or ''))} / {_short(title(self.baseline))}, logarithmic: left is less")
        rounds = self._rounds({row.scenario for row in rows}, [self.main or "", self.baseline])
        caption = (
            f"Primary metrics, {title(self.main or '')} against {title(self.baseline)}: estimate and 95 % interval, "
            f"{rounds}. Grey bar: the baseline against itself, at 95 % as well: the noise floor."
        )
        alt = "; ".join(f"{row.scenario} {row.spec.label}: {_ratio_words(row)}" for row in rows)
        return _finish(canvas, "effects", "Primary metrics as ratios", caption, alt, 620)

    # ------------------------------------------------------------------------------------------------ 4: overhead
    def overhead(self) -> Drawn:
        """ECDF of added time per request, small multiples by scenario."""

        def samples(scenario: str, target: str) -> Floats:
            parts = [f.requests.added_us for f in self.runs(scenario, target) if f.requests is not None]
            pooled = np.concatenate(parts) if parts else np.empty(0)
            return np.sort(pooled[~np.isnan(pooled)])

        return self._ecdf(
            "overhead", "Time added per request", samples, "added time, µs",
            "Share of requests whose time inside the proxy (both directions, by the clocks of client and mock) is at "
            "most so long",
        )  # fmt: skip

    def transit(self) -> Drawn:
        """ECDF of event transit, small multiples by streaming scenario."""
        edges = Histogram.edges()

        def samples(scenario: str, target: str) -> Floats:
            parts = [f.transit for f in self.runs(scenario, target) if f.transit is not None]
            if not parts:
                return np.empty(0)
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            cumulative = np.cumsum(total.counts)
            if cumulative[-1] == 0:
                return np.empty(0)
            # One value per 1/2000 of the events: an ECDF again, at the histogram's resolution.
            wanted = np.linspace(0, cumulative[-1], 2001)[1:]
            return edges[np.searchsorted(cumulative, wanted)]

        return self._ecdf(
            "transit", "Transit of each streamed event", samples, "from the mock's write to the client's read, µs",
            "Share of streamed events that were at most so long under way",
        )  # fmt: skip

    def _ecdf(self, name: str, heading: str, samples: Callable[[str, str], Floats], label: str, caption: str) -> Drawn:
        data = {s: {t: v for t in self.targets if (v := samples(s, t)).size >= 20} for s in self.shown}
        data = {scenario: found for scenario, found in data.items() if found}
        if not data:
            what = "event" if name == "transit" else "request"
            return NotDrawn(name, f"no valid run kept {what} rows with both clocks")
        canvas, axes, inches = _grid(len(data), height=2.35, legend=True)
        for ax, (scenario, found) in zip(axes, data.items(), strict=True):
            for target, values in found.items():
                take = np.unique(np.linspace(0, values.size - 1, min(values.size, 240)).astype(int))
                ax.plot(values[take], (take + 1) / values.size, **self._line(target))
            ends = np.concatenate([np.quantile(v, [0.002, 0.998]) for v in found.values()])
            _log_x(ax, float(ends.min()), float(ends.max()))
            ax.set_ylim(0, 1.02)
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            ax.set_title(_short(scenario))
            ax.set_xlabel(label)
        shown = [t for t in self.targets if any(t in found for found in data.values())]
        self._legend(canvas, shown, inches)
        medians = "; ".join(
            f"{s}: " + ", ".join(f"{title(t)} median {number(float(np.median(v)))} µs" for t, v in found.items())
            for s, found in data.items()
        )
        caption = (
            f"{caption}. {self._of(data)}; all {self._rounds(data, shown)} pooled, logarithmic. "
            "Dashed: no proxy (direct) or a bare TCP relay, the floor of the same measurement, never subtracted."
        )
        return _finish(canvas, name, heading, caption, medians, _min_width(len(data)))

    # ---------------------------------------------------------------------------------------------------- 5: load
    def load(self) -> Drawn:
        """Latency against offered load for groups of scenarios that differ in rate only."""
        groups: dict[str, list[str]] = {}
        for name in self.scenarios:
            scenario = self.campaign.scenario(name)
            if "sweep-rate" in scenario.tags and scenario.rate_rps:
                groups.setdefault(scenario.group or "load", []).append(name)
        groups = {group: names for group, names in groups.items() if len(names) >= 2}
        if not groups:
            return NotDrawn(
                "load",
                "one rate per workload only; a sweep is several scenarios tagged `sweep-rate` that differ in rate",
            )
        canvas, axes, inches = _grid(len(groups), height=2.9, legend=True)
        words = []
        for ax, (group, names) in zip(axes, groups.items(), strict=True):
            top = max(self.campaign.scenario(name).rate_rps or 0.0 for name in names)
            for target in self.targets:
                words += self._load_line(ax, names, target, top)
            ax.set_yscale("log")
            _plain_log_y(ax)
            ax.set_title(_short(group))
            ax.set_xlabel("offered load, req/s")
            ax.set_ylabel("end to end, ms")
        self._legend(canvas, self.targets, inches)
        every = [name for names in groups.values() for name in names]
        caption = (
            f"{', '.join(every)}: end-to-end latency from the intended send time against offered load, p50 thin, p99 "
            "thick (medians over rounds), one mark per "
            f"valid round, {self._rounds(every, self.targets)}; void runs hollow. "
            "A dotted line marks the last rate that a target kept up with (goodput within 1 % of the offer), if it "
            "was offered more."
        )
        return _finish(
            canvas, "load", "Latency against offered load", caption, "; ".join(words), _min_width(len(groups))
        )

    def _load_line(self, ax: Axes, names: Sequence[str], target: str, top: float) -> list[str]:
        style = self._line(target)
        frontier = 0.0
        for metric, width, alpha in (("e2e_p50_ms", 1.1, 0.75), ("e2e_p99_ms", 2.0, 1.0)):
            xs, ys = [], []
            for name in sorted(names, key=lambda n: self.campaign.scenario(n).rate_rps or 0.0):
                rate = self.campaign.scenario(name).rate_rps or 0.0
                values = self.comparison.values(name, metric, target)
                void = [v for f in self.void_runs(name, target) if (v := f.value(metric)) is not None]
                ax.plot([rate] * len(void), void, "o", ms=4, mfc="none", mec=style["color"], alpha=0.8)
                if values.size:
                    ax.plot([rate] * values.size, values, "o", ms=2.6, color=style["color"], alpha=0.55)
                    xs.append(rate)
                    ys.append(float(np.median(values)))
                goodput = self.comparison.values(name, "goodput_rps", target)
                offered = [f.record.offered_rps or rate for f in self.runs(name, target)]
                if goodput.size and goodput.size == len(offered) and np.all(goodput >= 0.99 * np.array(offered)):
                    frontier = max(frontier, rate)
            ax.plot(xs, ys, **{**style, "lw": width}, alpha=alpha)
        if 0 < frontier < top:
            ax.axvline(frontier, color=style["color"], lw=1, ls=":")
        if not frontier:
            return []
        if frontier >= top:  # where it ends nobody knows
            return [f"{title(target)} kept every rate it was offered, up to {number(top)} req/s"]
        return [f"{title(target)} kept up to {number(frontier)} req/s"]

    # ---------------------------------------------------------------------------------------------------- 6: tail
    def tail(self) -> Drawn:
        """Latency by percentile on a scale of nines, ending where ten samples remain."""
        data: dict[str, dict[str, Floats]] = {}
        for scenario in self.shown:
            for target in self.targets:
                parts = [f.requests.e2e_ms for f in self.runs(scenario, target) if f.requests is not None]
                pooled = np.concatenate(parts) if parts else np.empty(0)
                pooled = np.sort(pooled[~np.isnan(pooled)])
                if pooled.size >= 100:
                    data.setdefault(scenario, {})[target] = pooled
        if not data:
            return NotDrawn("tail", "no valid run kept request rows (100 in all at least)")
        canvas, axes, inches = _grid(len(data), height=2.35, legend=True)
        words = []
        for ax, (scenario, found) in zip(axes, data.items(), strict=True):
            deepest = 1.0
            for target, values in found.items():
                last = math.log10(values.size / 10)  # ten samples beyond
                nines = np.linspace(0, last, 160)
                ax.plot(nines, np.quantile(values, 1 - 10.0**-nines), **self._line(target))
                ax.plot([last], [np.quantile(values, 1 - 10.0**-last)], "|", color=self.colour(target), ms=7, mew=1.6)
                deepest = max(deepest, last)
                words.append(f"{scenario} {title(target)} p99 {number(float(np.quantile(values, 0.99)))} ms")
            ax.set_yscale("log")
            _plain_log_y(ax)
            ticks = [(0.30103, "50"), (1, "90"), (2, "99"), (3, "99.9"), (4, "99.99"), (5, "99.999")]
            shown = [tick for tick in ticks if tick[0] <= deepest + 0.05]
            ax.set_xticks([tick for tick, _ in shown], [text for _, text in shown])
            ax.set_xlim(0, deepest + 0.1)
            ax.set_title(_short(scenario))
            ax.set_xlabel("percentile")
            ax.set_ylabel("end to end, ms")
        shown_targets = [t for t in self.targets if any(t in found for found in data.values())]
        self._legend(canvas, shown_targets, inches)
        caption = (
            f"End-to-end latency by percentile, {self._of(data)}; all {self._rounds(data, shown_targets)} pooled. "
            "Each line ends (|) where fewer than ten samples lie beyond: further out would be invention."
        )
        return _finish(canvas, "tail", "The tail, to the nines", caption, "; ".join(words), _min_width(len(data)))

    # ----------------------------------------------------------------------------------------------------- 7: CPU
    def cpu(self) -> Drawn:
        """CPU per unit of work, one mark per run, mean and interval."""
        panels = []
        for scenario in self.shown:
            metric = self.campaign.scenario(scenario).cpu_metric()
            shown = [t for t in self.targets if self.comparison.values(scenario, metric, t).size]
            if shown:
                panels.append((scenario, metric, shown))
        if not panels:
            return NotDrawn("cpu", "no valid run has CPU samples of its target")
        rows = max(len(shown) for _, _, shown in panels)
        left = 0.35 + 0.075 * max(min(len(target), 20) for _, _, shown in panels for target in shown)
        canvas, axes, _ = _grid(len(panels), height=0.95 + 0.32 * rows, legend=False, left=left)
        words = []
        for ax, (scenario, metric, shown) in zip(axes, panels, strict=True):
            for position, target in enumerate(shown):
                values = self.comparison.values(scenario, metric, target)
                colour = self.colour(target)
                void = [v for f in self.void_runs(scenario, target) if (v := f.value(metric)) is not None]
                ax.plot(void, [-position] * len(void), "o", ms=5, mfc="none", mec=colour, alpha=0.8)
                ax.plot(values, [-position] * values.size, "o", ms=4.5, color=colour, alpha=0.4, mew=0)
                counted = (facts.value(metric) for facts in self.comparison.counted(scenario, target))
                found = estimate(np.log([value for value in counted if value is not None] or values))
                ends = found.interval()
                if ends is not None:
                    ax.plot(
                        [math.exp(ends.low), math.exp(ends.high)],
                        [-position] * 2,
                        color=colour,
                        lw=2.2,
                        solid_capstyle="round",
                    )
                mean = math.exp(found.mean)
                ax.plot([mean], [-position], "|", color=colour, ms=12, mew=2.2)
                ax.annotate(
                    f"{number(mean)} {METRICS[metric].shown_unit}", (mean, -position), (0, 8),
                    textcoords="offset points", ha="center", va="bottom", fontsize=8.5, color=colour, weight="bold",
                )  # fmt: skip
                words.append(f"{scenario} {title(target)} {number(mean)} µs")
            every = np.concatenate([self.comparison.values(scenario, metric, t) for t in shown])
            if every.max() / every.min() > 12:
                ax.set_xscale("log")
                ax.set_xlim(every.min() / 1.9, every.max() * 1.9)
                _log_ticks(ax.xaxis, *ax.get_xlim())
            else:
                ax.set_xlim(0, every.max() * 1.22)
            ax.set_yticks(range(0, -len(shown), -1), [_short(title(t), 20) for t in shown])
            ax.set_ylim(-rows + 0.4, 0.85)
            ax.grid(visible=False, axis="y")
            ax.set_title(_short(scenario))
            ax.set_xlabel(f"{METRICS[metric].label}, {METRICS[metric].shown_unit}")
        caption = (
            "CPU of the target's whole process tree, idle share subtracted: every run (dot), geometric mean and 95 % "
            f"interval over the rounds that part 3 compares, of {self._rounds((p[0] for p in panels), self.targets)}; "
            "void runs hollow. "
            f"{self._of(p[0] for p in panels)}. "
            "CPU per unit falls with load: compare only inside one panel."
        )
        return _finish(
            canvas, "cpu", "CPU per request and per event", caption, "; ".join(words), _min_width(len(panels))
        )

    # ------------------------------------------------------------------------------------------------------ 8: GC
    def gc(self) -> Drawn:
        """Every pause of the garbage collector by generation."""
        data: dict[str, dict[str, list[Facts]]] = {}
        for scenario in self.shown:
            for target in self.targets:
                runs = [f for f in self.runs(scenario, target) if f.gc is not None]
                if runs and target not in FLOOR_TARGETS:
                    data.setdefault(scenario, {})[target] = runs
        data = {
            s: found for s, found in data.items() if any(f.gc.ms.size for runs in found.values() for f in runs if f.gc)
        }
        if not data:
            return NotDrawn("gc", "no recorder ran inside a target, or no collection happened in a measured window")
        canvas, axes, _ = _grid(len(data), height=2.5, legend=False)
        words = []
        for ax, (scenario, found) in zip(axes, data.items(), strict=True):
            for place, (target, runs) in enumerate(found.items()):
                ms = np.concatenate([f.gc.ms for f in runs if f.gc is not None])
                generation = np.concatenate([f.gc.generation for f in runs if f.gc is not None])
                for number_, offset in ((0, -0.24), (1, 0.0), (2, 0.24)):
                    chosen = np.sort(ms[generation == number_])
                    # Spread along a fixed low-discrepancy sequence: no chance in a figure that must be reproducible.
                    jitter = (np.arange(chosen.size) * 0.6180339887 % 1 - 0.5) * 0.16
                    ax.plot(
                        place + offset + jitter, np.maximum(chosen, 1e-3), "o", ms=3.2, mew=0, alpha=0.5,
                        color=self.colour(target),
                    )  # fmt: skip
                    if chosen.size:
                        ax.plot(
                            [place + offset - 0.1, place + offset + 0.1], [np.median(chosen)] * 2, color=INK, lw=1.4
                        )
                words.append(f"{scenario} {title(target)}: {ms.size} pauses, {number(float(ms.sum()))} ms in all")
            ax.set_yscale("log")
            _plain_log_y(ax)
            ax.set_xlim(-0.5, len(found) - 0.5)
            ax.set_xticks([p + o for p in range(len(found)) for o in (-0.24, 0, 0.24)], ["0", "1", "2"] * len(found))
            for place, target in enumerate(found):
                ax.annotate(
                    _short(title(target), 20), (place, 0), (0, -26), xycoords=("data", "axes fraction"),
                    textcoords="offset points", ha="center", va="top", color=self.colour(target), weight="bold",
                )  # fmt: skip
            ax.set_title(_short(scenario))
            ax.set_ylabel("pause, ms")
            ax.grid(visible=False, axis="x")
        shown = [t for t in self.targets if any(t in found for found in data.values())]
        caption = (
            "Every garbage collection in the measured windows by generation (0, 1, 2), median as a bar; "
            f"{self._of(data)}, {self._rounds(data, shown)} pooled. "
            "A pause depends on the live heap, so compare inside one panel only."
        )
        return _finish(canvas, "gc", "Garbage collection pauses", caption, "; ".join(words), _min_width(len(data)))

    # ------------------------------------------------------------------------------------------------ 9: timeline
    def timeline(self) -> Drawn:
        """Load, GC, stalls and generator lag of one round on one axis, baseline and main candidate side by side."""
        pair = [name for name in (self.baseline, self.main) if name]
        best: tuple[int, str, list[Facts]] | None = None
        for scenario in self.scenarios:
            rounds = {t: {f.record.round: f for f in self.runs(scenario, t) if f.outcomes is not None} for t in pair}
            common = sorted(set.intersection(*(set(found) for found in rounds.values()))) if rounds else []
            for number_ in common:
                chosen = [rounds[t][number_] for t in pair]
                pauses = sum(f.gc.ms.size for f in chosen if f.gc is not None)
                if best is None or pauses > best[0]:
                    best = (pauses, scenario, chosen)
        if best is None:
            return NotDrawn("timeline", "no round has request rows of both targets")
        _, scenario, chosen = best
        canvas = Canvas(figsize=(9.2, 4.3))
        axes = _panels(canvas, 4, len(chosen), left=0.92, top=0.38, bottom=0.55, right=0.15, gap_x=0.5, gap_y=0.16)
        for column, facts in enumerate(chosen):
            stack = [axes[row * len(chosen) + column] for row in range(4)]
            self._timeline_column(stack, facts, first=column == 0)
        for row in range(4):
            pair_axes = axes[row * len(chosen) : (row + 1) * len(chosen)]
            top = max(ax.get_ylim()[1] for ax in pair_axes)
            for ax in pair_axes:
                ax.set_ylim(0, top)
        names = ", ".join(facts.record.run for facts in chosen)
        caption = (
            f"One round of {scenario} ({names}; the round with most collections): requests sent per 100 ms, GC pauses, "
            "loop stalls (10 ms heartbeat), and how late the generator was. Same axes on both sides."
        )
        alt = "; ".join(
            f"{title(f.record.target)}: {f.gc.ms.size if f.gc else 'no record of'} GC pauses, "
            f"{f.stalls.ms.size if f.stalls else 'no record of'} stalls"
            for f in chosen
        )
        return _finish(canvas, "timeline", "One round, on one clock", caption, alt, 620)

    def _timeline_column(self, stack: Sequence[Axes], facts: Facts, *, first: bool) -> None:
        colour, seconds = self.colour(facts.record.target), facts.window_s or 1.0
        load, gc, stall, lag = stack
        assert facts.outcomes is not None
        edges = np.linspace(0, seconds, max(2, int(seconds * 10)) + 1)
        counts, _ = np.histogram(facts.outcomes.at_s, edges)
        load.step(edges[:-1], counts, where="post", color=colour, lw=1)
        load.set_title(_short(title(facts.record.target)), color=colour)
        for ax, pauses in ((gc, facts.gc), (stall, facts.stalls)):
            if pauses is None:
                ax.annotate("not recorded", (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=MUTED)
            elif pauses.ms.size:
                ax.vlines(pauses.at_s, 0, pauses.ms, color=colour, lw=1.6)
        if facts.requests is not None and not np.isnan(facts.requests.lag_ms).all():
            lags = facts.requests.lag_ms
            where = np.digitize(facts.requests.at_s, edges) - 1
            worst = np.zeros(edges.size - 1)
            inside = (where >= 0) & (where < worst.size) & ~np.isnan(lags)
            np.maximum.at(worst, where[inside], lags[inside])
            lag.fill_between(edges[:-1], 0, worst, step="post", color=MUTED, alpha=0.5, lw=0)
        for ax, label in zip(stack, ("requests\nper 100 ms", "GC\nms", "stall\nms", "lag\nms"), strict=True):
            ax.set_xlim(0, seconds)
            ax.tick_params(labelbottom=ax is lag)
            if first:
                ax.set_ylabel(label)
                ax.yaxis.set_label_coords(-0.12, 0.5)
        lag.set_xlabel("seconds into the measured window")

    # -------------------------------------------------------------------------------------------------- 10: memory
    def memory(self) -> Drawn:
        """Resident memory over time, and against connections where they were swept."""
        engines = [t for t in self.targets if t not in FLOOR_TARGETS]
        with_rss = [s for s in self.scenarios if any(_has_memory(f) for t in engines for f in self.runs(s, t))]
        sweep = self._memory_sweep(engines)
        if not with_rss and not sweep:
            return NotDrawn("memory", "no valid run has memory samples of its target")
        streams = [s for s in with_rss if self.campaign.scenario(s).kind == "stream"] or with_rss
        chosen = max(streams, key=lambda s: self.campaign.scenario(s).duration_s) if streams else None
        canvas, axes, inches = _grid((chosen is not None) + bool(sweep), height=2.6, legend=True)
        words = []
        if chosen is not None:
            ax = axes[0]
            for target in engines:
                for position, facts in enumerate(self.runs(chosen, target)):
                    usage = facts.usage.get("target")
                    if usage is not None:
                        style = {**self._line(target), "lw": 1.9 if position == 0 else 0.9}
                        ax.plot(usage.at_s, usage.rss_mib, alpha=1 if position == 0 else 0.35, **style)
                peak = self.comparison.values(chosen, "rss_peak_mib", target)
                if peak.size:
                    words.append(f"{title(target)} peak {number(float(peak.mean()))} MiB")
            ax.axvspan(0, self.campaign.scenario(chosen).duration_s, color=GRID, alpha=0.45, lw=0)
            ax.set_ylim(0, ax.get_ylim()[1] * 1.08)
            ax.set_title(f"{_short(chosen)}: memory over time")
            ax.set_xlabel("seconds; the measured window is shaded")
            ax.set_ylabel("resident, MiB")
        if sweep:
            ax = axes[-1]
            for target, points in sweep.items():
                x, y = np.array(sorted(points)), np.array([points[c] for c in sorted(points)])
                ax.plot(x, y, "o", color=self.colour(target), ms=5)
                slope, level = np.polyfit(x, y, 1)
                ax.plot(x, slope * x + level, **self._line(target))
                words.append(f"{title(target)} {slope * 1024:.1f} KiB per connection")
            ax.set_title("memory against connections")
            ax.set_xlabel("connections")
            ax.set_ylabel("peak resident, MiB")
        self._legend(canvas, engines, inches)
        caption = (
            "Resident memory of the target's process tree"
            f"{f' in {chosen}, first valid round thick, the others thin' if chosen else ''}"
            f"{'; peak by open connections with a fitted line' if sweep else ''}; {self._rounds(with_rss, engines)}."
        )
        return _finish(canvas, "memory", "Memory", caption, "; ".join(words), _min_width(len(axes)))

    def endurance(self) -> Drawn:
        """Resident memory and descriptors of long runs, with the line whose slope is judged."""
        soaks = [s for s in self.scenarios if "soak" in self.campaign.scenario(s).tags]
        found = (f for s in soaks for t in self.targets for f in (*self.runs(s, t), *self.void_runs(s, t)))
        long = [one for one in map(endurance.of_run, found) if one.slope is not None]
        if not long:
            return NotDrawn("endurance", "no run of a long scenario has memory samples of its target")
        canvas, axes, inches = _grid(2, height=2.6, legend=True)
        words = []
        for one in long:
            usage, slope = one.facts.usage["target"], one.slope
            assert slope is not None
            target, minutes = one.facts.record.target, usage.at_s / 60
            line = {**self._line(target), "lw": 1.0}
            axes[0].plot(minutes, usage.rss_mib, alpha=0.55, **line)
            ends = np.array([slope.from_s, one.seconds])
            fitted = slope.level_mib + slope.per_hour * (ends - slope.from_s) / 3600
            axes[0].plot(ends / 60, fitted, **{**line, "lw": 2.0})
            axes[1].plot(minutes, usage.fds, **line)
            words.append(
                f"{title(target)} {slope.per_hour:+.2f} MiB an hour (95 % CI {slope.low:+.2f}..{slope.high:+.2f})"
            )
        axes[0].set_ylim(0, axes[0].get_ylim()[1] * 1.08)
        axes[0].set_title("memory over time")
        axes[0].set_ylabel("resident, MiB")
        axes[1].set_ylim(0, axes[1].get_ylim()[1] * 1.08)
        axes[1].set_title("open descriptors")
        for ax in axes:
            ax.set_xlabel("minutes")
        names = list(dict.fromkeys(one.facts.record.target for one in long))
        self._legend(canvas, names, inches)
        caption = (
            f"Resident memory of the target's process tree in {', '.join(soaks)}, the line through its last two thirds "
            "(thick), and its open descriptors."
        )
        return _finish(canvas, "endurance", "Endurance", caption, "; ".join(words), _min_width(2))

    def _memory_sweep(self, targets: Iterable[str]) -> dict[str, dict[int, float]]:
        points: dict[str, dict[int, float]] = {}
        for scenario in self.scenarios:
            described = self.campaign.scenario(scenario)
            if "sweep-connections" in described.tags and described.connections:
                for target in targets:
                    values = self.comparison.values(scenario, "rss_peak_mib", target)
                    if values.size:
                        points.setdefault(target, {})[described.connections] = float(values.mean())
        return {target: found for target, found in points.items() if len(found) >= 3}

    # ---------------------------------------------------------------------------------------------- 11: resilience
    def resilience(self) -> Drawn:
        """Outcomes per second while an endpoint misbehaves, one panel per target and scenario."""
        panels = []
        for scenario in self.scenarios:
            if self.campaign.scenario(scenario).faults:
                for target in (name for name in (self.baseline, self.main) if name):
                    runs = [f for f in self.runs(scenario, target) if f.outcomes is not None]
                    if runs:
                        panels.append((scenario, target, runs))
        if not panels:
            return NotDrawn("resilience", "no scenario with a faulty endpoint was run")
        canvas, axes, inches = _grid(len(panels), height=2.3, legend=True, columns=2)
        names = sorted(
            {str(o) for _, _, runs in panels for f in runs if f.outcomes for o in np.unique(f.outcomes.outcome)}
        )
        names = ["ok", *[name for name in names if name != "ok"]]
        shades = _outcomes(names)
        words = []
        for ax, (scenario, target, runs) in zip(axes, panels, strict=True):
            seconds = max(f.window_s or 1.0 for f in runs)
            edges = np.arange(0, math.ceil(seconds) + 1)
            stack = []
            for name in names:
                counts = [
                    np.histogram(f.outcomes.at_s[f.outcomes.outcome == name], edges)[0] for f in runs if f.outcomes
                ]
                stack.append(np.mean(counts, axis=0))
            ax.stackplot(edges[:-1], *stack, colors=[shades[name] for name in names], step="post", lw=0)
            for fault in self.campaign.scenario(scenario).faults:
                ax.axvspan(
                    fault.from_s,
                    fault.to_s if fault.to_s is not None else seconds,
                    color=GRID,
                    alpha=0.6,
                    lw=0,
                    zorder=0,
                )
                ax.annotate(
                    _short(f"{fault.endpoint} {fault.kind}"), (fault.from_s, 1.0), (3, -2),
                    xycoords=("data", "axes fraction"), textcoords="offset points", va="top", fontsize=8, color=MUTED,
                )  # fmt: skip
            lost = sum(int((f.outcomes.outcome != "ok").sum()) for f in runs if f.outcomes)
            words.append(f"{scenario} {title(target)}: {lost} requests not answered rightly in {len(runs)} rounds")
            ax.set_xlim(0, max(edges[-2], 1))
            ax.set_ylim(0, ax.get_ylim()[1] * 1.1)
            ax.set_title(f"{_short(scenario, 20)}: {_short(title(target), 16)}", color=self.colour(target))
            ax.set_xlabel("seconds into the measured window")
            ax.set_ylabel("requests per second")
        handles = [Line2D([], [], marker="s", ls="", color=shades[name], label=name, ms=7) for name in names]
        canvas.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.005, 1 - 0.04 / inches), ncols=8, borderaxespad=0
        )
        told = ", ".join(dict.fromkeys(scenario for scenario, _, _ in panels))
        rounds = self._rounds({scenario for scenario, _, _ in panels}, {target for _, target, _ in panels})
        caption = (
            f"{told}: how requests ended, by the second they were due, while an endpoint misbehaves (shaded); mean "
            f"over {rounds}."
        )
        return _finish(canvas, "resilience", "When an endpoint fails", caption, "; ".join(words), _min_width(2))

    # ------------------------------------------------------------------------------------------------ 12: ablation
    def ablation(self) -> Drawn:
        """The way from Sherpa to Olla, and what each switch is worth: alone, and as the last one missing."""
        found = ablation_steps(self.campaign, self.comparison)
        panels: dict[tuple[str, bool], list[Step]] = {}
        for step in found:
            panels.setdefault((step.scenario, step.group == "ladder"), []).append(step)
        if not panels:
            return NotDrawn("ablation", "no engine ran with single switches changed (`--profile ablation`)")
        rows = max(len(steps) for steps in panels.values())
        canvas, axes, _ = _grid(len(panels), height=0.95 + 0.24 * rows, legend=False, left=2.2, columns=2)
        words = []
        for ax, ((scenario, is_ladder), steps) in zip(axes, panels.items(), strict=True):
            (self._ladder if is_ladder else self._switches)(ax, steps)
            ax.set_title(_short(scenario))
            ax.grid(visible=False, axis="y")
            words += [f"{s.scenario} {s.group} {s.label}: {100 * s.change[0]:+.1f} %, {s.word}" for s in steps]
        names = {name for step in found for name in (step.under, step.over)}
        caption = (
            f"{', '.join(dict.fromkeys(s for s, _ in panels))}: from engine to engine in CPU per unit, and what a "
            "switch changes in percent: filled when it is turned on alone, hollow when it is the last one that was "
            "missing. Mean and 95 % interval over "
            f"{self._rounds({s for s, _ in panels}, names)}; grey where the interval crosses zero."
        )
        return _finish(canvas, "ablation", "One switch at a time", caption, "; ".join(words), _min_width(2))

    def _ladder(self, ax: Axes, steps: Sequence[Step]) -> None:
        """A waterfall: each bar goes from the CPU without the step to that with it."""
        for place, step in enumerate(steps):
            if place == 0:
                ax.barh(1, step.before, height=0.55, color=self.colour("sherpa"), alpha=0.35)
            low, high = (step.before * (1 + end) for end in step.change[1:])
            ax.barh(
                -place, step.after - step.before, left=step.before, height=0.55, color=self.colour("olla"), alpha=0.35
            )
            ax.plot([low, high], [-place] * 2, color=INK, lw=2)
        last = steps[-1]
        ax.barh(-len(steps), last.after, height=0.55, color=self.colour("olla"), alpha=0.7)
        labels = [steps[0].under, *(f"+ {step.label}" for step in steps), last.over]
        ax.set_yticks(range(1, -len(steps) - 1, -1), [_short(label, 30) for label in labels])
        ax.set_xlim(left=0)
        spec = METRICS[last.metric]
        ax.set_xlabel(f"{spec.label}, {spec.shown_unit}")

    def _switches(self, ax: Axes, steps: Sequence[Step]) -> None:
        """A bar a switch: the change in percent when it is turned on."""
        for place, step in enumerate(steps):
            mean, low, high = (100 * share for share in step.change)
            colour = self.colour("olla") if (low > 0) == (high > 0) else MUTED
            alone = step.group == "alone"
            ax.barh(-place, mean, height=0.55, color=colour if alone else "none", edgecolor=colour, alpha=0.35)
            ax.plot([low, high], [-place] * 2, color=colour, lw=2)
        ax.axvline(0, color=MUTED, lw=1)
        labels = [f"{step.label}, {step.group}" for step in steps]
        ax.set_yticks(range(0, -len(steps), -1), [_short(label, 32) for label in labels])
        ax.set_xlabel(f"{METRICS[steps[0].metric].label}, change in %")


def representatives(campaign: Campaign, scenarios: Sequence[str]) -> list[str]:
    """Every use case: all scenarios but the points of sweeps (see schema.Scenario.group), of which the largest stands
    for a sweep that has nothing else. Rungs of a ladder are no use cases: each is measured with one target alone."""
    cases: set[str] = set()
    named: set[str] = set()
    largest: dict[str, tuple[float, str]] = {}
    for name in scenarios:
        scenario = campaign.scenario(name)
        if scenario.group == ladder.GROUP:
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


# ------------------------------------------------------------------------------------------------------------- drawing
def _panels(
    canvas: Canvas, rows: int, columns: int, *, left: float, top: float, bottom: float, right: float,
    gap_x: float = 0.6, gap_y: float = 0.9,
) -> list[Axes]:  # fmt: skip
    """Axes in a grid with margins and gaps in inches: no layout engine, so no second draw and no surprises."""
    width, height = canvas.get_size_inches()
    each_w = (width - left - right - gap_x * (columns - 1)) / columns
    each_h = (height - top - bottom - gap_y * (rows - 1)) / rows
    return [
        canvas.add_axes(
            (
                (left + column * (each_w + gap_x)) / width,
                (bottom + (rows - 1 - row) * (each_h + gap_y)) / height,
                each_w / width,
                each_h / height,
            )
        )
        for row in range(rows)
        for column in range(columns)
    ]


def _short(name: str, most: int = 28) -> str:
    """A name that fits its place; the caption has it whole."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _columns(count: int, most: int = 3) -> int:
    return 2 if count == 4 and most > 2 else min(count, most)


def _grid(
    count: int, *, height: float, legend: bool, left: float = 0.72, columns: int = 3
) -> tuple[Canvas, list[Axes], float]:
    """A figure of `count` panels, each `height` inches of plot; returns its height in inches too."""
    across = _columns(count, columns)
    down = math.ceil(count / across)
    gap_y, top, bottom = 0.98, 0.72 if legend else 0.4, 0.56
    inches = top + bottom + down * height + (down - 1) * gap_y
    canvas = Canvas(figsize=(9.2 if across > 1 else 6.6, inches))
    axes = _panels(
        canvas, down, across, left=left, top=top, bottom=bottom, right=0.15, gap_x=left + 0.05, gap_y=gap_y
    )  # fmt: skip
    for spare in axes[count:]:
        spare.set_visible(False)
    return canvas, axes[:count], inches


def _min_width(panels: int) -> int:
    return {1: 420, 2: 640}.get(_columns(panels), 860)


def _log_x(ax: Axes, low: float, high: float) -> None:
    ax.set_xscale("log")
    ax.set_xlim(max(low, 1e-2) / 1.25, max(high, 1e-1) * 1.25)
    _log_ticks(ax.xaxis, *ax.get_xlim())


def _plain_log_y(ax: Axes) -> None:
    """A log axis; a linear one where it would hold fewer than two round numbers."""
    low, high = ax.get_ylim()
    if not _log_ticks(ax.yaxis, low, high):
        ax.set_yscale("linear")
        ax.set_ylim(low, high)


def _log_ticks(axis: Axis, low: float, high: float, prefix: str = "") -> bool:
    """Round numbers along a log axis, at most six; False if fewer than two lie inside."""
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in range(-4, 8) for m in steps if low <= m * 10.0**e <= high]
        if len(ticks) <= 6:
            break
    if len(ticks) < 2:
        return False
    axis.set_ticks(ticks, [f"{prefix}{tick:,.0f}" if tick >= 1 else f"{prefix}{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())
    return True


def _ratio_words(row: Row) -> str:
    return f"×{number(row.ratio or 0)} ({number(row.ci_low or 0)}..{number(row.ci_high or 0)}), {row.verdict}"


def _word_colour(row: Row) -> str:
    return {"faster": "#1a7f4b", "slower": "#b3362b", "equivalent": "#4a6fa5"}.get(row.verdict, MUTED)


def _has_memory(facts: Facts) -> bool:
    usage = facts.usage.get("target")
    return usage is not None and bool(np.isfinite(usage.rss_mib).any())


def _outcomes(names: Sequence[str]) -> Mapping[str, str]:
    known = {
        "ok": "#b9c4d0", "refused": "#b3362b", "timeout": "#d2691e", "reset": "#8b3a62", "truncated": "#b4508f",
        "wrong_reply": "#5b2a86", "client_cancelled": "#8f7a2b",
    }  # fmt: skip
    return {name: known.get(name, INK) for name in names}


_UNSTABLE = re.compile(r"<\?xml.*?\?>\s*|<!DOCTYPE.*?>\s*|<metadata>.*?</metadata>\s*", re.S)


def _finish(canvas: Canvas, name: str, heading: str, caption: str, alt: str, min_width: int) -> Figure:
    """Write the canvas as SVG and PNG without anything that differs from one rebuild to the next."""
    svg = io.StringIO()
    canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    png = io.BytesIO()
    FigureCanvasAgg(canvas)
    canvas.savefig(png, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return Figure(name, heading, caption, alt, _UNSTABLE.sub("", svg.getvalue()), png.getvalue(), min_width)
