"""Walking a paged listing to its end, also past rows that the server can't serve."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any, TypeVar

from datahub_mlflow_source.errors import PageError, ServerError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Row = dict[str, Any]  # one entity as MLflow's JSON has it


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that makes the server fail, at this place of the listing."""

    offset: int
    reason: str
    after: Row | None  # the last good row before it; None at the start
    before: Row | None = None  # the first good row behind it; None at the end


@dataclass(frozen=True, slots=True)
class Moved:
    """Rows before this place went away while the listing was read, so that others may have been passed over."""

    after: Row  # the last row before it


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[Row]
    next_token: str | None


# Asks for one page: token, how many rows at most, and whether in reversed order.
Fetch = Callable[[str | None, int, bool], Page]
# What tells a row from all others of its listing.
Identity = Callable[[Row], object]

BEYOND_THE_END = 1_000_000_000  # a place where no listing has a row: only a server that fails on everything fails there
_BAD_ROWS_TO_DOUBT = 100  # so many failures on end may mean that
_MOST_EMPTY_PAGES = 100  # on end, each with a token: a proxy or a server gone wrong


def walk(fetch: Fetch, page_size: int, identity: Identity, room: int = 1) -> Iterator[list[Row] | BadRow | Moved]:
    """All pages as they come; around a row that spoils its page, smaller ones, and that row as BadRow.

    `room`: how many rows more than `page_size` the server gives at most.

    Raises:
        ServerError: the listing breaks off here.
    """
    place = Place(identity, room)
    while True:
        try:
            page = _once_more(fetch, place.token, page_size + place.overlap)
        except PageError as error:
            yield from walk_around(fetch, place.offset(error), page_size, identity)
            return
        yield from place.passed(page)
        if not page.next_token:
            return


class Place:
    """How far a listing has been read.

    MLflow counts rows from the start: when some before this place are deleted meanwhile, as many behind it are passed
    over. So each page is asked for from the last row of the page before. Where MLflow leaves out what one may not read,
    it does so page by page, and counts all the same: then nobody knows where that last row stands, but how far back.

    Attributes:
        token: asks for what comes next; None for the start.
        overlap: how many rows of that were passed already, 1 where none is left out.
        read: how many rows that is from the start, those that were left out included.
    """

    def __init__(self, identity: Identity, room: int = 1) -> None:
        """`room`: how many rows may be asked for twice."""
        self.token: str | None = None
        self.overlap = 0
        self._identity = identity
        self._room = room
        self.read = 0
        self._start: int | None = 0  # of what is asked for; None where tokens don't tell
        self._last: Row | None = None
        self._last_is_behind = 0  # the last row stands here or later
        self._tokens: set[str] = set()
        self._empty_pages = 0

    def offset(self, error: PageError) -> int:
        """Where the rows begin that were not given yet. Raises the error, where nobody can tell."""
        return offset_of(self.token, error) + self.overlap

    def jump(self, offset: int) -> None:
        """On to what was asked for from here, by somebody who knows that all before was dealt with."""
        self.read = self._start = self._last_is_behind = offset
        self.overlap = 0

    def passed(self, page: Page) -> Iterator[list[Row] | Moved]:
        """The rows of what was asked for that are new, behind a Moved where some may be missing.

        Raises:
            ServerError: the listing would never end.
        """
        rows = page.rows
        if self.overlap and self._last is not None:
            last = self._identity(self._last)
            found = next((index for index, row in enumerate(rows) if self._identity(row) == last), None)
            if found is None:
                yield Moved(self._last)
            else:
                rows = rows[found + 1 :]
        self._go_on(page)
        yield rows

    def _go_on(self, page: Page) -> None:
        self._last = page.rows[-1] if page.rows else self._last
        token = page.next_token
        if token is None:
            self.read += len(page.rows) - self.overlap
            return
        self._empty_pages = 0 if page.rows else self._empty_pages + 1
        if token in self._tokens or self._empty_pages > _MOST_EMPTY_PAGES:
            raise ServerError("MLflow gave the same page token twice. Check for a proxy that caches answers.")
        self._tokens.add(token)
        end = place_of(token)
        left_out = end - self._start - len(page.rows) if end is not None and self._start is not None else -1
        if end is None or left_out < 0:
            self.read += len(page.rows) - self.overlap
            self.token, self.overlap, self._start = token, 0, None
            return
        self.read = end
        if page.rows:
            self._last_is_behind = end - 1 - left_out
        overlap = end - self._last_is_behind
        self.overlap = overlap if self._last is not None and overlap <= self._room else 0
        self._start = end - self.overlap
        self.token = offset_token(self._start)


def _once_more(fetch: Fetch, token: str | None, size: int) -> Page:
    """A 500 may have been a passing one."""
    try:
        return fetch(token, size, False)
    except PageError as error:
        logger.info("MLflow failed on a page, asking once more: %s", error)
        return fetch(token, size, False)


def walk_around(fetch: Fetch, offset: int, page_size: int, identity: Identity) -> Iterator[list[Row] | BadRow]:
    """Goes on from `offset`, with pages halved before a bad row and doubled again behind it.

    Servers since 3.10 read one row more than they are asked for, so the row *before* a bad one fails too
    (seen on 3.17.2); each failed row is therefore asked for once more in reversed order, where its other
    neighbour is the one row more.

    Raises:
        ServerError: the listing breaks off here; PageError, where the server fails on everything.
    """
    size = page_size
    failed: list[BadRow] = []
    waiting = 0  # how many of the failed have no good row behind them yet
    last: Row | None = None
    given: set[object] = set()
    empty = 0  # pages on end
    while True:
        try:
            page = fetch(offset_token(offset), size, False)
        except PageError as error:
            if size > 1:
                size //= 2
                continue
            failed.append(BadRow(offset, str(error), last))
            waiting += 1
            offset += 1
            if waiting % _BAD_ROWS_TO_DOUBT == 0:
                fetch(offset_token(BEYOND_THE_END), 1, False)
            continue
        yield page.rows
        if page.rows:
            for index in range(len(failed) - waiting, len(failed)):
                failed[index] = replace(failed[index], before=page.rows[0])
            waiting, last = 0, page.rows[-1]
            given.update(map(identity, page.rows))
        if not page.next_token:
            offset += len(page.rows)
            break
        # MLflow counts what it leaves out because one may not read it: a page without rows is not the end.
        empty = 0 if page.rows else empty + 1
        if empty > _MOST_EMPTY_PAGES:
            raise ServerError("MLflow gives pages without rows, and no end. Check for a proxy that caches answers.")
        offset = max(offset + max(len(page.rows), 1), place_of(page.next_token) or 0)
        size = min(2 * size, page_size)
    for row in failed:
        found = _from_the_other_side(fetch, row, offset)
        # Another that was given already stands there now, when rows were deleted meanwhile.
        yield row if isinstance(found, BadRow) or given.intersection(map(identity, found)) else found


def _from_the_other_side(fetch: Fetch, row: BadRow, rows_in_all: int) -> list[Row] | BadRow:
    try:
        return fetch(offset_token(rows_in_all - 1 - row.offset), 1, True).rows or row
    except PageError:
        return row


def offset_token(offset: int) -> str | None:
    """A page token as MLflow's SQL store makes it (2.10 to 3.17); None for the start."""
    if not offset:
        return None
    return base64.b64encode(json.dumps({"offset": offset}).encode()).decode()


def offset_of(token: str | None, error: PageError) -> int:
    """The place that a token stands for. Raises the error, where it is no token of MLflow's SQL store."""
    place = place_of(token) if token is not None else 0
    if place is None:
        raise error
    return place


def place_of(token: str) -> int | None:
    """The same; None where it is no token of MLflow's SQL store."""
    try:
        return int(json.loads(base64.b64decode(token))["offset"])
    except (ValueError, KeyError, TypeError):
        return None


def batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """So many at a time; the last may be fewer."""
    iterator = iter(things)
    while batch := list(islice(iterator, size)):
        yield batch


_END: Any = object()


def read_ahead(pages: Iterator[T]) -> Iterator[T]:
    """The same pages, the first two fetched from now on, each other while those before it are used.

    Two, so that MLflow is at work on the next page while one is decoded here and another is mapped: with one, it waits
    each time until that is done. The fetching thread is a daemon: it never keeps a process alive that was told to end.
    """
    fetched: SimpleQueue[Any] = SimpleQueue()
    wanted = Semaphore(2)  # pages at first, one more whenever one is taken
    stopped = Event()

    def fetch() -> None:
        try:
            item = None
            while item is not _END:
                wanted.acquire()
                if stopped.is_set():
                    return
                item = next(pages, _END)
                fetched.put(item)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the page
            fetched.put(error)

    def given() -> Iterator[T]:
        try:
            while (item := fetched.get()) is not _END:
                if isinstance(item, BaseException):
                    raise item
                wanted.release()
                yield item
        finally:
            stopped.set()
            wanted.release()

    Thread(target=fetch, name="mlflow-read-ahead", daemon=True).start()
    return given()
