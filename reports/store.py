"""Campaign folders: written whole or not at all, read with suspicion.

For producers::

    campaign = Campaign.create(folder, header)              # makes folder/runs and campaign.json; refuses a used one
    name = run_name(3, "chat-stream", "olla")
    out = run_folder(folder, name)                          # made if absent; workers write their shards here
    write_run(folder, RunRecord(run=name, ...),             # merges shards, writes the given tables, run.json last
              runtime=gc_and_stalls, usage=samples)
    update_header(folder, state="complete")
    discard_run(folder, name)                               # what an interrupted run left, before it is run again

A table may be a pandas DataFrame or a pyarrow Table; columns beyond the schema are kept. `requests`/`events` may be
left out when the workers have written `requests-<worker>.parquet` / `events-<worker>.parquet` into the run's folder.

For readers: `load_campaign(folder)` gives a Campaign with its runs in order; a run reads its tables when asked.
Everything unreadable raises ReportError: one sentence with the file, what is wrong and what to do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from reports.schema import (
    AA_SUFFIX,
    SCHEMA_VERSION,
    TABLES,
    CampaignHeader,
    Check,
    RunRecord,
    ScenarioRecord,
    outcome_of,
    safe_name,
    table_kind,
    table_version,
)

Table: TypeAlias = "pd.DataFrame | pa.Table"

RUNS: Final = Path("reports/runs")
"""Where a command puts its folder when none is named."""
MAX_JSON_BYTES: Final = 16 << 20
MAX_ROWS: Final = 50_000_000
"""Per table of one run. Above it something other than a measurement was written; reading it would exhaust memory."""


class ReportError(Exception):
    """A result file that cannot be used. The text is one sentence for people; `exit_code` is for the shell."""

    exit_code = 65


# ---------------------------------------------------------------------------------------------------------- writing
def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader, or a crash, sees the old file or the new one and never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise ReportError(
            f"{path}: cannot be written ({exc.strerror or exc}); check the folder and free space"
        ) from exc


def dump_json(value: object) -> bytes:
    """Readable JSON with a final newline. ValueError if it holds NaN or Infinity."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write_record(path: Path, record: BaseModel) -> None:
    # Dumping for JSON turns NaN and Infinity into null: not measured.
    write_atomically(path, dump_json(record.model_dump(mode="json")))


def _as_arrow(kind: str, table: Table, where: Path, only: list[str] | None = None) -> pa.Table:
    """`table` with the declared columns (or `only` some) in the declared types, then whatever else it had."""
    whole = TABLES[kind]
    declared = whole if only is None else pa.schema([whole.field(name) for name in only], metadata=whole.metadata)
    arrow = pa.Table.from_pandas(table, preserve_index=False) if isinstance(table, pd.DataFrame) else table
    missing = [name for name in declared.names if name not in arrow.column_names]
    if missing:
        raise ReportError(f"{where}: column {missing[0]!r} is missing from the {kind} table")
    extra = [name for name in arrow.column_names if name not in declared.names]
    columns, fields = [], []
    for target in declared:
        column = arrow.column(target.name)
        try:
            column = column.cast(target.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            raise ReportError(f"{where}: column {target.name!r} does not hold {target.type} ({exc})") from exc
        if not target.nullable and column.null_count:
            raise ReportError(f"{where}: column {target.name!r} has {column.null_count} nulls where none is allowed")
        columns.append(column)
        fields.append(target)
    for name in extra:
        columns.append(arrow.column(name))
        fields.append(pa.field(name, arrow.schema.field(name).type))
    return pa.table(columns, schema=pa.schema(fields, metadata=declared.metadata))


def _write_table(path: Path, kind: str, table: Table) -> None:
    arrow = _as_arrow(kind, table, path)
    if kind == "requests" and arrow.num_rows:
        ids = arrow.column("request_id").to_pandas()
        if not ids.is_unique:
            twice = int(ids[ids.duplicated()].iloc[0])
            raise ReportError(f"{path}: request_id {twice} occurs twice; ids must be unique over all workers of a run")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(
            arrow,
            temporary,
            compression="zstd",
            # Clocks and counters differ little from row to row: a third smaller, events read in a third of the time.
            use_dictionary=[field.name for field in arrow.schema if pa.types.is_string(field.type)],
            column_encoding={
                field.name: "DELTA_BINARY_PACKED"
                for field in arrow.schema
                if pa.types.is_int64(field.type) or pa.types.is_int32(field.type)
            },
        )
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise ReportError(
            f"{path}: cannot be written ({exc.strerror or exc}); check the folder and free space"
        ) from exc


def run_folder(campaign_dir: Path, run: str) -> Path:
    """The folder of `run`, made if absent. ReportError if the name would leave the campaign's folder."""
    if safe_name(run) != run:
        raise ReportError(f"run name {run!r} is not a plain file name; make it with reports.schema.run_name")
    folder = campaign_dir / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def discard_run(campaign_dir: Path, run: str) -> None:
    """Remove what an interrupted run left, before it is run again. ReportError if the run was finished."""
    folder = run_folder(campaign_dir, run)
    if (folder / "run.json").exists():
        raise ReportError(f"{folder}: this run is finished and is kept")
    shutil.rmtree(folder)


def write_run(
    campaign_dir: Path,
    run: RunRecord,
    requests: Table | None = None,
    *,
    events: Table | None = None,
    runtime: Table | None = None,
    usage: Table | None = None,
) -> Path:
    """Write one run: tables first (shards in its folder are merged), run.json last. Returns the run's folder.

    ReportError when the run is already there, when a table does not fit the schema, or when the disk refuses.
    """
    folder = run_folder(campaign_dir, run.run)
    if (folder / "run.json").exists():
        raise ReportError(f"{folder}: this run is already written; a repeat is a new round")
    given = {"requests": requests, "events": events, "runtime": runtime, "usage": usage}
    for kind, table in given.items():
        if table is not None:
            _write_table(folder / f"{kind}.parquet", kind, table)
        else:
            merge_shards(folder, kind)
    _write_record(folder / "run.json", run)
    return folder


def merge_shards(folder: Path, kind: str) -> None:
    """Join `<kind>-*.parquet` into `<kind>.parquet` and remove them. The joined file wins if a crash left both."""
    shards = sorted(folder.glob(f"{kind}-*.parquet"))
    joined = folder / f"{kind}.parquet"
    if shards and not joined.exists():
        tables = [_read_arrow(shard, kind) for shard in shards]
        _write_table(joined, kind, pa.concat_tables(tables, promote_options="default"))
    for shard in shards:
        shard.unlink()


def update_header(campaign_dir: Path, **changes: object) -> CampaignHeader:
    """Rewrite campaign.json with `changes`, e.g. state="complete". Returns the new header."""
    header = read_record(campaign_dir / "campaign.json", CampaignHeader)
    changed = CampaignHeader.model_validate({**header.model_dump(mode="json"), **changes})
    _write_record(campaign_dir / "campaign.json", changed)
    return changed


# ---------------------------------------------------------------------------------------------------------- reading
_Model = TypeVar("_Model", bound=BaseModel)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def read_json(path: Path) -> Any:
    """The JSON value in `path`. ReportError if it is absent, truncated, huge, not UTF-8 or holds NaN."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ReportError(f"{path}: {size} bytes is too large to be one of our files (limit {MAX_JSON_BYTES})")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError as exc:
        raise ReportError(f"{path}: no such file; is this a campaign folder?") from exc
    except OSError as exc:
        raise ReportError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    except (ValueError, RecursionError) as exc:
        raise ReportError(f"{path}: not readable as JSON ({exc}); the file is truncated or not ours") from exc


def read_record(path: Path, model: type[_Model]) -> _Model:
    """One of our JSON files as `model`. ReportError if it is foreign, newer, or a key does not hold what it should."""
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("schema"), int):
        raise ReportError(f'{path}: not one of our files: it has no number under "schema"')
    if value["schema"] > SCHEMA_VERSION:
        raise ReportError(
            f"{path}: written with schema {value['schema']}, this version reads up to {SCHEMA_VERSION}; "
            "use a newer proxy-engines"
        )
    try:
        return model.model_validate(upgraded(value) if model is RunRecord else value)
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise ReportError(f"{path}: {key}: {first['msg']}") from exc


def upgraded(run: dict[str, Any]) -> dict[str, Any]:
    """A run.json of any known schema as the newest one has it; what cannot be read is left for the model to refuse.

    1 -> 2: `void_reason` named what went wrong whoever was to blame; now only the bench's faults void.
    """
    checks = run.get("validity", [])
    if run["schema"] > 1 or run.get("void_reason") is None or not isinstance(checks, list):
        return run
    try:
        outcome = outcome_of([Check.model_validate(check) for check in checks])
    except ValidationError:
        return run
    if outcome in ("ok", "void"):  # a reason without a failed check: nobody said whose fault it was
        return {**run, "outcome": "void"}
    return {**run, "outcome": outcome, "void_reason": None, "fault": run["void_reason"]}


def _read_arrow(path: Path, kind: str, columns: list[str] | None = None) -> pa.Table:
    """A table with the columns of `kind` at least, or just `columns`. ReportError if it is not that."""
    declared = TABLES[kind]
    try:
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow
            version, stated = table_version(found), table_kind(found)
            if version is not None and version > SCHEMA_VERSION:
                raise ReportError(
                    f"{path}: written with schema {version}, this version reads up to {SCHEMA_VERSION}; "
                    "use a newer proxy-engines"
                )
            if stated is not None and stated != kind:
                raise ReportError(f"{path}: holds a {stated} table where {kind} is expected")
            if file.metadata.num_rows > MAX_ROWS:
                raise ReportError(f"{path}: {file.metadata.num_rows} rows, more than {MAX_ROWS} in one run")
            missing = [name for name in declared.names if name not in found.names]
            if missing:
                raise ReportError(f"{path}: column {missing[0]!r} is missing; not one of our {kind} tables")
            table = file.read(columns, use_threads=False)  # most tables are small: threads would cost more
    except (pa.ArrowException, OSError, ValueError) as exc:
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise ReportError(f"{path}: not readable as parquet ({reason}); the file is truncated or not ours") from exc
    return _as_arrow(kind, table, path, columns)


_PANDAS_TYPES: Final[dict[pa.DataType, Any]] = {
    # int64 with nulls stays int64: floats would lose nanoseconds after 104 days of uptime.
    pa.int64(): pd.Int64Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def _as_pandas(table: pa.Table) -> pd.DataFrame:
    # Texts repeat: as categories they are decoded once each, not once a row.
    words = [place for place, column in enumerate(table.schema) if pa.types.is_string(column.type)]
    for place in words:
        table = table.set_column(place, table.schema.field(place).name, table.column(place).dictionary_encode())
    frame: pd.DataFrame = table.to_pandas(types_mapper=_PANDAS_TYPES.get, use_threads=False)
    return frame


def as_read(kind: str, table: Table) -> pd.DataFrame:
    """`table` with the types it will have when read back. ReportError if it does not fit the schema of `kind`."""
    return _as_pandas(_as_arrow(kind, table, Path(kind)))


@dataclass(frozen=True, slots=True)
class Run:
    """One run on disk. Tables are read at each call and not kept: a campaign does not fit in memory twice.

    A producer may make one before run.json is written, to measure what its workers wrote.
    """

    path: Path
    record: RunRecord

    def table(self, kind: str, columns: list[str] | None = None) -> pd.DataFrame | None:
        """The table of `kind` (see schema.TABLES) or None if the run has none; only `columns` if given."""
        joined = self.path / f"{kind}.parquet"
        files = [joined] if joined.exists() else sorted(self.path.glob(f"{kind}-*.parquet"))
        if not files:
            return None
        table = pa.concat_tables([_read_arrow(file, kind, columns) for file in files], promote_options="default")
        return _as_pandas(table)

    @property
    def name(self) -> str:
        """The run's name, its folder under runs/."""
        return self.record.run

    @property
    def is_aa(self) -> bool:
        """Whether this run is the baseline's second arm."""
        return self.record.target.endswith(AA_SUFFIX)


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign folder: its header, its finished runs ordered by round and position, and what was left unfinished."""

    path: Path
    header: CampaignHeader
    runs: tuple[Run, ...] = ()
    unfinished: tuple[str, ...] = field(default=())
    """Folders under runs/ without a run.json: interrupted, named in the report, never measured."""

    @classmethod
    def create(cls, path: Path, header: CampaignHeader) -> Campaign:
        """Make the folder and write campaign.json. ReportError if a campaign is already there."""
        if (path / "campaign.json").exists():
            raise ReportError(f"{path}: a campaign is already there; resume it or choose another folder")
        try:
            (path / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ReportError(f"{path}: cannot be made ({exc.strerror or exc})") from exc
        _write_record(path / "campaign.json", header)
        return cls(path, header)

    def scenario(self, name: str) -> ScenarioRecord:
        """The scenario called `name`; an empty one if the header does not describe it."""
        return self.header.scenarios.get(name) or ScenarioRecord()


def load_campaign(path: Path) -> Campaign:
    """Read a campaign folder. ReportError if it is not one, or if its runs cannot be compared with each other."""
    if not path.is_dir():
        raise ReportError(f"{path}: no such folder")
    header = read_record(path / "campaign.json", CampaignHeader)
    runs: list[Run] = []
    unfinished: list[str] = []
    folders = sorted(entry for entry in (path / "runs").iterdir() if entry.is_dir()) if (path / "runs").is_dir() else []
    for folder in folders:
        if not (folder / "run.json").exists():
            unfinished.append(folder.name)
            continue
        record = read_record(folder / "run.json", RunRecord)
        if record.run != folder.name:
            raise ReportError(f"{folder / 'run.json'}: says it is run {record.run!r}; the folder was renamed or copied")
        runs.append(Run(folder, record))
    runs.sort(key=lambda run: (run.record.round, run.record.order, run.name))
    _refuse_mixtures(header, runs)
    return Campaign(path, header, tuple(runs), tuple(unfinished))


def _refuse_mixtures(header: CampaignHeader, runs: list[Run]) -> None:
    """Runs that stand for the same thing must have run the same thing; otherwise name the first field that differs."""
    first: dict[tuple[str, ...], tuple[object, str]] = {}

    def same(field_name: str, run: Run, value: object, *scope: str) -> None:
        if value is None or value == {}:
            return
        seen, where = first.setdefault((field_name, *scope), (value, run.name))
        if seen == value:
            return
        if isinstance(seen, Mapping) and isinstance(value, Mapping):
            part = next(key for key in sorted({*seen, *value}) if seen.get(key) != value.get(key))
            field_name, seen, value = f"{field_name}.{part}", seen.get(part), value.get(part)
        raise ReportError(
            f"{run.path / 'run.json'}: {field_name} is {value!r} but {seen!r} in {where}; "
            f"runs that differ in {field_name} cannot be mixed in one report"
        )

    for run in runs:
        record = run.record
        target = record.target.removesuffix(AA_SUFFIX)
        stated = header.config_hashes.get(f"{record.scenario}/{target}") or header.config_hashes.get(target)
        if stated is not None:
            first.setdefault(("config_hash", record.scenario, target), (stated, "campaign.json"))
        same("config_hash", run, record.config_hash, record.scenario, target)
        same("module_hash", run, record.module_hash, target)
        same("versions", run, record.versions, target)
        same("generator", run, record.generator, record.scenario, target)
        seen_twice = first.setdefault(
            ("round", record.scenario, record.target, str(record.round)), (run.name, run.name)
        )
        if seen_twice[0] != run.name:
            raise ReportError(
                f"{run.path / 'run.json'}: round {record.round} of {record.target} in {record.scenario} is also "
                f"in {seen_twice[0]}; a repeat must be a new round"
            )
