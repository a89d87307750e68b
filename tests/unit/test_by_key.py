"""Pages of a table by its key: not more rows at a time than fit, however many belong to a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from datahub_mlflow_source.errors import PageError
from datahub_mlflow_source.readers.by_key import walk_by_key
from datahub_mlflow_source.records import Unreadable


class Table:
    """A thousand keys, each with so many rows; notes how large the pages are that are asked for."""

    def __init__(self, rows_of_each: int, bad: int | None = None) -> None:
        self.rows_of_each, self.bad = rows_of_each, bad
        self.rows_read = 0
        self.sizes: list[int] = []

    def read(self, work: Callable[[Any], Any]) -> Any:
        self.rows_read = 0
        return work(self)

    def keys(self, _: Any, after: int | None, size: int) -> list[int]:
        self.sizes.append(size)
        first = 0 if after is None else after + 1
        return list(range(first, min(first + size, 1000)))

    def records(self, _: Any, keys: Sequence[int]) -> list[int]:
        if self.bad in keys:
            raise PageError("bad")
        self.rows_read += len(keys) * self.rows_of_each
        return list(keys)


def walked(table: Table, page_size: int) -> list[Any]:
    found: list[Any] = []
    for page in walk_by_key("run", table, table.keys, table.records, page_size):  # type: ignore[arg-type]
        found += page
    return found


@pytest.mark.parametrize("rows_of_each", [0, 1, 30, 5000, 100_000])
@pytest.mark.parametrize("page_size", [1, 7, 100, 1000])
def test_all_come_once_in_order(rows_of_each: int, page_size: int) -> None:
    table = Table(rows_of_each)
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
