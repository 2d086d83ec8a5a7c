"""Rows as columns and back: against what PostgreSQL itself says of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import REAL, Column, MetaData, Table, cast, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, array
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Double, Text

from backend.store.columns import Lists, Nullable, read_columns, write_columns
from backend.store.sessions import Database

pytestmark = pytest.mark.database

ROWS = Table(
    "rows_of_a_test",
    MetaData(),
    Column("number", BigInteger),
    Column("figure", Double),
    Column("word", Text),
    Column("list", ARRAY(BigInteger)),
    Column("maybe", BigInteger),
    Column("same", Text),
    Column("none", Text),
)
whole = st.integers(-(2**63), 2**63 - 1)
rows = st.lists(
    st.tuples(
        whole,
        st.floats(allow_nan=False),
        st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
        st.lists(whole, max_size=5),
        st.none() | whole,
    ),
    max_size=20,
)


@pytest.fixture(scope="module")
def session(postgres, migrated_template) -> Iterator[Session]:
    name = "columns_of_rows"
    database = Database(postgres.create_database(name, template=migrated_template))
    with database.transaction() as opened:
        ROWS.create(opened.connection())
        yield opened
    database.close()
    postgres.drop_database(name)


def _written(session: Session, given_rows) -> None:
    lists = [row[3] for row in given_rows]
    maybe = [row[4] for row in given_rows]
    columns = {
        "number": np.array([row[0] for row in given_rows], np.int64),
        "figure": np.array([row[1] for row in given_rows], np.float64),
        "word": [row[2] for row in given_rows],
        "list": Lists(
            np.array([n for one in lists for n in one], np.int64),
            np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64),
        ),
        "maybe": Nullable(np.array([m or 0 for m in maybe], np.int64), np.array([m is None for m in maybe], bool)),
        "same": "the same für all",
        "none": None,
    }
    session.execute(text("TRUNCATE rows_of_a_test"))
    write_columns(session, ROWS.name, columns, len(given_rows))


@settings(max_examples=60)
@given(rows)
def test_what_is_written_is_what_the_server_reads(session: Session, given_rows) -> None:
    _written(session, given_rows)
    found = [tuple(row) for row in session.execute(select(ROWS))]
    assert found == [(*row, "the same für all", None) for row in given_rows]


@pytest.mark.parametrize("count", [0, 1, 8192, 8193, 20_000])
def test_any_number_of_rows_goes_out_and_comes_back(session: Session, count: int) -> None:
    rng = np.random.default_rng(count)
    numbers, figures = rng.integers(-(2**62), 2**62, count), rng.normal(size=count)
    session.execute(text("TRUNCATE rows_of_a_test"))
    write_columns(session, ROWS.name, {"number": numbers, "figure": figures}, count)
    found_numbers, found_figures = read_columns(
        session, select(ROWS.c.number, ROWS.c.figure), [("int8", 0), ("float8", 0)]
    )
    order = np.argsort(found_numbers, kind="stable")
    expected = np.argsort(numbers, kind="stable")
    assert np.array_equal(found_numbers[order], numbers[expected])
    assert np.array_equal(found_figures[order], figures[expected])
    assert (found_numbers.dtype, found_figures.dtype) == (np.int64, np.float64)


def test_lists_of_one_length_come_as_a_table(session: Session) -> None:
    _written(session, [(n, n / 4, None, [], None) for n in range(5)])
    lists = cast(array([ROWS.c.figure, ROWS.c.figure * 2]), ARRAY(REAL))
    numbers, table = read_columns(session, select(ROWS.c.number, lists), [("int8", 0), ("float4", 2)])
    assert table.dtype == np.float32
    assert np.array_equal(table, np.stack([numbers / 4, numbers / 2], axis=1))


def test_a_percent_sign_and_a_word_in_the_query_are_taken_as_they_are(session: Session) -> None:
    _written(session, [(1, 0.0, "50 % of 'it'", [], None), (2, 0.0, "else", [], None)])
    (found,) = read_columns(session, select(ROWS.c.number).where(ROWS.c.word == "50 % of 'it'"), [("int8", 0)])
    assert found.tolist() == [1]


@pytest.mark.parametrize("query", [select(ROWS.c.maybe), select(func.coalesce(ROWS.c.list, ROWS.c.list))])
def test_a_row_of_another_length_is_noticed(session: Session, query) -> None:
    _written(session, [(1, 0.0, None, [1, 2, 3], None), (2, 0.0, None, [], 5)])
    with pytest.raises(ValueError, match="another length"):
        read_columns(session, query, [("int8", 0)])
