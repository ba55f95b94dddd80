"""Rows: what was measured is what the shard holds, in the columns and types that `reports` declares."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from loadgen.wire.rows import (
    EVENT_COLUMNS,
    REQUEST_COLUMNS,
    REQUEST_ROW,
    EventRows,
    RequestRows,
    Texts,
)
from loadgen.wire.shards import REQUESTS
from loadgen.wire.stream import EVENT_ROW, NEVER
from reports import schema
from reports.store import merge_shards


def request_row(**values: int) -> bytes:
    return REQUEST_ROW.pack(*[values.get(name, NEVER) for name in REQUEST_COLUMNS])


def test_a_shard_has_the_columns_of_the_result_format_and_nulls_where_nothing_was(tmp_path: Path) -> None:
    rows = RequestRows(tmp_path / "spill")
    endpoint, error = rows.endpoints.code(b"mock-0"), rows.errors.code("went wrong")
    full = {name: 1000 + at for at, name in enumerate(REQUEST_COLUMNS)}
    full |= {"endpoint": endpoint, "error": error, "outcome": 5, "digest_ok": 0, "warmup": 1, "status": 200}
    rows.append(request_row(**full))
    rows.append(request_row(request_id=2**62, outcome=1, bytes_in=0, bytes_out=0, warmup=0))
    rows.write(tmp_path / "requests-3.parquet", scenario="chat")
    rows.close()
    table = pq.read_table(tmp_path / "requests-3.parquet")
    assert table.schema.names[: len(schema.REQUESTS.names)] == schema.REQUESTS.names
    for field in schema.REQUESTS:
        assert table.schema.field(field.name).equals(field)
    assert table.schema.metadata == schema.REQUESTS.metadata
    first, second = table.to_pylist()
    assert {name: first[name] for name in ("endpoint", "error", "outcome", "digest_ok", "warmup", "status")} == {
        "endpoint": "mock-0",
        "error": "went wrong",
        "outcome": "wrong_reply",
        "digest_ok": False,
        "warmup": True,
        "status": 200,
    }
    assert (first["scenario"], first["worker"], first["sent_ns"]) == ("chat", 0, full["sent_ns"])
    assert (second["request_id"], second["outcome"], second["warmup"]) == (2**62, "refused", False)
    nothing = set(second) - {"request_id", "worker", "scenario", "outcome", "bytes_in", "bytes_out", "warmup"}
    assert all(second[name] is None for name in nothing)


def test_events_keep_their_columns_and_an_unknown_clock_is_null(tmp_path: Path) -> None:
    rows = EventRows(tmp_path / "spill")
    rows.append(EVENT_ROW.pack(1, 0, 5, 6, 7, 0))
    rows.append(EVENT_ROW.pack(1, 1, NEVER, 8, 9, 1))
    rows.write(tmp_path / "events-0.parquet")
    table = pq.read_table(tmp_path / "events-0.parquet")
    assert table.schema.equals(schema.EVENTS, check_metadata=True)
    assert tuple(table.schema.names) == EVENT_COLUMNS
    assert table.to_pylist()[1] == {
        "request_id": 1,
        "seq": 1,
        "mock_ns": None,
        "read_ns": 8,
        "bytes": 9,
        "read_index": 1,
    }
    rows.close()


def test_the_rows_of_a_driver_become_a_table_of_the_store(tmp_path: Path) -> None:
    rows = RequestRows(tmp_path / "spill")
    for number in range(10):
        rows.append(request_row(request_id=number, outcome=0, bytes_in=1, bytes_out=1, warmup=0))
    rows.write(tmp_path / REQUESTS, scenario="s")
    rows.close()
    merge_shards(tmp_path, "requests")
    merged = pq.read_table(tmp_path / "requests.parquet").to_pylist()
    assert sorted((row["request_id"], row["worker"]) for row in merged) == [(n, 0) for n in range(10)]


def test_rows_spilled_in_parts_are_all_there_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.wire.rows._ROWS_A_GROUP", 7)
    rows = EventRows(tmp_path / "spill")
    for begin in range(0, 50, 10):
        for number in range(begin, begin + 10):
            rows.append(EVENT_ROW.pack(number, 0, 0, 0, 0, 0))
        assert rows.spill()[:, 0].tolist() == list(range(begin, begin + 10))
        assert rows.spill().shape == (0, 6)
    rows.append(EVENT_ROW.pack(50, 0, 0, 0, 0, 0))
    assert len(rows) == 51
    assert [number for group in rows.groups() for number in group[:, 0].tolist()] == list(range(51))
    rows.write(tmp_path / "events-0.parquet")
    assert pq.read_table(tmp_path / "events-0.parquet").column("request_id").to_pylist() == list(range(51))
    rows.close()
    assert not (tmp_path / "spill").exists()


def test_a_table_of_texts_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.wire.rows._MOST_TEXTS", 3)
    texts = Texts()
    codes = [texts.code(f"error {n}") for n in range(10)]
    assert codes == [0, 1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert texts.code("error 1") == 1
    assert len(texts.texts) == 4
