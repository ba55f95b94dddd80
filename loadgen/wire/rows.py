"""Measured rows: kept as plain integers while measuring, written as parquet at the end.

While a test runs nothing may cost more than it must: a row is one packed `bytes` (nothing for the garbage collector to
walk), texts are numbers of a small table, and what has piled up is appended to a spill file ten times a second, so
that an hour of streaming needs no more memory than a second of it. `write` turns the spill file into the shard that
`reports.store` merges.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from loadgen.wire.stream import NEVER
from reports.schema import EVENTS, OUTCOMES, REQUESTS

Ints64 = npt.NDArray[np.int64]

OK, REFUSED, TIMEOUT, RESET, TRUNCATED, WRONG_REPLY, CLIENT_CANCELLED = range(len(OUTCOMES))

# One request, in this order. Codes are numbers into `Texts` tables or OUTCOMES; NEVER (-1) is null.
REQUEST_COLUMNS: Final = (
    "request_id",
    "endpoint",
    "intended_ns",
    "sent_ns",
    "first_byte_ns",
    "first_event_ns",
    "end_ns",
    "status",
    "outcome",
    "error",
    "bytes_in",
    "bytes_out",
    "events",
    "digest_ok",
    "mock_recv_ns",
    "mock_sent_ns",
    "warmup",
    # Beyond the common schema:
    "dispatched_ns",  # when the driver took the request up: before it looked for, opened or waited for a connection
    "template",  # which of the job's templates
    "connection",  # number of the connection within the run: a number seen before is a connection used again
    "reads",  # how many reads brought the reply
)
REQUEST_ROW: Final = struct.Struct(f"={len(REQUEST_COLUMNS)}q")

EVENT_COLUMNS: Final = ("request_id", "seq", "mock_ns", "read_ns", "bytes", "read_index")

_ROWS_A_GROUP: Final = 100_000
_MOST_TEXTS: Final = 5000


class Texts:
    """Numbers for texts that repeat: endpoints, errors. A table that grows without end ends in one last entry."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._codes: dict[str | bytes, int] = {}

    def code(self, text: str | bytes) -> int:
        """The number of `text`, new or known."""
        known = self._codes.get(text)
        if known is not None:
            return known
        if len(self.texts) >= _MOST_TEXTS:
            text = "(one of too many different texts)"
            if text in self._codes:
                return self._codes[text]
        self._codes[text] = len(self.texts)
        self.texts.append(text if isinstance(text, str) else text.decode("utf-8", "replace"))
        return len(self.texts) - 1


class Rows:
    """An append-only table of int64 columns. `append` takes packed rows; its owner calls `spill` now and then."""

    def __init__(self, path: Path, width: int) -> None:
        self.width = width
        self._pending: list[bytes] = []
        self.append = self._pending.append
        self._path = path
        self._file: IO[bytes] = path.open("w+b", buffering=0)
        self._spilled = 0

    def __len__(self) -> int:
        return self._spilled + len(self._pending)

    def spill(self) -> Ints64:
        """Moves what has piled up to the file and returns it, shape (rows, width). OSError if the disk refuses."""
        data = b"".join(self._pending)
        rest = memoryview(data)
        while rest:  # an unbuffered file may take less than all
            rest = rest[self._file.write(rest) :]
        self._pending.clear()
        rows = np.frombuffer(data, dtype=np.int64).reshape(-1, self.width)
        self._spilled += len(rows)
        return rows

    def groups(self) -> Iterator[Ints64]:
        """All rows, in parts that fit in memory; shape (rows, width) each."""
        self.spill()
        self._file.seek(0)
        while data := self._file.read(_ROWS_A_GROUP * self.width * 8):
            yield np.frombuffer(data, dtype=np.int64).reshape(-1, self.width)
        self._file.seek(0, 2)

    def close(self) -> None:
        """Removes the spill file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class RequestRows(Rows):
    """Rows of REQUEST_COLUMNS, with the tables of their texts."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, len(REQUEST_COLUMNS))
        self.endpoints = Texts()
        self.errors = Texts()

    def write(self, path: Path, *, scenario: str) -> None:
        """Writes the requests to `path`."""
        extra = [(name, pa.int64()) for name in REQUEST_COLUMNS if name not in REQUESTS.names]
        schema = pa.schema([*REQUESTS, *extra], metadata=REQUESTS.metadata)
        outcomes = np.array(OUTCOMES, dtype=object)
        texts = {"endpoint": self.endpoints.texts, "error": self.errors.texts}

        def column(rows: Ints64, name: str) -> pa.Array:
            kind = schema.field(name).type
            if name == "scenario":
                return pa.array(np.full(len(rows), scenario, dtype=object), kind)
            if name == "worker":
                return pa.array(np.zeros(len(rows), dtype=np.int64), kind)
            values = rows[:, REQUEST_COLUMNS.index(name)]
            if name == "outcome":
                return pa.array(outcomes[values], kind)
            if name in texts:
                # The last entry stands for NEVER, -1.
                return pa.array(np.array([*texts[name], None], dtype=object)[values], kind)
            if name == "warmup":
                return pa.array(values == 1, kind)
            nulls = values == NEVER
            return pa.array(values == 1 if name == "digest_ok" else values, kind, mask=nulls if nulls.any() else None)

        _write(path, schema, ([column(rows, name) for name in schema.names] for rows in self.groups()))


class EventRows(Rows):
    """Rows of EVENT_COLUMNS."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, len(EVENT_COLUMNS))

    def write(self, path: Path) -> None:
        """Writes the events to `path`."""

        def column(rows: Ints64, name: str) -> pa.Array:
            values = rows[:, EVENT_COLUMNS.index(name)]
            nulls = values == NEVER if name == "mock_ns" else np.zeros(0, dtype=bool)
            return pa.array(values, EVENTS.field(name).type, mask=nulls if nulls.any() else None)

        _write(path, EVENTS, ([column(rows, name) for name in EVENTS.names] for rows in self.groups()))


def _write(path: Path, schema: pa.Schema, groups: Iterator[list[pa.Array]]) -> None:
    """Writes a table whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for columns in groups:
                writer.write_table(pa.table(columns, schema=schema))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
