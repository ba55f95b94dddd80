"""The drawing kit of all figures: one style, one colour a target, small panels, the same bytes each time.

A figure is some panels of 4.3 inches: one fills a phone's screen, two or three stand side by side on a wide one. Lines
and marks are labelled where they are, in their own colour; no legend has to be matched by eye. The colours are those of
Okabe and Ito, which people who confuse red and green can tell apart; the marks differ as well.

SVG keeps text as text, so that it can be read aloud, searched and scaled. Nothing is drawn with pyplot: no global
state, no display.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullLocator
from PIL import Image

from reports.page import THEME, Panel
from reports.schema import AA_SUFFIX, FLOOR_TARGETS
from reports.words import title

Floats: TypeAlias = npt.NDArray[np.float64]

_THEME: Final = {name: colour for colour, name in THEME.items()}
INK, MUTED, GRID, PAPER = (_THEME[name] for name in ("ink", "muted", "grid", "paper"))

_COLOURS: Final = {"sherpa": "#c85200", "olla": "#0b6fb0", "direct": "#76808d", "relay": "#76808d", "nginx": "#00815d"}
_OTHERS: Final = ("#b0568f", "#8a6d00", "#3b8ea5", "#7d5ba6", "#5f7f3a", "#9a5b4f", "#4c5fa8")
_MARKS: Final = {"sherpa": "o", "olla": "s", "nginx": "^", "direct": "|", "relay": "|"}
_OTHER_MARKS: Final = ("D", "v", "P", "X", "h", "<", ">")

_STYLE: Final[Any] = {  # matplotlib types each key as a literal; a plain dict of str says the same
    "svg.fonttype": "none",
    "svg.hashsalt": "proxy-engines",
    "text.parse_math": False,  # names may hold $
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.titley": 1.0,  # fixed: searching for a free place measures every tick label twice
    "axes.labelsize": 8.5,
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
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify_threshold": 0.4,
}
WIDTH: Final = 4.3
"""Inches of a panel. On a screen of 400 pixels its text is 11 pixels high."""


class Palette:
    """Colours and marks of the targets of a campaign, the same in every figure."""

    def __init__(self, targets: Sequence[str]) -> None:
        others = [name for name in targets if name not in _COLOURS]
        self._colours = {name: _OTHERS[n % len(_OTHERS)] for n, name in enumerate(others)} | _COLOURS
        self._marks = {name: _OTHER_MARKS[n % len(_OTHER_MARKS)] for n, name in enumerate(others)} | _MARKS

    def colour(self, target: str) -> str:
        """The colour of a target everywhere in the report."""
        return self._colours.get(target.removesuffix(AA_SUFFIX), MUTED)

    def mark(self, target: str) -> str:
        """Its mark."""
        return self._marks.get(target.removesuffix(AA_SUFFIX), "o")

    def line(self, target: str) -> dict[str, Any]:
        """How its line is drawn: the floor of the measurement dashed."""
        floor = target in FLOOR_TARGETS
        return {"color": self.colour(target), "linestyle": (0, (4, 2)) if floor else "-", "lw": 1.4 if floor else 1.9}


@contextmanager
def panel(
    height: float = 2.7, *, left: float = 0.62, right: float = 0.15, rows: int = 1
) -> Iterator[tuple[list[Axes], list[Panel]]]:
    """Axes one above the other to draw on; when the block ends, the list holds the panel."""
    made: list[Panel] = []
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(WIDTH, height))
        top, bottom, gap = 0.34, 0.5, 0.14
        each = (height - top - bottom - gap * (rows - 1)) / rows
        width = (WIDTH - left - right) / WIDTH
        axes = [
            canvas.add_axes((left / WIDTH, (bottom + (rows - 1 - n) * (each + gap)) / height, width, each / height))
            for n in range(rows)
        ]
        yield axes, made
        made.append(_finish(canvas))


_UNSTABLE = re.compile(r"<\?xml.*?\?>\s*|<!DOCTYPE.*?>\s*|<metadata>.*?</metadata>\s*", re.S)

_LONG: Final = re.compile(r"-?\b\d+\.\d{3,}\b")
_UNUSED: Final = re.compile(r' id="[a-z0-9.]*_[^"]*"')
"""Names of groups (`line2d_7`); what is referred to has a hash as its name."""


def _finish(canvas: Canvas) -> Panel:
    """The canvas as SVG and PNG without anything that differs from one rebuild to the next."""
    svg = io.StringIO()
    canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    png = io.BytesIO()
    FigureCanvasAgg(canvas)
    canvas.savefig(png, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return Panel(_lean(svg.getvalue()), small(png.getvalue()))


def _lean(svg: str) -> str:
    """An SVG with hundredths of a point and with the names that it uses: half the bytes of what matplotlib writes."""

    def rounded(number: re.Match[str]) -> str:
        return f"{float(number.group()):.2f}".rstrip("0").rstrip(".")

    svg = _UNUSED.sub("", _UNSTABLE.sub("", svg))
    svg = re.sub(r"<[^>]*>", lambda tag: _LONG.sub(rounded, tag.group()), svg)  # what is written between tags stays
    return re.sub(r"\n\s*(?=<)", "\n", svg)


def small(png: bytes) -> bytes:
    """A PNG in 64 colours: flat drawings and text look the same in a third of the bytes."""
    made = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    picture.save(made, "PNG", optimize=True)
    return made.getvalue()


def short(name: str, most: int = 34) -> str:
    """A name that fits its place; the caption has it whole."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def folded(name: str) -> str:
    """A name on two lines of 25 letters where one is too short for it."""
    lines = textwrap.wrap(name, 25)
    return "\n".join([lines[0], short(" ".join(lines[1:]), 25)]) if len(lines) > 1 else name


def label(ax: Axes, target: str, palette: Palette, at: tuple[float, float], dy: float) -> None:
    """The target's name beside its line, in its colour, on a patch of the page's colour."""
    ax.annotate(
        short(title(target), 16), at, (5, dy), textcoords="offset points", va="center", fontsize=8.5, weight="bold",
        color=palette.colour(target), zorder=6,
        bbox={"boxstyle": "square,pad=0.12", "fc": PAPER, "ec": "none", "alpha": 0.85},
    )  # fmt: skip


def spread(places: Sequence[float], least: float, top: float = np.inf) -> list[float]:
    """`places` moved apart until neighbours are at least this far from each other: upwards, and down again from `top`.
    Their order stays."""
    moved = list(places)
    order = np.argsort(places, kind="stable")
    last = -np.inf
    for place in order:
        moved[place] = last = max(places[place], last + least)
    last = top + least
    for place in order[::-1]:
        moved[place] = last = min(moved[place], last - least)
    return moved


def label_ends(ax: Axes, ends: Sequence[tuple[str, float, float]], palette: Palette) -> None:
    """Names at the right ends of lines, (target, x, y) each, moved apart where they would cover each other."""
    if not ends:
        return
    # y as points of the panel, so that "apart" means the same on a linear and on a logarithmic axis.
    heights = [float(ax.transData.transform((x, y))[1]) * 72 / ax.figure.dpi for _, x, y in ends]
    top = float(ax.bbox.y1) * 72 / ax.figure.dpi
    for (target, x, y), height, free in zip(ends, heights, spread(heights, 11.0, top), strict=True):
        label(ax, target, palette, (x, y), free - height)


def log_x(ax: Axes, low: float, high: float) -> None:
    """A logarithmic x axis with round numbers."""
    ax.set_xscale("log")
    ax.set_xlim(max(low, 1e-3) / 1.25, max(high, 2e-3) * 1.25)
    log_ticks(ax.xaxis, *ax.get_xlim())


def log_y(ax: Axes) -> None:
    """A logarithmic y axis; a linear one where it would hold fewer than two round numbers."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if not log_ticks(ax.yaxis, low, high):
        ax.set_yscale("linear")  # and with it the ticks of a linear axis
        ax.set_ylim(low, high)


def log_ticks(axis: Axis, low: float, high: float, prefix: str = "") -> bool:
    """Round numbers along a log axis, as many as have room and at most six; False if fewer than two lie inside, and
    then the axis has none.

    Not those of matplotlib, which between two powers of ten are in the notation of TeX.
    """
    box, apart = (axis.axes.bbox.width, 0.38) if isinstance(axis, XAxis) else (axis.axes.bbox.height, 0.16)
    decade = box / axis.axes.figure.dpi / math.log10(high / low)
    for steps in ((1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 8), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in range(-4, 8) for m in steps if low <= m * 10.0**e <= high]
        if len(ticks) <= 6 and (np.diff(np.log10(ticks)) * decade >= apart).all():
            break
    found = len(ticks) >= 2
    texts = [f"{prefix}{tick:,.0f}" if tick >= 10 else f"{prefix}{tick:g}" for tick in ticks]
    axis.set_ticks(ticks if found else [], texts if found else [])
    axis.set_minor_locator(NullLocator())
    return found
