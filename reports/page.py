"""The page of a report: parts made of four kinds of block, and two writers, one for HTML and one for Markdown. Pure.

A part says what it shows (`Text`, `Note`, `Table`, `Figure`) and never how. Both writers know every block, so the two
pages cannot drift apart. Text from outside (names, questions, errors) is always a plain `str`: HTML escapes it,
`md` escapes it for Markdown, and only `Span` objects of ours carry markup.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from markupsafe import Markup, escape

Style = Literal["strong", "code", "quiet"]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line with a style, a link, or a verdict word (`word`: its tone)."""

    text: str
    style: Style | None = None
    href: str = ""
    word: str = ""


Line: TypeAlias = "str | Span | Sequence[str | Span]"


def strong(text: str) -> Span:
    """Bold text."""
    return Span(text, "strong")


def code(text: str) -> Span:
    """Text as code."""
    return Span(text, "code")


def ticks(text: str) -> list[str | Span]:
    """Our own text with `code` in back ticks; never used for text from outside."""
    parts = re.split(r"`([^`]*)`", text)
    return [code(part) if place % 2 else part for place, part in enumerate(parts) if part]


# ------------------------------------------------------------------------------------------------------------ blocks
@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph, a list, or both; `heading` stands above them. `literal`: shown as it is, as code."""

    say: Line = ""
    items: tuple[Line, ...] = ()
    heading: str = ""
    literal: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A remark set apart: something is missing, doubtful, or decides (`lead`)."""

    say: Line = ""
    items: tuple[Line, ...] = ()
    heading: str = ""
    tone: Literal["missing", "doubt", "lead"] = "missing"


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; numbers stand on the right."""

    title: str
    number: bool = False
    about: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """`value`: what the column sorts by; `hint`: shown on hover."""

    say: Line = ""
    value: float | None = None
    hint: str = ""
    more: str = ""
    """A second, quiet line: the interval."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """The first cell names the row."""

    cells: tuple[Cell, ...]
    primary: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that sort, filter and copy. `id` is unique in the page; each row can be linked to as `id-number`."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    folded: bool = False
    """Closed at first in HTML; Markdown names it in one line and leaves the rows to HTML."""
    cards: bool = False
    """On a narrow screen each row becomes a card."""
    note: Line = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: SVG for the page, PNG for Markdown and mail."""

    svg: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Figure:
    """Plots side by side, as many in a row as the screen has room for; `alt` for those who cannot see them."""

    name: str
    title: str
    caption: str
    alt: str
    panels: tuple[Panel, ...]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """File name and content of every panel, both kinds."""
        for number, panel in enumerate(self.panels, 1):
            yield f"{self.name}-{number}.svg", panel.svg.encode()
            yield f"{self.name}-{number}.png", panel.png

    def _repr_html_(self) -> str:
        """How notebooks show it."""
        made = (base64.b64encode(panel.png).decode() for panel in self.panels)
        return "".join(f'<img src="data:image/png;base64,{one}" alt="{escape(self.alt)}">' for one in made)


Block: TypeAlias = Text | Note | Table | Figure


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the report."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report. `kicker`: small facts above the answer."""

    title: str
    headline: str
    """The answer in some words."""
    kicker: tuple[str, ...]
    parts: tuple[Part, ...]
    foot: Line = ""

    def figures(self) -> Iterator[Figure]:
        """All figures in order."""
        return (block for part in self.parts for block in part.blocks if isinstance(block, Figure))


def missing(reason: str) -> Note:
    """What could not be shown, and why."""
    return Note([strong("Not measured: "), f"{reason}."])


# -------------------------------------------------------------------------------------------------------- Markdown
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#$~!])")


def md(text: object) -> str:
    """Text from outside as Markdown that shows exactly that text, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def _pieces(line: Line) -> Sequence[str | Span]:
    return [line] if isinstance(line, str | Span) else line


def _md_line(line: Line) -> str:
    return "".join(map(_md_piece, _pieces(line)))


def _md_piece(piece: str | Span) -> str:
    if isinstance(piece, str):
        # md() drops the blanks at both ends, which separate this piece from its neighbours.
        lead, end = (" " if piece[:1].isspace() else ""), (" " if piece[-1:].isspace() and piece.strip() else "")
        return lead + md(piece) + end
    text = md(piece.text)
    if piece.href:
        return f"[{text}]({piece.href})"
    if piece.style == "code" and "`" not in piece.text:
        return f"`{' '.join(piece.text.split())}`".replace("|", "\\|")
    lead, end = (piece.text[:1].isspace() and " ") or "", (piece.text[-1:].isspace() and " ") or ""
    return f"{lead}**{text}**{end}" if piece.style == "strong" and text else f"{lead}{text}{end}"


def _bare(text: str) -> str:
    """Without the brackets around the whole of it."""
    return text[1:-1] if text.startswith("(") and text.endswith(")") else text


def table_markdown(table: Table) -> list[str]:
    """The lines of one table."""
    lines = ["| " + " | ".join(md(column.title) for column in table.columns) + " |"]
    lines.append("|" + "|".join("--:" if column.number else "---" for column in table.columns) + "|")
    for row in table.rows:
        cells = [_md_line(cell.say) + (f" ({md(_bare(cell.more))})" if cell.more else "") for cell in row.cells]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _count(table: Table) -> str:
    return f"{len(table.rows)} row{'' if len(table.rows) == 1 else 's'}"


def _md_block(block: Block) -> Iterator[str]:
    match block:
        case Text() | Note():
            if block.heading:
                yield from (f"### {md(block.heading)}", "")
            if block.say:
                yield from (_md_line(block.say), "")
            if block.items:
                yield from (f"* {_md_line(item)}" for item in block.items)
                yield ""
            if isinstance(block, Text) and block.literal:
                yield from ("    " + line for line in block.literal.splitlines())
                yield ""
        case Table():
            if block.folded:
                yield from (
                    f"{md(block.caption)}: {_count(block)}, in [report.html](report.html#{block.id}).",
                    "",
                )
            elif block.rows:
                yield from (f"*{md(block.caption)}*", "", *table_markdown(block), "")
                if block.note:
                    yield from (_md_line(block.note), "")
        case Figure():
            pictures = " ".join(
                f"![{md(block.alt) if n == 1 else md(block.title)}](figures/{block.name}-{n}.png)"
                for n in range(1, len(block.panels) + 1)
            )
            yield from (pictures, "", f"**{md(block.title)}.** {md(block.caption)}", "")


def markdown(page: Page) -> str:
    """The page as Markdown: every part, without the rows of folded tables."""
    lines = [f"# {md(page.headline)}", "", " · ".join(md(one) for one in page.kicker), ""]
    for number, part in enumerate(page.parts, 1):
        lines += [f"## {number} · {md(part.title)}", ""]
        for block in part.blocks:
            lines += _md_block(block)
    lines.append(_md_line(page.foot))
    return "\n".join(lines).rstrip() + "\n"


# ------------------------------------------------------------------------------------------------------------- HTML
_ASSETS: Final = Path(__file__).with_name("templates")
_MARKS: Final = {
    "faster": "▲", "slower": "▼", "equivalent": "=", "too-noisy": "≈", "void": "∅", "overloaded": "▼",
    "unreliable": "✗", "holds": "✓", "does-not-hold": "✗", "ok": "✓", "bad": "✗", "warn": "!",
}  # fmt: skip


def _html_line(line: Line) -> Markup:
    return Markup("").join(map(_html_piece, _pieces(line)))


def _html_piece(piece: str | Span) -> Markup:
    if isinstance(piece, str):
        return escape(piece)
    if piece.word:
        return Markup('<span class="word {}">{} {}</span>').format(piece.word, _MARKS.get(piece.word, "–"), piece.text)
    if piece.href:
        return Markup('<a href="{}">{}</a>').format(piece.href, piece.text)
    form = {"strong": "<b>{}</b>", "code": "<code>{}</code>", "quiet": '<span class="quiet">{}</span>'}
    return Markup(form[piece.style or "quiet"]).format(piece.text)


def _html_words(block: Text | Note) -> Iterator[Markup]:
    if block.heading:
        yield Markup("<h3>{}</h3>").format(block.heading)
    if block.say:
        yield Markup("<p>{}</p>").format(_html_line(block.say))
    if block.items:
        items = Markup("").join(Markup("<li>{}</li>").format(_html_line(item)) for item in block.items)
        yield Markup("<ul>{}</ul>").format(items)
    if isinstance(block, Text) and block.literal:
        yield Markup('<pre tabindex="0">{}</pre>').format(block.literal)


def _html_table(table: Table) -> Iterator[Markup]:
    if not table.rows:
        return
    if table.folded:
        yield Markup('<details id="{}"><summary>{} ({})</summary>').format(table.id, table.caption, _count(table))
    yield Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{0}"><table class="data sort{1}"{2}>'
        "<caption>{0}</caption><thead><tr>"
    ).format(
        table.caption, " cards" if table.cards else "", "" if table.folded else Markup(' id="{}"').format(table.id)
    )
    for column in table.columns:
        kind = Markup(' class="n"') if column.number else ""
        hint = Markup(' title="{}"').format(column.about) if column.about else ""
        yield Markup('<th scope="col"{}{}>{}</th>').format(kind, hint, column.title)
    yield Markup("</tr></thead><tbody>\n")
    for number, row in enumerate(table.rows, 1):
        yield Markup('<tr id="{}-{}"{}>').format(table.id, number, Markup(' class="primary"') if row.primary else "")
        for place, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True)):
            yield _html_cell(cell, column, heads=not place, labelled=table.cards)
        yield Markup("</tr>\n")
    yield Markup("</tbody></table></div>")
    if table.note:
        yield Markup('<p class="note">{}</p>').format(_html_line(table.note))
    if table.folded:
        yield Markup("</details>")


def _html_cell(cell: Cell, column: Column, *, heads: bool, labelled: bool) -> Markup:
    kind = Markup(' class="n"') if column.number else ""
    number = "" if cell.value is None else f"{cell.value:.6g}"
    value = (
        Markup(' data-v="{}"').format(number) if number and number != cell.say else ""
    )  # else the text sorts as well
    hint = Markup(' title="{}"').format(cell.hint) if cell.hint else ""
    more = Markup(' <span class="ci">{}</span>').format(cell.more) if cell.more else ""
    inside = _html_line(cell.say) + more
    if heads:
        return Markup('<th scope="row"{}{}{}>{}</th>').format(kind, value, hint, inside)
    label = Markup(' data-label="{}"').format(column.title) if labelled else ""
    return Markup("<td{}{}{}{}>{}</td>").format(kind, value, hint, label, inside)


THEME: Final = {"#1b2431": "ink", "#5c6776": "muted", "#e4e8ed": "grid", "#fefefe": "paper"}
"""Colours of a figure's frame that the page replaces by its own, so that figures follow a dark theme."""


def _plot(figure: Figure, number: int, panel: Panel) -> Markup:
    """The SVG for use inside the page: ids of its own, theme colours, scaled by the page."""
    prefix = f"{figure.name}-{number}"

    def own_ids(tag: re.Match[str]) -> str:
        text = re.sub(r'\bid="', f'id="{prefix}-', tag.group())
        text = re.sub(r'href="#', f'href="#{prefix}-', text)
        return text.replace("url(#", f"url(#{prefix}-")

    svg = re.sub(r"<style.*?</style>", "", panel.svg, flags=re.S)
    svg = re.sub(r"<[^>]*>", own_ids, svg)
    opening = re.search(r"<svg[^>]*>", svg)
    assert opening is not None
    bare = re.sub(r' (width|height)="[\d.]+pt"', "", opening.group())
    label = (
        escape(f"{figure.title}. {figure.alt}")
        if number == 1
        else escape(f"{figure.title}, plot {number}: the words of its first plot hold here too")
    )
    svg = f'{bare[:-1]} role="img" aria-label="{label}">' + svg[opening.end() :]
    for colour, variable in THEME.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return Markup(svg)


def _html_figure(figure: Figure) -> Iterator[Markup]:
    yield Markup('<figure id="figure-{}" class="of-{}"><div class="plots">').format(
        figure.name, min(len(figure.panels), 3)
    )
    for number, panel in enumerate(figure.panels, 1):
        yield Markup('<div class="plot">{}</div>').format(_plot(figure, number, panel))
    links = Markup(", ").join(
        Markup('<a href="figures/{0}-{1}.png">{2}</a>').format(figure.name, n, "PNG" if n == 1 else n)
        for n in range(1, len(figure.panels) + 1)
    )
    yield Markup("</div><figcaption><b>{}.</b> {} {}</figcaption></figure>").format(figure.title, figure.caption, links)


def _html_block(block: Block) -> Iterator[Markup]:
    match block:
        case Text():
            yield from _html_words(block)
        case Note():
            yield Markup('<div class="box {}">').format(block.tone)
            yield from _html_words(block)
            yield Markup("</div>")
        case Table():
            yield from _html_table(block)
        case Figure():
            yield from _html_figure(block)


def _html_parts(parts: Iterable[Part]) -> Iterator[Markup]:
    for number, part in enumerate(parts, 1):
        yield Markup('<section id="{0}"><h2><span class="no">{1}</span> {2}</h2>\n').format(part.id, number, part.title)
        for block in part.blocks:
            yield from _html_block(block)
            yield Markup("\n")
        yield Markup("</section>\n")


_SKELETON: Final = Markup("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#{first}">Skip to the answer</a>
<div class="page">
<nav class="toc" aria-label="Parts of the report"><ol>
{toc}</ol></nav>
<main>
<header class="top"><p class="kicker">{kicker}</p><h1>{headline}</h1></header>
{parts}
<footer><p>{foot}</p></footer>
</main>
</div>
<script>{script}</script>
</body>
</html>
""")


def html(page: Page) -> str:
    """The page as one HTML file that needs nothing but itself."""
    script, style = ((_ASSETS / name).read_text(encoding="utf-8") for name in ("page.js", "style.css"))
    toc = (
        Markup('<li><a href="#{}"><span class="no">{}</span><span>{}</span></a></li>\n').format(one.id, n, one.title)
        for n, one in enumerate(page.parts, 1)
    )
    return _SKELETON.format(
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=page.title,
        headline=page.headline,
        style=Markup(style),
        first=page.parts[0].id,
        toc=Markup("").join(toc),
        kicker=Markup("").join(Markup("<span>{}</span>").format(one) for one in page.kicker),
        parts=Markup("").join(_html_parts(page.parts)),
        foot=_html_line(page.foot),
        script=Markup(script),
    )
