"""A listing is walked to its end, past rows that the server can't serve, one page ahead and never for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import combinations

import pytest

from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.readers.bad_runs import run_id_of, walk_runs
from datahub_mlflow_source.readers.paging import BadRow, Fetch, Moved, Page, offset_of, offset_token, read_ahead, walk
from tests.unit.listing import Listing, bad_places, ids_of, make_row

IDS = "abcdef"
SECONDS = 10  # a thread that hasn't done it by then never will


def walked(listing: Listing, page_size: int) -> list[object]:
    return list(walk(listing.fetch, page_size, run_id_of))


class TestWalk:
    def test_pages_come_as_the_server_gives_them(self) -> None:
        listing = Listing(IDS)
        assert [ids_of([page]) for page in walk(listing.fetch, 4, run_id_of)] == [["a", "b", "c", "d"], ["e", "f"]]
        assert listing.requests == 2

    def test_an_empty_page_with_a_token_is_not_the_end(self) -> None:
        pages = {None: Page([make_row("a")], "t1"), "t1": Page([], "t2"), "t2": Page([make_row("b")], None)}
        assert ids_of(list(walk(lambda token, *_: pages[token], 1, run_id_of))) == ["a", "b"]

    def test_the_same_token_twice_is_an_error(self) -> None:
        page = Page([make_row("a")], "t1")
        with pytest.raises(ServerError, match=r"same page token twice\. Check for a proxy that caches answers"):
            list(walk(lambda *_: page, 1, run_id_of))

    @pytest.mark.parametrize("page_size", [1, 2, 3, 7, 1000])
    def test_before_3_10_exactly_the_bad_rows_are_left_out(self, page_size: int) -> None:
        for count in range(len(IDS) + 1):
            for bad in combinations(IDS, count):
                pages = walked(Listing(IDS, bad), page_size)
                assert sorted(ids_of(pages)) == sorted(set(IDS) - set(bad)), f"with {bad} bad"
                assert bad_places(pages) == [IDS.index(id_) for id_ in bad]

    @pytest.mark.parametrize("page_size", [1, 2, 3, 7, 1000])
    def test_since_3_10_a_good_row_is_lost_only_between_two_bad_ones(self, page_size: int) -> None:
        """The server reads one row more than asked for: there is no way to ask for such a one alone."""
        for count in range(len(IDS) + 1):
            for bad in combinations(IDS, count):
                pages = walked(Listing(IDS, bad, looks_ahead=True), page_size)
                places = {IDS.index(id_) for id_ in bad}
                lost = places | {place for place in range(len(IDS)) if {place - 1, place + 1} <= places}
                assert bad_places(pages) == sorted(lost), f"with {bad} bad"
                assert sorted(ids_of(pages)) == [id_ for id_ in IDS if IDS.index(id_) not in lost]

    def test_a_bad_row_stands_between_its_good_neighbours(self) -> None:
        bad = [page for page in walked(Listing(IDS, "cd"), 1000) if isinstance(page, BadRow)]
        neighbours = {"after": make_row("b"), "before": make_row("e")}
        reason = "start_time cannot be None"
        assert bad == [BadRow(2, reason, **neighbours), BadRow(3, reason, **neighbours)]

    def test_at_either_end_it_has_one_neighbour(self) -> None:
        bad = [page for page in walked(Listing(IDS, "af"), 1000) if isinstance(page, BadRow)]
        assert [(row.after, row.before) for row in bad] == [(None, make_row("b")), (make_row("e"), None)]

    def test_one_bad_row_among_many_costs_few_requests(self) -> None:
        ids = [f"{number:04}" for number in range(5000)]
        listing = Listing(ids, ["2500"], looks_ahead=True)
        assert len(ids_of(walked(listing, 1000))) == 4999
        assert listing.requests < 60

    def test_a_failure_that_passes_costs_one_request(self) -> None:
        listing, failures = Listing(IDS), iter([False, True])

        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            if next(failures, False):
                raise PageError("deadlock", status=500)
            return listing.fetch(token, size, backwards)

        assert ids_of(list(walk(fetch, 3, run_id_of))) == list(IDS)
        assert listing.requests == 2

    def test_more_bad_rows_than_raise_doubts_are_still_passed(self) -> None:
        ids = [f"{number:04}" for number in range(250)]
        assert ids_of(walked(Listing(ids, ids[10:240]), 1000)) == ids[:10] + ids[240:]

    def test_a_server_that_fails_on_everything_is_given_up(self) -> None:
        requests = 0

        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            nonlocal requests
            requests += 1
            raise PageError("the database is gone", status=500)

        with pytest.raises(PageError, match="the database is gone"):
            list(walk(fetch, 1000, run_id_of))
        assert requests < 150

    def test_a_bad_row_behind_a_token_that_is_no_offset_breaks_the_listing_off(self) -> None:
        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            if token:
                raise PageError("boom", status=500)
            return Page([make_row("a")], "opaque")

        walking = walk(fetch, 1, run_id_of)
        assert ids_of([next(walking)]) == ["a"]
        with pytest.raises(PageError, match="boom"):
            next(walking)

    def test_an_error_that_is_none_of_a_row_is_passed_on(self) -> None:
        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            raise ServerError("no access", status=403)

        with pytest.raises(ServerError, match="no access"):
            list(walk(fetch, 1, run_id_of))


class TestChangesMeanwhile:
    """MLflow's tokens count rows from the start, and others write to it."""

    @staticmethod
    def changing(listing: Listing, change: Callable[[Listing], None]) -> Fetch:
        """Changes once, behind the first page."""
        changes = iter([lambda _: None, change])

        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            next(changes, lambda _: None)(listing)
            return listing.fetch(token, size, backwards)

        return fetch

    @pytest.mark.parametrize("gone", ["a", "b", "c"])
    def test_rows_that_went_away_before_the_place_are_noticed(self, gone: str) -> None:
        """Without a look at the last row, the first of the next page would be passed over in silence."""
        pages = list(walk(self.changing(Listing("abcdefgh"), lambda listing: listing.ids.remove(gone)), 3, run_id_of))
        moved = [page for page in pages if isinstance(page, Moved)]
        assert [run_id_of(page.after) for page in moved] == ["c"]
        assert ids_of(pages)[:3] == ["a", "b", "c"]
        assert ids_of(pages)[-1] == "h"

    @pytest.mark.parametrize("new", ["0", "aa", "bb"])
    def test_rows_that_came_before_it_make_nothing_come_twice(self, new: str) -> None:
        def add(listing: Listing) -> None:
            listing.ids = sorted([*listing.ids, new])

        pages = list(walk(self.changing(Listing("abcdefgh"), add), 3, run_id_of))
        assert ids_of(pages) == list("abcdefgh")
        assert not any(isinstance(page, Moved) for page in pages)

    def test_runs_that_went_away_are_noticed_too(self) -> None:
        listing = Listing("abcdefgh")
        fetch = self.changing(listing, lambda changed: changed.ids.remove("a"))
        pages = list(walk_runs(lambda token, size, backwards, _: fetch(token, size, backwards), 3))
        assert [run_id_of(page.after) for page in pages if isinstance(page, Moved)] == ["c"]

    def test_a_bad_row_is_not_lost_when_another_goes_away_meanwhile(self) -> None:
        """Looked for from the other side it would seem to be good: another stands in its place."""
        listing = Listing("abcdefgh", bad="c", looks_ahead=True)
        fetched = listing.fetch

        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            if backwards and "h" in listing.ids:
                listing.ids.remove("h")
            return fetched(token, size, backwards)

        pages = list(walk(fetch, 1000, run_id_of))
        assert len(bad_places(pages)) == 1
        assert sorted(ids_of(pages)) == list("abdefgh")


class TestForEver:
    @pytest.mark.parametrize("cycle", [["t1"], ["t1", "t2"], ["t1", "t2", "t3"]])
    def test_tokens_that_come_again_are_an_error(self, cycle: list[str]) -> None:
        tokens = iter(cycle * 100)
        with pytest.raises(ServerError, match="same page token twice"):
            list(walk(lambda *_: Page([make_row("a")], next(tokens)), 1, run_id_of))

    def test_so_are_empty_pages_without_end(self) -> None:
        tokens = map(str, range(100_000))
        with pytest.raises(ServerError, match="same page token twice"):
            list(walk(lambda *_: Page([], next(tokens)), 1, run_id_of))

    def test_around_bad_rows_pages_without_rows_and_end_are_given_up(self) -> None:
        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            if token is None:
                raise PageError("boom", status=500)
            return Page([], "more")

        with pytest.raises(ServerError, match="pages without rows, and no end"):
            list(walk(fetch, 1, run_id_of))


class TestRowsThatOneMayNotRead:
    """MLflow's basic authentication takes them out of each page, and counts them in its tokens (3.17)."""

    @staticmethod
    def fetch_of(ids: list[int], bad: set[int], denied: set[int]) -> Fetch:
        """Of a server that reads one row more than asked for. `ids` may change meanwhile."""

        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            start = offset_of(token, PageError(""))
            listed = ids[::-1] if backwards else list(ids)
            if bad.intersection(listed[start : start + size + 1]):
                raise PageError("boom", status=500)
            rows = [make_row(str(id_)) for id_ in listed[start : start + size] if id_ not in denied]
            return Page(rows, offset_token(start + size) if start + size < len(ids) else None)

        return fetch

    @pytest.mark.parametrize("page_size", [1, 3, 4, 7, 50])
    @pytest.mark.parametrize("bad", [set(), {0}, {5}, {14}, {29}, {5, 8, 20}])
    @pytest.mark.parametrize("denied", [set(), {0, 1}, set(range(8, 14)), {28, 29}, set(range(0, 30, 2))])
    def test_nothing_else_is_lost(self, page_size: int, bad: set[int], denied: set[int]) -> None:
        fetch = self.fetch_of(list(range(30)), bad, denied)
        pages = list(walk(fetch, page_size, run_id_of, 100))
        found = [id_ for id_ in map(int, ids_of(pages)) if id_ not in denied]
        reported = [page for page in pages if isinstance(page, BadRow)]
        lost = set(range(30)) - bad - denied - set(found)
        assert len(found) == len(set(found))
        assert len(reported) >= len(bad - denied)
        # Towards an end that one may not see, a good row beside a bad one may be told as bad too, but is never silent.
        assert len(lost) <= len(reported) - len(bad - denied)
        assert not lost or {28, 29} & denied

    @pytest.mark.parametrize("page_size", [2, 3, 5, 8])
    @pytest.mark.parametrize("gone", [0, 2, 9])
    def test_what_is_deleted_meanwhile_makes_no_other_be_passed_over_silently(self, page_size: int, gone: int) -> None:
        ids, denied = list(range(30)), {1, 3, 10, 11, 12, 13}
        fetch, asked = self.fetch_of(ids, set(), denied), 0

        def deleting(token: str | None, size: int, backwards: bool) -> Page:
            nonlocal asked
            asked += 1
            if asked == 4:
                ids.remove(gone)
            return fetch(token, size, backwards)

        pages = list(walk(deleting, page_size, run_id_of, 100))
        found = set(map(int, ids_of(pages)))
        lost = set(range(30)) - denied - {gone} - found
        assert not lost or any(isinstance(page, Moved) for page in pages)


class TestTokens:
    def test_a_token_is_the_one_that_mlflow_makes(self) -> None:
        """As `SearchUtils.create_page_token` of mlflow 2.10 to 3.17 does."""
        assert offset_token(1000) == "eyJvZmZzZXQiOiAxMDAwfQ=="

    def test_the_start_needs_none(self) -> None:
        assert offset_token(0) is None

    def test_a_token_is_read_back(self) -> None:
        assert offset_of("eyJvZmZzZXQiOiAxMDAwfQ==", PageError("")) == 1000

    @pytest.mark.parametrize("token", ["opaque", "bm8ganNvbg==", "WzFd", "eyJvZmZzZXQiOiBudWxsfQ==", "é", "/w=="])
    def test_any_other_token_raises_the_error_that_made_it_of_interest(self, token: str) -> None:
        error = PageError("boom")
        with pytest.raises(PageError) as raised:
            offset_of(token, error)
        assert raised.value is error


class Pages:
    """Counts what is fetched, and lets a test wait for it."""

    def __init__(self, count: int, error: BaseException | None = None) -> None:
        self.fetched = 0
        self.thread: threading.Thread | None = None
        self._count, self._error = count, error
        self._more = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        self.thread = threading.current_thread()
        for number in range(self._count):
            with self._more:
                self.fetched += 1
                self._more.notify_all()
            yield number
        if self._error:
            raise self._error

    def wait_for(self, count: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: self.fetched >= count, SECONDS)

    def thread_has_ended(self) -> bool:
        assert self.thread
        self.thread.join(SECONDS)
        return not self.thread.is_alive()


class TestReadAhead:
    def test_the_same_pages_come_in_the_same_order(self) -> None:
        assert list(read_ahead(iter(Pages(50)))) == list(range(50))

    def test_the_next_two_pages_are_fetched_while_one_is_used(self) -> None:
        pages = Pages(10)
        ahead = read_ahead(iter(pages))
        assert next(ahead) == 0
        pages.wait_for(3)
        ahead.close()  # type: ignore[attr-defined] # a generator

    def test_never_more_than_two_pages_are_fetched_ahead(self) -> None:
        pages = Pages(10)
        ahead = read_ahead(iter(pages))
        for number in range(5):
            assert next(ahead) == number
            pages.wait_for(number + 3)
            assert pages.thread
            pages.thread.join(0.01)  # time enough to do what it must not
            assert pages.fetched == number + 3
        ahead.close()  # type: ignore[attr-defined] # a generator

    def test_the_first_two_pages_are_fetched_before_they_are_asked_for_and_no_others(self) -> None:
        pages = Pages(10)
        ahead = read_ahead(iter(pages))
        deadline = time.monotonic() + 5
        while pages.fetched < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert pages.fetched == 2
        assert next(ahead) == 0

    def test_an_error_comes_behind_the_pages_before_it(self) -> None:
        error = ServerError("gone")
        ahead = read_ahead(iter(Pages(2, error)))
        assert [next(ahead), next(ahead)] == [0, 1]
        with pytest.raises(ServerError) as raised:
            next(ahead)
        assert raised.value is error

    def test_the_thread_ends_with_the_pages(self) -> None:
        pages = Pages(3)
        list(read_ahead(iter(pages)))
        assert pages.thread_has_ended()

    def test_the_thread_ends_when_the_consumer_stops_early(self) -> None:
        pages = Pages(1000)
        ahead = read_ahead(iter(pages))
        next(ahead)
        ahead.close()  # type: ignore[attr-defined] # a generator
        assert pages.thread_has_ended()
        assert pages.fetched <= 3

    def test_it_ends_too_when_the_consumer_is_dropped(self) -> None:
        pages = Pages(1000)
        for _ in read_ahead(iter(pages)):
            break
        assert pages.thread_has_ended()

    def test_it_keeps_no_process_alive(self) -> None:
        pages = Pages(1)
        list(read_ahead(iter(pages)))
        assert pages.thread
        assert pages.thread.daemon
