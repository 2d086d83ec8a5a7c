"""Rows as columns, by PostgreSQL's binary COPY: a million rows in and out without an object for each.

The format (PostgreSQL's manual, COPY, "Binary Format"): a header, then for each row the number of its fields and for
each field its length, -1 for NULL, and its bytes, big-endian.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
# So few that they stay in the processor's cache while each of their columns is taken out or put in.
_READ_ROWS: Final = 1 << 13
_WRITE_ROWS: Final = 1 << 13
_ARRAY_HEAD: Final = 20  # dimensions, flags, type of the elements, length, lower bound
_OID_INT8: Final = 20

Column = NDArray[Any]


@dataclass(frozen=True)
class Lists:
    """A column of lists of whole numbers: that of row r is ``values[starts[r]:starts[r + 1]]``."""

    values: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True)
class Nullable:
    """Numbers of which some are NULL."""

    values: Column
    null: NDArray[np.bool_]


# Reading


def read_columns(session: Session, query: Select[*tuple[Any, ...]], kinds: Sequence[tuple[str, int]]) -> list[Column]:
    """The columns of a query in order. ``kinds``: of each, ``int8``, ``float8`` or ``float4``, and 0 for a number, else
    the length of its lists, which is the same in every row; a column of lists comes as (N, length).

    No value may be NULL: rows have one length then, and are read without looking into any. Bound values of the query
    must be numbers or words of ours, since they are written into its text.
    """
    row = _row_type(kinds)
    names = list(row.names or ())[2::2]
    parts: list[list[Column]] = [[] for _ in kinds]
    words = str(query.compile(session.connection(), compile_kwargs={"literal_binds": True})).replace("%%", "%")
    if _driver(session).info.transaction_status == TransactionStatus.IDLE:
        session.execute(select(1))  # begins the transaction, as every statement but ours would
    with closing(_copied(session, f"COPY ({words}) TO STDOUT (FORMAT BINARY)".encode())) as copied:
        for data in copied:
            _split(data, row, names, parts)
    return [_joined(part, kind) for part, kind in zip(parts, kinds, strict=True)]


def _copied(session: Session, words: bytes) -> Generator[bytes]:
    """What the server sends, many rows at a time. By libpq itself: a row comes as a message of its own, and the layers
    above it cost more than the rest of the way."""
    connection: Any = _driver(session).pgconn
    result = connection.exec_(words)
    if result.status != ExecStatus.COPY_OUT:
        raise error_from_result(result)
    pieces: list[bytes] = []
    size = 0
    try:
        while size >= 0:
            size, piece = connection.get_copy_data(0)
            pieces.append(bytes(piece))
            if len(pieces) >= _READ_ROWS or size < 0:
                yield b"".join(pieces)
                pieces.clear()
    finally:
        while size >= 0:  # whoever reads has stopped: the connection is of no use before the end
            size, _ = connection.get_copy_data(0)
        while (result := connection.get_result()) is not None:
            if result.status == ExecStatus.FATAL_ERROR:
                raise error_from_result(result)


def _row_type(kinds: Sequence[tuple[str, int]]) -> np.dtype[Any]:
    fields: list[Any] = [("fields", ">i2")]
    for place, (kind, length) in enumerate(kinds):
        fields.append((f"length_{place}", ">i4"))
        if length == 0:
            fields.append((f"value_{place}", _TYPES[kind]))
        else:
            element = np.dtype([("length", ">i4"), ("value", _TYPES[kind])])
            fields.append((f"value_{place}", np.dtype([("head", f"S{_ARRAY_HEAD}"), ("items", element, (length,))])))
    return np.dtype(fields)


_TYPES: Final[Mapping[str, str]] = {"int8": ">i8", "float8": ">f8", "float4": ">f4"}
_NATIVE: Final[Mapping[str, Any]] = {"int8": np.int64, "float8": np.float64, "float4": np.float32}


def _split(data: bytes, row: np.dtype[Any], names: Sequence[str], parts: list[list[Column]]) -> None:
    start = len(_HEADER) if data.startswith(_HEADER) else 0
    end = len(data) - (2 if (len(data) - start) % row.itemsize == 2 and data.endswith(_TRAILER) else 0)
    if (end - start) % row.itemsize:
        raise ValueError("a row is of another length: a value is NULL, or a list has another length")
    table = np.frombuffer(data, row, (end - start) // row.itemsize, start)
    if len(table) and (table["fields"] != len(parts)).any():
        raise ValueError("a row is of another length: a value is NULL, or a list has another length")
    for name, part in zip(names, parts, strict=True):
        values = table[name]
        part.append(np.ascontiguousarray(values if values.dtype.names is None else values["items"]["value"]))


def _joined(part: list[Column], kind: tuple[str, int]) -> Column:
    native = [piece.astype(_NATIVE[kind[0]]) for piece in part]
    part.clear()
    return np.concatenate(native)


# Writing


def write_columns(session: Session, table: str, columns: Mapping[str, Any], count: int) -> None:
    """Insert ``count`` rows. A column is an array of numbers (int64, float64), ``Nullable``, ``Lists`` of whole
    numbers, a list of texts or None with one for each row, or one text, number or None for all."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    words = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table), names)
    with _driver(session).cursor() as cursor, cursor.copy(words) as copy:
        copy.write(_HEADER)
        for start in range(0, count, _WRITE_ROWS):
            copy.write(_rows(list(columns.values()), start, min(start + _WRITE_ROWS, count)))
        copy.write(_TRAILER)


def _rows(columns: Sequence[Any], start: int, end: int) -> bytes:
    """Every field as a rectangle of bytes with a mask of those that count, side by side, read row by row."""
    count = end - start
    fields = np.full((count, 1), len(columns), ">i2").view(np.uint8).reshape(count, 2)
    bytes_of, counted = [fields], [np.ones((count, 2), bool)]
    for column in columns:
        field, mask = _field(column, start, end)
        bytes_of.append(field)
        counted.append(mask)
    return np.concatenate(bytes_of, axis=1)[np.concatenate(counted, axis=1)].tobytes()


def _field(column: Any, start: int, end: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    count = end - start
    if isinstance(column, Lists):
        return _list_field(column, start, end)
    if isinstance(column, Nullable):
        return _number_field(column.values[start:end], column.null[start:end])
    if isinstance(column, np.ndarray):
        return _number_field(column[start:end], np.zeros(count, bool))
    if isinstance(column, list):
        return _text_field(column[start:end])
    if column is None or isinstance(column, str):
        field, mask = _text_field([column])
    else:
        field, mask = _number_field(np.array([column]), np.zeros(1, bool))
    return np.repeat(field, count, axis=0), np.repeat(mask, count, axis=0)


def _number_field(values: Column, null: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    kind = ">f8" if np.issubdtype(values.dtype, np.floating) else ">i8"
    row = np.zeros(len(values), np.dtype([("length", ">i4"), ("value", kind)]))
    row["length"] = np.where(null, -1, 8)
    row["value"] = np.where(null, 0, values)
    mask = np.ones((len(values), 12), bool)
    mask[null, 4:] = False
    return row.view(np.uint8).reshape(len(values), 12), mask


def _text_field(texts: Sequence[str | None]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    encoded = [None if text is None else text.encode() for text in texts]
    lengths = np.array([-1 if text is None else len(text) for text in encoded])
    width = int(lengths.max(initial=0))
    field = np.zeros((len(texts), 4 + width), np.uint8)
    field[:, :4] = lengths.astype(">i4").reshape(-1, 1).view(np.uint8)
    if width:
        joined = b"".join((text or b"").ljust(width, b"\0") for text in encoded)
        field[:, 4:] = np.frombuffer(joined, np.uint8).reshape(len(texts), width)
    return field, np.arange(4 + width)[None] < 4 + np.maximum(lengths, 0)[:, None]


def _list_field(column: Lists, start: int, end: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    starts = column.starts[start : end + 1]
    lengths = np.diff(starts)
    width = int(lengths.max(initial=0))
    row = np.zeros(
        len(lengths),
        np.dtype(
            [
                ("length", ">i4"),
                ("head", ">i4", (5,)),
                ("items", np.dtype([("length", ">i4"), ("value", ">i8")]), (width,)),
            ]
        ),
    )
    empty = lengths == 0
    # An empty list has no dimension, so no length and no lower bound either.
    row["length"] = np.where(empty, 12, _ARRAY_HEAD + 12 * lengths)
    row["head"] = np.stack([~empty, np.zeros_like(lengths), np.full_like(lengths, _OID_INT8), lengths, ~empty], axis=1)
    there = np.arange(width)[None] < lengths[:, None]
    row["items"]["length"] = 8
    row["items"]["value"][there] = column.values[starts[0] : starts[-1]]
    size = np.where(empty, 4 + 12, 4 + _ARRAY_HEAD + 12 * lengths)
    return row.view(np.uint8).reshape(len(lengths), -1), np.arange(row.itemsize)[None] < size[:, None]


def _driver(session: Session) -> psycopg.Connection[Any]:
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
