"""When CI fails: from what base and head were measured to do, to a word for each row, an exit code and the summary.

Three levels, cheapest first. **L0** promises (right bytes, accounting, prompt tokens): kept or not. **L1** counted
work: exact, so a small limit is enough. **L2** times, base and head interleaved with a second base: a row is red only
if its whole interval lies beyond the margin and the second base shows no such difference.

A row's word, and what it does to the exit code:

    pass, improvement     nothing
    not-measured          nothing: base lacks it, or a tool is not installed; said
    regression            1
    could-not-measure     2: unsteady counts, an unclean A/A arm, a void row, a machine too noisy to see anything
    void                  3: wrong answers, or base and head cannot be compared

3 beats 1 beats 2: a regression that was seen stays one, and after wrong answers no count means anything. Pure: the
measuring is `loadgen.gate`'s. The limits stand in gate.yaml.
"""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reports.compare import Blame, Comparison, Row, visible_text
from reports.schema import AA_SUFFIX, SCHEMA_VERSION, Json, RunRecord, Strict
from reports.store import ReportError, dump_json, write_atomically

BASE: Final = "base"
HEAD: Final = "head"
RECORD: Final = "gate.json"
SUMMARY: Final = "summary.md"
JUNIT: Final = "junit.xml"
COMMENT: Final = "comment.md"
COMMENT_MARK: Final = "<!-- proxy-engines gate -->"
"""First line of a comment, by which a bot finds its own one to replace it."""
_LEAST_ROUNDS: Final = 4
"""With so many sound rounds a row is judged although the bench spoilt others; its interval is as wide as it is."""
_LONGEST_COMMENT: Final = 60_000  # GitHub takes 65,536 characters, GitLab a million

Level = Literal["L0", "L1", "L2"]
Word = Literal["pass", "improvement", "not-measured", "regression", "could-not-measure", "void"]

PASSED, REGRESSION, COULD_NOT_MEASURE, VOID = 0, 1, 2, 3
_CODES: Final[dict[Word, int]] = {"regression": REGRESSION, "could-not-measure": COULD_NOT_MEASURE, "void": VOID}
_GRAVEST_FIRST: Final = (VOID, REGRESSION, COULD_NOT_MEASURE)


# -------------------------------------------------------------------------------------------------------- the policy
class CountLimit(Strict):
    """How much more head may count than base: a share, and a number in the unit; both must be exceeded."""

    limit: Annotated[float, Field(gt=0, lt=1)]
    floor: Annotated[float, Field(ge=0)]
    why: Annotated[str, Field(min_length=10)]


class TimeLimit(Strict):
    """How much worse head may be, and the smallest effect that must have been visible; shares of base."""

    margin: Annotated[float, Field(gt=0, lt=1)]
    blind: Annotated[float, Field(gt=0)]
    why: Annotated[str, Field(min_length=10)]


class LoadTime(Strict):
    """How long the gate loads each side with a scenario where nothing is planned, and what of it is judged."""

    duration_s: Annotated[float, Field(gt=0)]
    warmup_s: Annotated[float, Field(ge=0)]
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]


class Times(Strict):
    """The interleaved level."""

    rounds: Annotated[int, Field(ge=2, le=100)]
    pilot_rounds: Annotated[int, Field(ge=0, le=10)]
    half_width: Annotated[float, Field(gt=0, lt=1)]
    idle_s: Annotated[float, Field(ge=0.2)]
    budget_s: Annotated[float, Field(gt=0)]
    scenarios: dict[str, LoadTime]
    metrics: dict[str, TimeLimit]

    @model_validator(mode="after")
    def _every_metric_has_limits(self) -> Times:
        for name, span in self.scenarios.items():
            for metric in span.metrics:
                if metric not in self.metrics:
                    raise ValueError(f"times.scenarios.{name}: {metric} has no limits under times.metrics")
        return self


class Policy(Strict):
    """gate.yaml."""

    counts: dict[str, CountLimit]
    times: Times


@functools.cache
def policy() -> Policy:
    """The limits of gate.yaml."""
    return Policy.model_validate(_limits(Path(__file__).with_name("gate.yaml")))


def own_policy(file: Path) -> tuple[Policy, list[str]]:
    """The limits with what `file` changes of them, and each change as a sentence. A file holds only what it changes.

    Raises ReportError with file, key and value.
    """
    ours = policy().model_dump()
    theirs = _limits(file)
    differing = [_replace(ours, key, value, file) for key, value in _leaves(theirs)]
    try:
        found = Policy.model_validate(ours)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ReportError(f"{file}: {where}: {first['input']!r}: {first['msg']}") from exc
    return found, [sentence for sentence in differing if sentence]


def _limits(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ReportError(f"{file}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ReportError(f"{file}: not YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(data, dict):
        raise ReportError(f"{file}: holds no limits; see reports/gate.yaml for what can be set")
    return data


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        path = (*above, str(key))
        if isinstance(value, dict):
            yield from _leaves(value, path)
        else:
            yield path, value


def _replace(tree: dict[str, Any], key: tuple[str, ...], value: Any, file: Path) -> str:
    """Sets one limit; says so if it is another than before."""
    place: Any = tree
    for part in key[:-1]:
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict) or key[-1] not in place:
        dotted = ".".join(key)
        known = ", ".join(place) if isinstance(place, dict) else "those of reports/gate.yaml"
        raise ReportError(f"{file}: {dotted}: is no limit; known here are {known}")
    before, place[key[-1]] = place[key[-1]], value
    if key[-1] == "why" or before == value or list(before if isinstance(before, tuple) else ()) == value:
        return ""
    return f"limit {'.'.join(key)}: {value} instead of {before} ({file})"


# -------------------------------------------------------------------------------------------------------- the record
class GateRow(BaseModel):
    """One line of the table. `base` and `head` in `unit`; `change` is a share of base, or in `unit` where `unit` says.

    `ci_low`, `ci_high`: the interval of `change` (L2), or its smallest and largest over the counts taken (L1).
    `visible`: the smallest effect that would have been seen, in words.
    """

    model_config = ConfigDict(frozen=True)

    level: Level
    subject: str
    """The engine or target."""
    metric: str
    unit: str = ""
    base: float | None = None
    head: float | None = None
    change: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    relative: bool = True
    """Whether change and interval are shares; else they are in `unit`."""
    visible: str = ""
    limit: str = ""
    base_values: list[float] = Field(default_factory=list)
    """The single counts of L1, behind the medians."""
    head_values: list[float] = Field(default_factory=list)
    word: Word
    reason: str = ""


class Side(BaseModel):
    """One of the two that are compared."""

    model_config = ConfigDict(frozen=True)

    name: str
    """What was typed: a revision or a target."""
    revision: str = ""
    """The commit, in full."""
    subject: str = ""
    """The commit's first line."""


class GateRun(BaseModel):
    """gate.json: everything one gate run saw."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True, allow_inf_nan=False)

    schema_version: int = Field(default=SCHEMA_VERSION, alias="schema")
    id: str
    started: str
    base: str = ""
    head: str = ""
    versions: Json = Field(default_factory=dict)
    machine: Json = Field(default_factory=dict)
    counts: dict[str, dict[str, float]] = Field(default_factory=dict)
    """What L1 counted of head: benchmark -> counter -> value, e.g. instructions per request."""
    command: str = ""
    sides: dict[str, Side] = Field(default_factory=dict)
    machine_class: str = ""
    rows: list[GateRow] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """Sentences for people: what was not measured and why, a dirty tree."""
    seconds: float = 0.0
    exit_code: int = PASSED

    def judged(self, rows: Iterable[GateRow], *, all_measured: bool = False) -> GateRun:
        """The same run with these rows and the exit code they mean."""
        rows = list(rows)
        return self.model_copy(update={"rows": rows, "exit_code": exit_code(rows, all_measured=all_measured)})


def exit_code(rows: Iterable[GateRow], *, all_measured: bool = False) -> int:
    """0 pass, 1 regression, 2 could not measure, 3 void; 3 beats 1 beats 2. Rows that were not measured pass.

    `all_measured`: a metric that head should have and that nobody measured (a tool is not installed) is a 2, too.
    """
    found = {_CODES.get(row.word, PASSED) for row in rows}
    if all_measured:
        found |= {COULD_NOT_MEASURE for row in rows if row.word == "not-measured" and row.head is None}
    return next((code for code in _GRAVEST_FIRST if code in found), PASSED)


# ------------------------------------------------------------------------------------------------------------ L0
@dataclass(frozen=True, slots=True)
class Tried:
    """How one side did with one promise of L0. `kept` None: it lacks what it takes to try it."""

    kept: bool | None
    why: str = ""


def judge_promise(subject: str, promise: str, base: Tried, head: Tried, *, grave: bool) -> GateRow:
    """One promise of L0. `grave`: without it answers are wrong (void); else its loss is a regression."""
    word: Word
    if head.kept is None:
        word, reason = "not-measured", f"head: {head.why}"
    elif not head.kept and grave:
        word, reason = "void", f"head: {head.why}"
    elif not head.kept and base.kept is False:
        word, reason = "pass", f"kept by neither: {head.why}"
    elif not head.kept:
        word, reason = "regression", f"head: {head.why}"
    elif base.kept is False:
        # What base counts while it answers wrongly is nothing to compare with.
        word, reason = ("could-not-measure" if grave else "improvement"), f"base: {base.why}"
    else:
        word, reason = "pass", ""
    return GateRow(level="L0", subject=subject, metric=promise, word=word, reason=reason)


# ------------------------------------------------------------------------------------------------------------ L1
UNITS: Final = {
    "instructions_per_request": "instructions",
    "instructions_per_request_heads_differ": "instructions",
    "instructions_per_event": "instructions",
    "allocations_per_request": "allocations",
    "allocations_per_event": "allocations",
    "syscalls_per_1000_requests": "calls",
    "syscalls_per_1000_events": "calls",
    "gc_gen0_per_1000_requests": "collections",
}


def judge_count(
    subject: str,
    metric: str,
    base: Sequence[float],
    head: Sequence[float],
    limit: CountLimit,
    why_not: str = "",
    *,
    broken: bool = False,
) -> GateRow:
    """One count of L1, taken several times on each side. `why_not`: why one of them is empty; `broken`: the tool that
    counted base failed with head."""
    word: Word
    row: dict[str, Any] = {
        "level": "L1",
        "subject": subject,
        "metric": metric,
        "unit": UNITS[metric],
        "limit": f"+{limit.limit * 100:g} %" + (f", +{limit.floor:g}" if limit.floor else ""),
        "base": median(base) if base else None,
        "head": median(head) if head else None,
        "base_values": list(base),
        "head_values": list(head),
    }
    if not base or not head:
        word = "could-not-measure" if broken and base else "not-measured"
        return GateRow(**row, word=word, reason=why_not or f"{HEAD if base else BASE} has no such count")
    ours, theirs = median(base), median(head)
    if ours <= 0:
        row |= {"relative": False, "change": theirs - ours, "ci_low": min(head) - max(base)}
        row["ci_high"] = max(head) - min(base)
    else:
        row |= {"change": theirs / ours - 1, "ci_low": min(head) / max(base) - 1, "ci_high": max(head) / min(base) - 1}
    if exceeds(head, base, limit):
        return GateRow(**row, word="regression", reason="every count of head is above every count of base by more")
    if exceeds([theirs], [ours], limit):
        spread = "the counts of one side differ among themselves by as much"
        return GateRow(**row, word="could-not-measure", reason=f"unsteady: {spread}")
    word = "improvement" if exceeds(base, head, limit) else "pass"
    return GateRow(**row, word=word)


def exceeds(more: Sequence[float], less: Sequence[float], limit: CountLimit) -> bool:
    """Whether the smallest of `more` is above the largest of `less` by more than share and floor."""
    low, high = min(more), max(less)
    return low - high > limit.floor and low > high * (1 + limit.limit)


# ------------------------------------------------------------------------------------------------------------ L2
def judge_times(
    subject: str, comparison: Comparison, times: Times, would_take: Mapping[tuple[str, str], str] | None = None
) -> list[GateRow]:
    """The rows of an interleaved campaign whose targets are `base` (with its A/A arm) and `head`.

    `would_take`: by scenario and metric, a sentence about what a row that stays short of the planned precision needs.
    """
    rows = []
    for scenario, span in times.scenarios.items():
        for metric in span.metrics:
            row = comparison.row(scenario, metric, HEAD)
            if row is None:
                reason = "no run of it is on file"
                where = f"{subject} · {scenario}"
                rows.append(GateRow(level="L2", subject=where, metric=metric, word="could-not-measure", reason=reason))
            else:
                needs = (would_take or {}).get((scenario, metric), "")
                rows.append(_judge_time(subject, comparison, row, times.metrics[metric], needs))
    return rows


def judge_before(subject: str, records: Iterable[RunRecord]) -> list[GateRow]:
    """Rows about what was not counted, calibration and pilot: where a side changed a reply, nothing need be timed."""
    rows = []
    for record in records:
        word: Word = "void" if record.target == HEAD else "could-not-measure"
        if record.wrong_replies:
            reason = f"{record.target} changed replies: {record.why} (in {record.run})"
            rows.append(GateRow(level="L2", subject=subject, metric="replies", word=word, reason=reason))
    return rows


def _judge_time(subject: str, seen: Comparison, row: Row, limit: TimeLimit, needs: str) -> GateRow:
    relative = row.basis == "ratio"
    scale = 1.0 if relative else abs(row.baseline.value or 0.0)
    margin, blind = limit.margin * scale, limit.blind * scale
    said: dict[str, Any] = {
        "level": "L2",
        "subject": f"{subject} · {row.scenario}",
        "metric": row.metric,
        "unit": row.spec.unit,
        "base": row.baseline.value,
        "head": row.candidate.value,
        "relative": relative,
        "visible": visible_text(row) if row.visible is not None else "",
        "limit": f"{limit.margin * 100:g} %" if relative else f"{margin:.3g} {row.spec.unit}",
    }
    spoilt = _spoilt(seen, row)
    if spoilt is not None:
        return GateRow(**said, **spoilt)
    if row.effect is None or (row.verdict == "void" and row.rounds < _LEAST_ROUNDS):
        return GateRow(**said, word="could-not-measure", reason=row.reason or "too few valid rounds")
    change, low, high = row.effect
    said |= {"change": change, "ci_low": low, "ci_high": high}
    if row.spec.higher_is_better:
        low, high = -high, -low  # from here on more is worse
    again = seen.row(row.scenario, row.metric, BASE + AA_SUFFIX)
    if again is None or again.effect is None:
        return GateRow(**said, word="could-not-measure", reason="the second base was not measured")
    slower = low > margin
    if _differs(again, margin, slower=slower):
        assert again.effect is not None
        found = _shown(again.effect[0], again.basis == "ratio", row.spec.unit)
        return GateRow(**said, word="could-not-measure", reason=f"base differs from itself by {found} (A/A)")
    if slower:
        return GateRow(**said, word="regression", reason="the whole interval lies beyond the margin")
    if row.visible is not None and row.visible > blind and high > margin:
        reason = f"too noisy: effects under {visible_text(row)} are not visible here" + (f"; {needs}" if needs else "")
        return GateRow(**said, word="could-not-measure", reason=reason)
    return GateRow(**said, word="improvement" if high < -margin else "pass")


def _differs(again: Row, margin: float, *, slower: bool) -> bool:
    """Whether the second base differs from the first, so that a word about head cannot be trusted.

    To call head slower it takes a base that is like itself: its interval must hold 0 or its estimate lie within the
    margin. Equal code breaks that now and then where intervals are wide. So where head is not slower, the whole
    interval of the second base must lie beyond the margin, as for head itself.
    """
    if again.effect is None:
        return False
    change, low, high = again.effect
    if slower:
        return (low > 0 or high < 0) and abs(change) > margin
    return low > margin or high < -margin


def _spoilt(seen: Comparison, row: Row) -> dict[str, Any] | None:
    """Word and reason where head or base did wrong, whatever the times say; None where neither did.

    One wrong reply of head is `void`. A head that fails, or that cannot carry the load which base carries, is a
    regression.
    """
    head = seen.blames.get((row.scenario, HEAD))
    if head is not None and head.wrong_replies:
        return {"word": "void", "reason": head.say}
    for name in (BASE, BASE + AA_SUFFIX):
        blame = seen.blames.get((row.scenario, name))
        if blame is not None and _decides(blame):
            return {"word": "could-not-measure", "reason": blame.say}
    why = head.say if head is not None and _decides(head) else _fails_always(seen, row.scenario)
    return None if why is None else {"word": "regression", "reason": f"head fails where base does not: {why}"}


def _decides(blame: Blame) -> bool:
    """Whether it says something of the target: one of several rounds not carried may be a pause of the machine."""
    hiccup = not blame.failed and not blame.drifts and blame.overloaded < min(2, blame.rounds)
    return blame.word is not None and (bool(blame.wrong_replies) or not hiccup)


def _fails_always(seen: Comparison, scenario: str) -> str | None:
    """What head did wrong in each of two rounds or more, in none of which base did; else None.

    Rounds that the bench spoilt count, too: it was as late for base, which carried its load all the same.
    """
    if any(_faults(seen, scenario, name) != [] for name in (BASE, BASE + AA_SUFFIX)):
        return None
    faults = _faults(seen, scenario, HEAD)
    runs = len(seen.valid.get((scenario, HEAD), ())) + len(seen.voided.get((scenario, HEAD), ()))
    return f"in all {runs} rounds: {faults[0]}" if runs > 1 and len(faults) == runs else None


def _faults(seen: Comparison, scenario: str, target: str) -> list[str]:
    """The first sentence of each run in which the target failed a check that it is to blame for."""
    place = scenario, target
    every = [*seen.valid.get(place, ()), *(facts for facts, _ in seen.voided.get(place, ()))]
    failed = [[check for check in facts.record.validity if check.blame == "target" and not check.ok] for facts in every]
    return [checks[0].text or checks[0].check for checks in failed if checks]


# -------------------------------------------------------------------------------------------------------------- files
def write_run(folder: Path, run: GateRun) -> None:
    """gate.json, summary.md, comment.md and junit.xml. Raises ReportError where the disk refuses."""
    write_atomically(folder / RECORD, dump_json(run.model_dump(mode="json")))
    write_atomically(folder / SUMMARY, summary(run).encode())
    write_atomically(folder / COMMENT, comment(run).encode())
    write_atomically(folder / JUNIT, junit(run))


_MARKS: Final[dict[Word, str]] = {
    "pass": "✅ pass",
    "improvement": "✅ better",
    "not-measured": "➖ not measured",
    "regression": "❌ regression",
    "could-not-measure": "⚠️ could not measure",
    "void": "❌ void",
}

_HEADLINES: Final = {
    PASSED: "No regression",
    REGRESSION: "Regression",
    COULD_NOT_MEASURE: "Could not measure",
    VOID: "Void",
}


def headline(run: GateRun) -> str:
    """The verdict in one sentence."""
    gravest = [row for row in run.rows if _CODES.get(row.word, PASSED) == run.exit_code and run.exit_code]
    if not gravest:
        measured = sum(row.word in ("pass", "improvement") for row in run.rows)
        if run.exit_code == PASSED:
            return f"No regression in {measured} rows"
        return f"{_HEADLINES[run.exit_code]}: {run.notes[-1] if run.notes else 'nothing was measured'}"
    first = gravest[0]
    more = f" and {len(gravest) - 1} more" if len(gravest) > 1 else ""
    change = f" {_shown(first.change, first.relative, first.unit)}" if first.change is not None else ""
    reason = f": {first.reason}" if first.reason else ""
    return f"{_HEADLINES[run.exit_code]}: {first.subject} {first.metric}{change}{more}{reason}"


def summary(run: GateRun) -> str:
    """Markdown for a pull request: the verdict, the rows that matter, all rows, what was not measured."""
    lines = [f"## Performance gate: {_plain(headline(run))}", "", _sides(run), ""]
    loud = [row for row in run.rows if row.word not in ("pass", "not-measured")]
    if loud:
        lines += [*_table(loud), ""]
    if run.rows:
        lines += ["<details><summary>All rows</summary>", "", *_table(run.rows), "", "</details>", ""]
    lines += [f"- {_plain(note)}" for note in run.notes]
    lines += ["", f"{run.machine_class}, {run.seconds:.0f} s. Counts: change with its smallest and largest over all "
              "counts taken. Times: change with its 95 % interval; `sees` is the smallest effect that would have "
              "been seen."]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def comment(run: GateRun) -> str:
    """The summary as a comment on a pull request: marked, and cut where a server would refuse it."""
    text = f"{COMMENT_MARK}\n{summary(run)}"
    if len(text) <= _LONGEST_COMMENT:
        return text
    whole_lines = text[:_LONGEST_COMMENT].rsplit("\n", 1)[0]
    return f"{whole_lines}\n\nCut here; all rows are in {SUMMARY}.\n"


def _sides(run: GateRun) -> str:
    parts = []
    for side in (BASE, HEAD):
        found = run.sides.get(side)
        if found is not None:
            commit = f" `{found.revision[:12]}`" if found.revision else ""
            about = f" ({_plain(found.subject)})" if found.subject else ""
            parts.append(f"{side}: {_plain(found.name)}{commit}{about}")
    return " · ".join(parts)


def _table(rows: Sequence[GateRow]) -> list[str]:
    lines = ["| | what | metric | base | head | change | sees | limit | |", "|---|---|---|--:|--:|--:|--:|--:|---|"]
    for row in rows:
        cells = (
            row.level, row.subject, row.metric, figure(row.base), figure(row.head), change_text(row), row.visible,
            row.limit, _MARKS[row.word] + (f": {row.reason}" if row.reason else ""),
        )  # fmt: skip
        lines.append(f"| {' | '.join(_plain(cell) for cell in cells)} |")
    return lines


def _plain(text: str) -> str:
    """Text that cannot end a table's cell or start markup: commit messages and replies are not ours."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def figure(value: float | None) -> str:
    """A number for a table, empty for none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def change_text(row: GateRow) -> str:
    """The change with its interval, empty for none."""
    if row.change is None:
        return ""
    text = _shown(row.change, row.relative, row.unit)
    if row.ci_low is None or row.ci_high is None:
        return text
    return f"{text} ({_shown(row.ci_low, row.relative, '')} .. {_shown(row.ci_high, row.relative, '')})"


def _shown(change: float, relative: bool, unit: str) -> str:
    if relative:
        return f"{change * 100:+.2f} %"
    return f"{change:+.3g} {unit}".rstrip()


def junit(run: GateRun) -> bytes:
    """JUnit XML: a test case a row. Void rows and those that could not be measured are errors, not failures."""
    root = ET.Element("testsuites", name="performance gate")
    levels: Mapping[str, list[GateRow]] = {level: [r for r in run.rows if r.level == level] for level in _levels(run)}
    for level, rows in levels.items():
        suite = ET.SubElement(root, "testsuite", name=f"gate {level}", tests=str(len(rows)), time="0")
        for kind, words in (("failures", {"regression"}), ("errors", {"void", "could-not-measure"})):
            suite.set(kind, str(sum(row.word in words for row in rows)))
        suite.set("skipped", str(sum(row.word == "not-measured" for row in rows)))
        for row in rows:
            case = ET.SubElement(suite, "testcase", classname=f"gate.{level}.{row.subject}", name=row.metric, time="0")
            change = "" if row.change is None else f" {_shown(row.change, row.relative, row.unit)}, limit {row.limit}"
            text = f"{row.word}:{change} {row.reason}".strip()
            if row.word == "regression":
                ET.SubElement(case, "failure", message=text)
            elif row.word in ("void", "could-not-measure"):
                ET.SubElement(case, "error", message=text)
            elif row.word == "not-measured":
                ET.SubElement(case, "skipped", message=text)
    ET.indent(root)
    found: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return found


def _levels(run: GateRun) -> list[str]:
    return sorted({row.level for row in run.rows})
