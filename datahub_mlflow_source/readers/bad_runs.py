"""Runs that MLflow holds and can't serve: reading around them, and finding out which they are.

A run whose row has a NULL where MLflow expects a value makes `runs/search` answer 500 for its whole page, without
saying which row it was (seen on 2.10 to 3.17; since 3.10 also for the page before, as servers read one row more
than asked). Such a page is read with a filter that leaves the bad rows out. The id of a bad one is then spelled
out: a search for `run_id LIKE '3f%'` fails if and only if a bad run's id starts like that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os.path import commonprefix

from datahub_mlflow_source.errors import PageError
from datahub_mlflow_source.readers.paging import (
    BEYOND_THE_END,
    BadRow,
    Moved,
    Page,
    Place,
    Row,
    offset_token,
    walk_around,
)

# True for every row that MLflow can convert: NULL satisfies no comparison.
SERVABLE = "attributes.start_time != -1 AND attributes.status LIKE '%' AND attributes.user_id LIKE '%'"

_HEX = "0123456789abcdef"
_LETTERS = _HEX + "ghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-"
_ID_LENGTH = 32
# Runs. The first pages are small, so that there is soon something to map; and as long as there are few runs, so are the
# others: MLflow and we work side by side, but for the last page. With many, a request costs more than that.
_FIRST_PAGE, _PAGE_OF_FEW, _SHARE_OF_LAST = 200, 250, 20

# One page of runs by run id: token, how many at most, whether in reversed order, and only the servable ones.
FetchRuns = Callable[[str | None, int, bool, bool], Page]
# Does a search with this filter meet a bad row?
Fails = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class BadRuns:
    """So many bad runs stand between these two good ones (and other good ones), in the order of run ids."""

    count: int
    after: str  # "" at the start
    before: str  # "" at the end
    reason: str


def walk_runs(fetch: FetchRuns, page_size: int) -> Iterator[list[Row] | BadRuns | Moved]:
    """All pages of runs; around bad ones only the good, followed by what is missing there.

    Raises:
        ServerError: the listing breaks off here.
    """
    size = min(page_size, _FIRST_PAGE)
    place, bad, last = Place(run_id_of), 0, ""  # in the listing; bad rows before it; the last good run before it
    already: set[str] = set()  # given with the servable ones, and about to come again
    while True:
        try:
            page = fetch(place.token, size + place.overlap, False, False)
        except PageError as error:
            # Only with tokens that are offsets there is a way around.
            around = _Around(fetch, size, place.offset(error), bad, last, already)
            yield from around.rows(error)
            if around.page is None:
                return
            bad, already, page = bad + around.bad, around.ahead, around.page
            place.jump(around.place)
        for found in place.passed(page):
            if isinstance(found, Moved):
                yield found
            elif rows := [row for row in found if run_id_of(row) not in already] if already else found:
                yield rows
        if page.rows:
            last = run_id_of(page.rows[-1])
            already.difference_update(map(run_id_of, page.rows))
        if not page.next_token:
            return
        size = min(page_size, max(min(2 * size, _PAGE_OF_FEW), place.read // _SHARE_OF_LAST))


class _Around:
    """From a page that fails to the next one that doesn't.

    Attributes, once `rows` is exhausted:
        place, page: the next readable page and where it stands; page is None where all has been read.
        bad: how many bad rows were passed.
        ahead: ids of runs that were given already although they come at `place` or later.
    """

    def __init__(self, fetch: FetchRuns, size: int, place: int, bad_before: int, last: str, already: set[str]) -> None:
        self.place, self.bad = place, 0
        self.page: Page | None = None
        self.ahead = already
        self._fetch, self._size, self._bad_before, self._last = fetch, size, bad_before, last

    def rows(self, error: PageError) -> Iterator[list[Row] | BadRuns]:
        start, servable_start = self.place, self.place - self._bad_before
        ids: list[str] = []
        while self.page is None:
            try:
                servable = self._fetch(offset_token(servable_start + len(ids)), self._size, False, True)
            except PageError:
                yield from self._whatever_the_cause(start, self.ahead.union(ids))
                return
            ids += map(run_id_of, servable.rows)
            yield [row for row in servable.rows if run_id_of(row) not in self.ahead]
            self.place += self._size
            self.page = self._readable()
            if self.page is None and not servable.rows:
                self._fetch(offset_token(BEYOND_THE_END), 1, False, False)  # or it would go on for ever
        if self.page.rows:
            before = run_id_of(self.page.rows[0])
            passed = ids.index(before) if before in ids else len(ids)
        else:
            before, passed = "", len(ids)
            self.place = self._end(start + passed)
        self.bad = max(self.place - start - passed, 0)
        self.ahead = self.ahead.difference(ids[:passed]).union(ids[passed:])
        if self.bad:
            yield BadRuns(self.bad, self._last, before, str(error))

    def _whatever_the_cause(self, start: int, given: set[str]) -> Iterator[list[Row] | BadRuns]:
        """To the end of the listing: no filter leaves these bad rows out (a metric without a time is such a one)."""
        for found in walk_around(self._fetch_any, start, self._size, run_id_of):
            if isinstance(found, BadRow):
                after = run_id_of(found.after) if found.after else self._last
                yield BadRuns(1, after, run_id_of(found.before) if found.before else "", found.reason)
            else:
                yield [row for row in found if run_id_of(row) not in given]

    def _fetch_any(self, token: str | None, size: int, backwards: bool) -> Page:
        return self._fetch(token, size, backwards, False)

    def _readable(self) -> Page | None:
        try:
            return self._fetch(offset_token(self.place), self._size, False, False)
        except PageError:
            return None

    def _end(self, at_least: int) -> int:
        """How many rows the listing has: `at_least` so many, `self.place` at most."""
        low, high = at_least, self.place
        while low < high:
            middle = (low + high) // 2
            try:
                exists = bool(self._fetch(offset_token(middle), 1, False, False).rows)
            except PageError:
                exists = True
            low, high = (middle + 1, high) if exists else (low, middle)
        return low


def run_id_of(row: Row) -> str:
    """MLflow calls it run_id; servers send run_uuid beside it. "" for a row that isn't formed as a run."""
    info = row.get("info") if isinstance(row, dict) else None
    return str(info.get("run_id") or info.get("run_uuid") or "") if isinstance(info, dict) else ""


def spell_out(fails: Fails, gap: BadRuns, known: list[str]) -> str | None:
    """The id of a bad run in this gap, other than the known ones; None where it can't be found out.

    Some 270 small requests for an id of 32 hex digits, fewer where its neighbours begin alike.
    """
    if fails("attributes.run_id = '-'"):  # MLflow fails on everything at present: there is no run of that id
        return None
    but = "".join(f" AND attributes.run_id != '{run_id}'" for run_id in known)
    both = [gap.after, gap.before]
    prefix = commonprefix(both) if _is_hex("".join(both)) else ""  # noqa: RUF071 - by characters, as meant
    while len(prefix) < _ID_LENGTH or not fails(f"attributes.run_id = '{prefix}'{but}"):
        possible = [letter for letter in _LETTERS if _within(prefix + letter, gap)]
        letter = next((c for c in possible if fails(f"attributes.run_id LIKE '{prefix}{c}%'{but}")), None)
        if letter is None:
            return prefix if prefix and fails(f"attributes.run_id = '{prefix}'{but}") else None
        prefix += letter
    return prefix


def _within(prefix: str, gap: BadRuns) -> bool:
    """Whether an id with this prefix can stand in the gap. Only hex digits sort alike in every database."""
    if not _is_hex(prefix + gap.after + gap.before):
        return True
    length = len(prefix)
    return (prefix >= gap.after[:length]) and (not gap.before or prefix <= gap.before[:length])


def _is_hex(text: str) -> bool:
    return all(letter in _HEX for letter in text)
