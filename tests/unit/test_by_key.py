"""Pages of a table by its key: in order, several at a time, and not more rows than fit however many a record has."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest

from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.readers.by_key import walk_by_key
from datahub_mlflow_source.records import Unreadable


class Table:
    """A thousand keys, each with so many rows; notes how large the pages are that are asked for."""

    def __init__(self, rows_of_each: int, bad: int | None = None, at_once: int = 1) -> None:
        self.rows_of_each, self.bad = rows_of_each, bad
        self.sizes: list[int] = []
        self.connection = SimpleNamespace(pool_size=at_once)

    def read(self, work: Callable[[Any], Any]) -> Any:
        return work(SimpleNamespace(rows_read=0))

    def keys(self, _: Any, after: int | None, size: int) -> list[int]:
        self.sizes.append(size)
        first = 0 if after is None else after + 1
        return list(range(first, min(first + size, 1000)))

    def records(self, reading: Any, keys: Sequence[int]) -> list[int]:
        if self.bad in keys:
            raise PageError("bad")
        reading.rows_read += len(keys) * self.rows_of_each
        return list(keys)


def walked(table: Table, page_size: int) -> list[Any]:
    found: list[Any] = []
    for page in walk_by_key("run", table, table.keys, table.records, page_size):  # type: ignore[arg-type]
        found += page
    return found


@pytest.mark.parametrize("rows_of_each", [0, 1, 30, 5000, 100_000])
@pytest.mark.parametrize("page_size", [1, 7, 100, 1000])
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_all_come_once_in_order(rows_of_each: int, page_size: int, at_once: int) -> None:
    table = Table(rows_of_each, at_once=at_once)
    assert walked(table, page_size) == list(range(1000))
    assert max(table.sizes) <= page_size


def test_pages_grow_as_long_as_their_rows_are_few() -> None:
    table = Table(30)
    walked(table, 1000)
    assert table.sizes == [100, 200, 400, 800]


def test_and_shrink_where_they_are_many() -> None:
    table = Table(5000)
    walked(table, 1000)
    assert set(table.sizes[1:]) == {10}


def test_a_bad_row_is_left_out_and_the_pages_go_on() -> None:
    table = Table(30, bad=500)
    found = walked(table, 1000)
    assert [record for record in found if not isinstance(record, Unreadable)] == [*range(500), *range(501, 1000)]
    assert [record.what for record in found if isinstance(record, Unreadable)] == ["500"]


def test_pages_stay_small_until_one_was_read() -> None:
    table = Table(5000, at_once=3)
    walked(table, 1000)
    assert max(table.sizes) == 100


class Together(Table):
    """Two pages have to be read at a time, or neither is ever done; the first takes the longer."""

    def __init__(self) -> None:
        super().__init__(30, at_once=2)
        self.both = Barrier(2, timeout=20)

    def records(self, reading: Any, keys: Sequence[int]) -> list[int]:
        if keys[0] < 200:
            self.both.wait()
        time.sleep(0.05 if keys[0] == 0 else 0)
        return super().records(reading, keys)


def test_as_many_pages_are_read_at_a_time_as_there_are_connections() -> None:
    assert walked(Together(), 1000) == list(range(1000))


class Down(Table):
    """The database goes away while the second page is read."""

    def records(self, reading: Any, keys: Sequence[int]) -> list[int]:
        if keys[0] >= 100:
            raise ServerError("gone")
        return super().records(reading, keys)


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_a_database_that_went_away_is_not_asked_for_the_rest(at_once: int) -> None:
    found = walked(Down(30, at_once=at_once), 100)
    assert found[:100] == list(range(100))
    assert [record.listing_broke_off for record in found[100:]] == [True]
