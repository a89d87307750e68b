"""Around runs that MLflow can't serve: every good one once and in order, and of the bad ones the number and ids."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Sequence
from itertools import combinations

import pytest

from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.readers.bad_runs import BadRuns, run_id_of, spell_out, walk_runs
from datahub_mlflow_source.readers.paging import Page
from tests.unit.listing import Listing, ids_of, make_row

IDS = "abcdef"
BAD_SETS = [set(bad) for count in range(len(IDS) + 1) for bad in combinations(IDS, count)]
LOOKS_AHEAD = pytest.mark.parametrize("looks_ahead", [False, True], ids=["before 3.10", "since 3.10"])

HEX_IDS = (
    "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "0a1b2c3d4e5f60718293a4b5c6d7e8fa",
    "7f1b2c3d4e5f60718293a4b5c6d7e8f9",
    "ffffffffffffffffffffffffffffffff",
)


def walked(listing: Listing, page_size: int) -> list[object]:
    return list(walk_runs(listing.fetch_runs, page_size))


def gaps_in(pages: Sequence[object]) -> list[BadRuns]:
    return [page for page in pages if isinstance(page, BadRuns)]


class TestWalkRuns:
    @LOOKS_AHEAD
    @pytest.mark.parametrize("page_size", [1, 2, 3, 7, 1000])
    def test_every_good_run_comes_once_and_in_order_wherever_bad_ones_are(
        self, page_size: int, looks_ahead: bool
    ) -> None:
        for bad in BAD_SETS:
            pages = walked(Listing(IDS, bad, looks_ahead=looks_ahead), page_size)
            assert ids_of(pages) == sorted(set(IDS) - bad), f"with {bad} bad"

    @LOOKS_AHEAD
    @pytest.mark.parametrize("page_size", [1, 2, 3, 7, 1000])
    def test_bad_runs_are_counted_and_each_stands_in_its_gap(self, page_size: int, looks_ahead: bool) -> None:
        for bad in BAD_SETS:
            gaps = gaps_in(walked(Listing(IDS, bad, looks_ahead=looks_ahead), page_size))
            assert sum(gap.count for gap in gaps) == len(bad), f"with {bad} bad"
            found: list[str] = []
            for gap in gaps:
                inside = sorted(id_ for id_ in bad if gap.after < id_ < (gap.before or "~") and id_ not in found)
                found += inside[: gap.count]
            assert found == sorted(bad), f"gaps {gaps}"

    @LOOKS_AHEAD
    def test_more_bad_runs_on_end_than_fit_a_page_give_no_run_twice(self, looks_ahead: bool) -> None:
        pages = walked(Listing("abcdefgh", "abcg", looks_ahead=looks_ahead), 2)
        assert ids_of(pages) == ["d", "e", "f", "h"]

    @LOOKS_AHEAD
    def test_bad_runs_that_no_filter_leaves_out_cost_only_their_neighbours_between_two(self, looks_ahead: bool) -> None:
        for bad in BAD_SETS:
            pages = walked(Listing(IDS, bad, looks_ahead=looks_ahead, filter_helps=False), 3)
            locked_in = {
                id_ for id_, left, right in zip(IDS[1:], IDS, IDS[2:], strict=False) if {left, right} <= bad - {id_}
            }
            lost = bad | (locked_in if looks_ahead else set())
            assert sorted(ids_of(pages)) == sorted(set(IDS) - lost), f"with {bad} bad"
            assert sum(gap.count for gap in gaps_in(pages)) == len(lost), f"with {bad} bad"

    def test_a_listing_without_bad_runs_takes_one_request_for_each_page(self) -> None:
        listing = Listing(IDS)
        assert ids_of(walked(listing, 2)) == list(IDS)
        assert listing.requests == 3

    def test_one_bad_run_costs_few_requests_also_among_many(self) -> None:
        ids = [f"{number:04}" for number in range(10_000)]
        listing, good = Listing(ids, ["5000"], looks_ahead=True), Listing(ids)
        assert ids_of(walked(listing, 1000)) == [id_ for id_ in ids if id_ != "5000"]
        assert ids_of(walked(good, 1000)) == ids
        assert (good.requests, listing.requests) == (35, 36)

    def test_a_gap_names_the_good_runs_on_both_sides_and_the_reason(self) -> None:
        gaps = gaps_in(walked(Listing(IDS, "cd"), 2))
        assert gaps == [BadRuns(2, after="b", before="e", reason="start_time cannot be None")]

    def test_a_failure_that_passes_loses_nothing(self) -> None:
        listing = Listing(IDS)
        failures = iter([False, True])

        def fetch(token: str | None, size: int, backwards: bool, servable: bool) -> Page:
            if next(failures, False):
                raise PageError("deadlock", status=500)
            return listing.fetch_runs(token, size, backwards, servable)

        pages = list(walk_runs(fetch, 2))
        assert ids_of(pages) == list(IDS)
        assert gaps_in(pages) == []

    def test_the_servers_own_page_tokens_are_used(self) -> None:
        """Those of Databricks are no offsets."""
        pages = {None: Page([make_row("a")], "opaque-1"), "opaque-1": Page([make_row("b")], None)}
        walked = list(walk_runs(lambda token, *_: pages[token], 1))
        assert ids_of(walked) == ["a", "b"]

    def test_an_empty_page_with_a_token_is_not_the_end(self) -> None:
        pages = {None: Page([make_row("a")], "t1"), "t1": Page([], "t2"), "t2": Page([make_row("b")], None)}
        walked = list(walk_runs(lambda token, *_: pages[token], 1))
        assert ids_of(walked) == ["a", "b"]

    def test_the_same_token_twice_is_an_error(self) -> None:
        page = Page([make_row("a")], "t1")
        with pytest.raises(ServerError, match=r"same page token twice\. Check for a proxy"):
            list(walk_runs(lambda *_: page, 1))

    def test_a_bad_run_behind_tokens_that_are_no_offsets_breaks_the_listing_off(self) -> None:
        def fetch(token: str | None, size: int, backwards: bool, servable: bool) -> Page:
            if token:
                raise PageError("boom", status=500)
            return Page([make_row("a")], "opaque")

        walking = walk_runs(fetch, 1)
        assert ids_of([next(walking)]) == ["a"]
        with pytest.raises(PageError, match="boom"):
            next(walking)

    @pytest.mark.parametrize("servable_answers", [False, True])
    def test_a_server_that_fails_on_everything_is_given_up(self, servable_answers: bool) -> None:
        requests = 0

        def fetch(token: str | None, size: int, backwards: bool, servable: bool) -> Page:
            nonlocal requests
            requests += 1
            if servable and servable_answers:
                return Page([], None)
            raise PageError("the database is gone", status=500)

        with pytest.raises(PageError, match="the database is gone"):
            list(walk_runs(fetch, 1000))
        assert requests < 150

    def test_a_row_that_is_no_run_passes_by_like_any_other(self) -> None:
        rows = [make_row("a"), {"info": {}}, {"info": []}, {}]
        page = Page(rows, None)
        assert list(walk_runs(lambda *_: page, 10)) == [rows]


class Runs:
    """Answers "does a search with this filter meet a bad run?" as a server with these bad ones."""

    def __init__(self, bad: Collection[str]) -> None:
        self.bad, self.questions = bad, 0

    def fails(self, condition: str) -> bool:
        self.questions += 1
        found = set(self.bad)
        for operator, value in re.findall(r"attributes\.run_id (=|!=|LIKE) '([^']*)'", condition):
            keep = {
                "=": lambda id_, v=value: id_ == v,
                "!=": lambda id_, v=value: id_ != v,
                "LIKE": lambda id_, v=value: id_.startswith(v.removesuffix("%")),
            }[operator]
            found = set(filter(keep, found))
        return bool(found)


ANYWHERE = BadRuns(1, after="", before="", reason="")


class TestSpellOut:
    @pytest.mark.parametrize("run_id", HEX_IDS)
    def test_the_exact_id_is_found_with_sixteen_questions_a_digit_at_most(self, run_id: str) -> None:
        runs = Runs([run_id])
        assert spell_out(runs.fails, ANYWHERE, []) == run_id
        assert runs.questions <= 16 * 32 + 2

    def test_neighbours_with_a_common_beginning_spare_questions(self) -> None:
        runs = Runs(["ffffffffffffffffffffffffffffffff"])
        gap = BadRuns(1, after="fffffffffffffffffffffffffffffff0", before="", reason="")
        assert spell_out(runs.fails, gap, []) == "ffffffffffffffffffffffffffffffff"
        assert runs.questions < 60

    def test_no_question_is_asked_about_what_both_neighbours_begin_with(self) -> None:
        """It would find a good part of all runs, where there are many."""
        asked: list[str] = []
        runs = Runs(["3fa8" + 28 * "0"])

        def fails(condition: str) -> bool:
            asked.append(condition)
            return runs.fails(condition)

        gap = BadRuns(1, after="3fa1" + 28 * "0", before="3fb0" + 28 * "0", reason="")
        assert spell_out(fails, gap, []) == "3fa8" + 28 * "0"
        assert min(len(prefix) for prefix in re.findall(r"LIKE '(\w*)%'", " ".join(asked))) == 3

    @pytest.mark.parametrize(
        "run_id", ["x", "my-run", "550e8400-e29b-41d4-a716-446655440000", "Z" * 40, string.ascii_letters[:32]]
    )
    def test_ids_that_people_chose_are_found_too(self, run_id: str) -> None:
        assert spell_out(Runs([run_id]).fails, ANYWHERE, []) == run_id

    def test_known_ones_are_passed_over(self) -> None:
        runs = Runs(HEX_IDS)
        found: list[str] = []
        for _ in HEX_IDS:
            run_id = spell_out(runs.fails, ANYWHERE, found)
            assert run_id is not None
            found.append(run_id)
        assert sorted(found) == sorted(HEX_IDS)
        assert spell_out(runs.fails, ANYWHERE, found) is None

    def test_an_id_that_begins_like_another_is_found_too(self) -> None:
        runs = Runs(["ab", "abc"])
        assert spell_out(runs.fails, ANYWHERE, []) == "abc"
        assert spell_out(runs.fails, ANYWHERE, ["abc"]) == "ab"

    @pytest.mark.parametrize("run_id", ["with blank", "ünï", "under_score"])
    def test_none_where_an_id_holds_other_characters(self, run_id: str) -> None:
        assert spell_out(Runs([run_id]).fails, ANYWHERE, []) is None

    def test_none_where_everything_fails_as_no_id_would_be_true(self) -> None:
        assert spell_out(lambda _: True, ANYWHERE, []) is None

    def test_none_where_nothing_fails_any_more(self) -> None:
        assert spell_out(lambda _: False, ANYWHERE, []) is None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"info": {"run_id": "a", "run_uuid": "b"}}, "a"),
        ({"info": {"run_uuid": "b"}}, "b"),
        ({"info": {"run_id": None}}, ""),
        ({"info": None}, ""),
        ({}, ""),
        ("no row", ""),
    ],
)
def test_run_id_of_any_row(row: object, expected: str) -> None:
    assert run_id_of(row) == expected  # type: ignore[arg-type] # what a server sends is not checked before
