"""The bytes of a trace file as records, read once from its beginning to where it is no longer needed.

Once, because a file may be a pipe (`--trace <(zcat ...)`), which gives its bytes to the first who asks. How they are
packed (gzip, zstd) and encoded is seen from the first of them, never from the file's name.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import pyarrow as pa

from loadgen.errors import BadInput, Missing

_PACKED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_MARKS: Final = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_DELIMITERS: Final = ",;\t|"
_LONGEST_LINE: Final = 16_000_000
"""Characters. Mooncake's longest is 2,000; a file that is no trace may have no end of line at all."""
_LONGEST_ARRAY: Final = 500_000_000

Record = dict[str, Any] | list[str] | None
"""A JSON object, the fields of a line of CSV, or None for what is neither."""


@dataclass(frozen=True, slots=True)
class Records:
    """`columns`: of the header, or the keys of the first object. `of_json`: whether records are objects."""

    columns: tuple[str, ...]
    of_json: bool
    rows: Iterator[Record]


@contextlib.contextmanager
def records(path: Path) -> Iterator[Records | None]:
    """The file's records; None if it holds nothing that could be some. Raises Missing, BadInput."""
    try:
        with path.open("rb") as raw, _text(raw) as text:
            yield _records(_lines(text))
    except FileNotFoundError as exc:
        raise Missing(f"{path}: there is no such trace file; see the README for where public traces are found") from exc
    except (EOFError, pa.ArrowException) as exc:
        raise BadInput(f"{path}: a packed file that is damaged: {' '.join(str(exc).split())}") from exc
    except OSError as exc:
        if exc.errno is None:  # what a decompressor says of its data
            raise BadInput(f"{path}: a packed file that is damaged: {' '.join(str(exc).split())}") from exc
        raise Missing(f"{path}: the trace cannot be read: {exc.strerror}") from exc


def _text(raw: IO[bytes]) -> io.TextIOWrapper:
    """Unpacked and decoded. `raw` is buffered, so that its beginning can be looked at without being taken."""
    stream = cast(io.BufferedReader, raw)
    start = stream.peek(4)
    packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
    if packed is not None:
        stream = io.BufferedReader(cast(io.RawIOBase, _Unpacked(stream, packed)))
        start = stream.peek(4)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if encoding is None:  # text whose every second byte is 0 is UTF-16 without a mark
        encoding = {b"\x00": "utf-16-be"}.get(start[:1], "utf-16-le" if start[1:2] == b"\x00" else "utf-8")
        if start[:2] == b"\x00\x00":
            encoding = "utf-8"
    return io.TextIOWrapper(stream, encoding=encoding, errors="replace")


class _Unpacked(io.RawIOBase):
    """A packed stream as a file that `io` can buffer."""

    def __init__(self, packed: io.BufferedReader, how: str) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), how)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        data = self._stream.read(len(into))
        into[: len(data)] = data
        return len(data)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Lines that hold something; one that does not end is cut, and so becomes no record."""
    while line := text.readline(_LONGEST_LINE):
        if stripped := line.strip():
            yield stripped


def _records(lines: Iterator[str]) -> Records | None:
    first = next(lines, None)
    if first is None:
        return None
    if first.startswith("["):
        return _of_array(first, lines)
    if first.startswith("{"):
        found = _object(first)
        keys = tuple(found) if isinstance(found, dict) else ()
        return Records(keys, True, _objects(first, lines))
    delimiter = max(_DELIMITERS, key=first.count)
    columns = _fields(first, delimiter)
    if columns is None:
        return None
    return Records(tuple(columns), False, (_fields(line, delimiter, len(columns)) for line in lines))


def _of_array(first: str, lines: Iterator[str]) -> Records | None:
    """A file that is one JSON array, of objects."""
    text, size = [first], len(first)
    for line in lines:
        text.append(line)
        size += len(line)
        if size > _LONGEST_ARRAY:
            return None
    try:
        data = json.loads("\n".join(text))
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, list):
        return None
    objects = [entry if isinstance(entry, dict) else None for entry in data]
    keys = tuple(next((entry for entry in objects if entry), {}))
    return Records(keys, True, iter(objects))


def _objects(first: str, lines: Iterator[str]) -> Iterator[Record]:
    yield _object(first)
    for line in lines:
        yield _object(line)


def _object(line: str) -> dict[str, Any] | None:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits is no JSONDecodeError
        return None
    return data if isinstance(data, dict) else None


def _fields(line: str, delimiter: str, wanted: int | None = None) -> list[str] | None:
    """The fields of one line, unquoted. Each for itself: a quote that is not closed costs one row, not all others."""
    try:
        rows: Sequence[list[str]] = list(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    except csv.Error:
        return None
    if len(rows) != 1 or (wanted is not None and len(rows[0]) != wanted):
        return None
    return [field.strip() for field in rows[0]]
