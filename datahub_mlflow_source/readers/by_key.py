"""Walking a table by its key: a page in each transaction, and around rows that can't be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.readers.database import Database, Reading
from datahub_mlflow_source.readers.workers import in_order
from datahub_mlflow_source.records import Kind, Tags, Unreadable

T = TypeVar("T")
K = TypeVar("K")

_FIRST_PAGE = 100
_ROWS_IN_PAGE = 50_000  # of all tables: a run may have thousands of metrics, or ten

# So many keys behind this one (at first: None), in order; fewer mean that there are no more.
Keys = Callable[[Reading, K | None, int], Sequence[K]]
# The records of these keys, in order, without those that are left out.
Read = Callable[[Reading, Sequence[K]], Sequence[T]]


def walk_by_key(
    kind: Kind, database: Database, keys: Keys[K], read: Read[K, T], page_size: int
) -> Iterator[list[T | Unreadable]]:
    """All records, in pages of at most `page_size`; where the walk breaks off, an Unreadable that says so.

    As many pages are read at a time as there may be connections, so that the database is at work on one while another
    is built here, and a third is mapped and sent. Pages are smaller at first, and where many rows belong to each
    record. A key shows itself as text in messages.
    """
    size = _PageSize(page_size)

    def counted(reading: Reading, page: Sequence[K]) -> Sequence[T]:
        records = read(reading, page)
        size.rows_of_each = reading.rows_read / len(page)
        return records

    def records_of(page: Sequence[K] | Unreadable) -> list[T | Unreadable]:
        return [page] if isinstance(page, Unreadable) else list(in_halves(kind, database, page, counted))

    for found in in_order(records_of, _key_pages(kind, database, keys, size), database.connection.pool_size):
        yield found
        if any(isinstance(record, Unreadable) and record.listing_broke_off for record in found):
            return


class _PageSize:
    """Of the next page: twice the one before at most, and no more rows in all than there is room for.

    Attributes:
        rows_of_each: of a record, in the page that was read last. None before the first.
    """

    def __init__(self, most: int) -> None:
        self.rows_of_each: float | None = None
        self._most = most
        self._size = _FIRST_PAGE // 2

    def next(self) -> int:
        room = _FIRST_PAGE if self.rows_of_each is None else int(_ROWS_IN_PAGE / max(self.rows_of_each, 1))
        self._size = max(1, min(self._most, 2 * self._size, room))
        return self._size


def _key_pages(
    kind: Kind, database: Database, keys: Keys[K], page_size: _PageSize
) -> Iterator[Sequence[K] | Unreadable]:
    after: K | None = None
    while True:
        size = page_size.next()
        try:
            page = database.read(partial(_keys_behind, keys, after, size))
        except ServerError as error:
            yield broke_off(kind, error)
            return
        if page:
            yield page
        if len(page) < size:
            return
        after = page[-1]


def _keys_behind(keys: Keys[K], after: K | None, size: int, reading: Reading) -> Sequence[K]:
    return keys(reading, after, size)


def in_halves(kind: Kind, database: Database, keys: Sequence[K], read: Read[K, T]) -> Iterator[T | Unreadable]:
    """The records of these keys; in halves, where a row can't be read, until only such rows are left out."""
    try:
        yield from database.read(lambda reading: read(reading, keys))
    except PageError as error:
        if len(keys) == 1:
            key = str(keys[0])
            yield Unreadable(kind, key, str(error), run_id=key if kind == "run" else "")
            return
        middle = len(keys) // 2
        yield from in_halves(kind, database, keys[:middle], read)
        yield from in_halves(kind, database, keys[middle:], read)
    except ServerError as error:
        yield broke_off(kind, error)


def broke_off(kind: Kind, error: ServerError) -> Unreadable:
    return Unreadable(kind, "the table, ordered by its key", str(error), listing_broke_off=True)


def grouped(rows: Iterable[Sequence[Any]]) -> dict[Any, list[tuple[Any, ...]]]:
    """Rows by their first column, without it. Empty where there is none."""
    found: dict[Any, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        found[row[0]].append(tuple(row[1:]))
    return found


def pairs(rows: Iterable[tuple[str, str | None]]) -> Tags:
    """(key, value), sorted by key, as every reader has them. A value may be NULL."""
    return tuple(sorted((key, value or "") for key, value in rows))
