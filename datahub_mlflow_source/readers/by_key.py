"""Walking a table by its key: a page in each transaction, and around rows that can't be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.readers.database import Database, Reading
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

    Pages are smaller at first, and where many rows belong to each record. A key shows itself as text in messages.
    """
    after: K | None = None
    size = min(page_size, _FIRST_PAGE)
    while True:
        try:
            page, records, rows_read = _page(database, keys, read, after, size)
        except ServerError as error:
            yield [broke_off(kind, error)]
            return
        if records is None:
            yield from ([record] for record in in_halves(kind, database, page, read))
        else:
            yield list(records)
        if len(page) < size:
            return
        after = page[-1]
        size = max(1, min(page_size, 2 * size, size * _ROWS_IN_PAGE // max(rows_read, 1)))


def _page(
    database: Database, keys: Keys[K], read: Read[K, T], after: K | None, page_size: int
) -> tuple[Sequence[K], Sequence[T] | None, int]:
    """The keys of a page, its records, and how many rows those were; None and 0 where a row can't be read."""

    def both(reading: Reading) -> tuple[Sequence[K], Sequence[T], int]:
        page = keys(reading, after, page_size)
        return page, read(reading, page) if page else (), reading.rows_read

    try:
        return database.read(both)
    except PageError:
        return database.read(lambda reading: keys(reading, after, page_size)), None, 0


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
