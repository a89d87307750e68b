"""What MLflow's REST API holds comes as records; what can't be read comes as Unreadable in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import pytest
import responses

from datahub_mlflow_source.connection import Connection
from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers import rest
from datahub_mlflow_source.readers.base import RunScope
from datahub_mlflow_source.readers.rest import RestReader
from datahub_mlflow_source.records import LoggedModel, ModelVersion, RegisteredModel, Run, Unreadable
from tests.unit.fake_mlflow import URL, FakeMlflow, make_experiment_row, make_logged_model_row, make_run_row
from tests.unit.records import START

ALL = RunScope()
REASON = "MLflow failed on runs/search with 500: start_time cannot be None"
HEX_IDS = [f"{number:032x}" for number in range(0x3FA0, 0x3FA8)]


@pytest.fixture
def mlflow() -> Iterator[FakeMlflow]:
    with FakeMlflow().served() as fake:
        yield fake


def open_reader(page_size: int = 1000, registry_url: str = URL, max_workers: int = 1) -> RestReader:
    return RestReader(Connection(URL, max_retries=0), Connection(registry_url, max_retries=0), page_size, max_workers)


def ids_of(records: Iterable[Any]) -> list[str]:
    return [record.run_id for record in records if not isinstance(record, Unreadable)]


def unreadable(records: Iterable[Any]) -> list[Unreadable]:
    return [record for record in records if isinstance(record, Unreadable)]


class TestExperiments:
    def test_all_of_them_come_by_id_the_deleted_ones_too(self, mlflow: FakeMlflow) -> None:
        mlflow.experiments = [make_experiment_row("0"), make_experiment_row("1", lifecycle_stage="deleted")]
        found = list(open_reader().experiments())
        assert [(e.experiment_id, e.lifecycle_stage) for e in found if not isinstance(e, Unreadable)] == [
            ("0", "active"),
            ("1", "deleted"),
        ]
        assert mlflow.queries("experiments/search") == [
            {"max_results": 1000, "view_type": "ALL", "order_by": ["experiment_id ASC"]}
        ]

    def test_they_come_in_pages(self, mlflow: FakeMlflow) -> None:
        mlflow.experiments = [make_experiment_row(str(number)) for number in range(5)]
        assert len(list(open_reader(page_size=2).experiments())) == 5
        assert len(mlflow.queries("experiments/search")) == 3

    def test_a_bad_one_is_named_by_its_place_and_neighbours(self, mlflow: FakeMlflow) -> None:
        mlflow.experiments = [make_experiment_row(str(number)) for number in range(5)]
        mlflow.bad, mlflow.looks_ahead = {"3"}, False
        assert unreadable(open_reader().experiments()) == [
            Unreadable(
                "experiment",
                "the one at place 3, ordered by id, after experiment 2, before experiment 4",
                "MLflow failed on experiments/search with 500: start_time cannot be None",
            )
        ]


class TestRegistry:
    def test_models_come_first_and_give_their_aliases_to_their_versions(self, mlflow: FakeMlflow) -> None:
        aliases = [{"alias": "champion", "version": "2"}, {"alias": "best", "version": "2"}]
        mlflow.models = [{"name": "a", "aliases": aliases}, {"name": "b"}]
        mlflow.versions = [{"name": "a", "version": "1"}, {"name": "a", "version": "2"}, {"name": "b", "version": "1"}]
        models: list[object] = []
        versions: list[object] = []
        for record in open_reader().registry():
            if isinstance(record, RegisteredModel):
                assert not versions
                models.append((record.name, record.aliases))
            elif isinstance(record, ModelVersion):
                versions.append((record.name, record.version, record.aliases))
        assert models == [("a", (("best", "2"), ("champion", "2"))), ("b", ())]
        assert versions == [("a", "1", ()), ("a", "2", ("best", "champion")), ("b", "1", ())]

    def test_of_a_version_whose_model_was_not_read_nobody_knows_the_aliases(self, mlflow: FakeMlflow) -> None:
        mlflow.models = [{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]
        mlflow.versions = [{"name": "a", "version": "1"}, {"name": "c", "version": "1"}]
        mlflow.bad, mlflow.looks_ahead = {"c"}, False
        found = list(open_reader().registry())
        assert [record.what for record in unreadable(found)] == [
            "the one at place 2, ordered by name, after b, before d"
        ]
        versions = [record for record in found if isinstance(record, ModelVersion)]
        assert [(record.name, record.aliases_known) for record in versions] == [("a", True), ("c", False)]

    def test_a_page_of_models_is_never_larger_than_mlflow_allows(self, mlflow: FakeMlflow) -> None:
        list(open_reader(page_size=50_000).registry())
        assert mlflow.queries("registered-models/search")[0]["max_results"] == "900"
        assert mlflow.queries("model-versions/search")[0]["max_results"] == "49000"

    def test_a_registry_of_its_own_is_asked_for_models_and_for_nothing_else(self, mlflow: FakeMlflow) -> None:
        mlflow.experiments, mlflow.runs = [make_experiment_row("1")], [make_run_row("a")]
        other = FakeMlflow(models=[{"name": "m"}], versions=[{"name": "m", "version": "1"}])
        with responses.RequestsMock() as mock:
            mlflow.add_to(mock, URL)
            other.add_to(mock, "http://registry.test")
            mock.assert_all_requests_are_fired = False
            reader = open_reader(registry_url="http://registry.test")
            reader.check()
            assert len(list(reader.experiments())) == 1
            assert ids_of(reader.runs(["1"], ALL)) == ["a"]
            assert len(list(reader.registry())) == 2
            assert {path for path, _ in mlflow.asked} == {"experiments/search", "runs/search"}
            assert {path for path, _ in other.asked} == {"registered-models/search", "model-versions/search"}
            assert reader.requests_sent == len(mlflow.asked) + len(other.asked) == 6
            reader.close()

    def test_one_server_for_both_is_checked_once(self, mlflow: FakeMlflow) -> None:
        reader = open_reader()
        reader.check()
        assert mlflow.asked == [("experiments/search", {"max_results": "1"})]
        assert reader.requests_sent == 1


class TestRuns:
    def test_they_come_by_id_as_the_recipe_asks_for(self, mlflow: FakeMlflow) -> None:
        mlflow.runs = [make_run_row("b"), make_run_row("a")]
        scope = RunScope(include_deleted=True, filter="metrics.auc > 0.8", started_after=START)
        assert ids_of(open_reader().runs(["1", "2"], scope)) == ["a", "b"]
        assert mlflow.queries("runs/search") == [
            {
                "experiment_ids": ["1", "2"],
                "run_view_type": "ALL",
                "order_by": ["attributes.run_id ASC"],
                "max_results": 200,
                "filter": "metrics.auc > 0.8 AND attributes.start_time > 1700000000000",
            }
        ]

    def test_deleted_ones_are_left_out_unless_asked_for(self, mlflow: FakeMlflow) -> None:
        list(open_reader().runs(["1"], ALL))
        assert mlflow.queries("runs/search")[0]["run_view_type"] == "ACTIVE_ONLY"

    def test_no_experiments_need_no_request(self, mlflow: FakeMlflow) -> None:
        assert list(open_reader().runs([], ALL)) == []
        assert mlflow.asked == []

    def test_five_hundred_experiments_share_a_request(self, mlflow: FakeMlflow) -> None:
        list(open_reader().runs(map(str, range(1200)), ALL))
        assert [len(query["experiment_ids"]) for query in mlflow.queries("runs/search")] == [500, 500, 200]

    def test_several_listings_come_as_one(self, mlflow: FakeMlflow) -> None:
        """Their order does not depend on which of them MLflow answers first."""
        mlflow.runs = [
            make_run_row(run_id, experiment_id=experiment)
            for run_id, experiment in zip("abcdef", "113321", strict=True)
        ]
        assert ids_of(open_reader(max_workers=2).runs("123", ALL)) == list("abcdef")
        assert sorted(query["experiment_ids"] for query in mlflow.queries("runs/search")) == [["1", "3"], ["2"]]

    def test_a_bad_one_is_left_out_of_its_listing_only(self, mlflow: FakeMlflow) -> None:
        mlflow.runs = [make_run_row(run_id, experiment_id=str(1 + index % 2)) for index, run_id in enumerate(HEX_IDS)]
        mlflow.bad = {HEX_IDS[2]}
        found = list(open_reader(page_size=2, max_workers=2).runs("12", ALL))
        assert ids_of(found) == [run_id for run_id in HEX_IDS if run_id not in mlflow.bad]
        assert [record.run_id for record in unreadable(found)] == [HEX_IDS[2]]

    @pytest.mark.parametrize("looks_ahead", [False, True], ids=["before 3.10", "since 3.10"])
    @pytest.mark.parametrize("page_size", [1, 3, 1000])
    def test_bad_ones_are_left_out_and_named(self, mlflow: FakeMlflow, page_size: int, looks_ahead: bool) -> None:
        mlflow.looks_ahead = looks_ahead
        mlflow.runs = [make_run_row(run_id) for run_id in HEX_IDS]
        mlflow.bad = {HEX_IDS[2], HEX_IDS[4]}
        found = list(open_reader(page_size).runs(["1"], ALL))
        assert ids_of(found) == [run_id for run_id in HEX_IDS if run_id not in mlflow.bad]
        assert unreadable(found) == [
            Unreadable("run", run_id, REASON, run_id=run_id) for run_id in (HEX_IDS[2], HEX_IDS[4])
        ]

    def test_so_are_those_that_no_filter_leaves_out(self, mlflow: FakeMlflow) -> None:
        mlflow.filter_helps = False
        mlflow.runs = [make_run_row(run_id) for run_id in HEX_IDS]
        mlflow.bad = {HEX_IDS[4]}
        found = list(open_reader().runs(["1"], ALL))
        assert sorted(ids_of(found)) == [run_id for run_id in HEX_IDS if run_id != HEX_IDS[4]]
        assert [record.run_id for record in unreadable(found)] == [HEX_IDS[4]]

    def test_of_many_bad_ones_the_rest_are_told_by_their_neighbours(
        self, mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rest, "_SECONDS_TO_NAME_BAD_RUNS", 1e-9)
        mlflow.runs = [make_run_row(run_id) for run_id in HEX_IDS]
        mlflow.bad, mlflow.looks_ahead = set(HEX_IDS[2:5]), False
        found = unreadable(open_reader(page_size=2).runs(["1"], ALL))
        place = f"one whose id is between {HEX_IDS[1]} and {HEX_IDS[6]}"
        assert [(record.what, record.run_id) for record in found] == [
            (HEX_IDS[2], HEX_IDS[2]),
            (place, ""),
            (place, ""),
        ]

    def test_the_scope_holds_while_a_bad_one_is_named(self, mlflow: FakeMlflow) -> None:
        mlflow.runs, mlflow.bad = [make_run_row(HEX_IDS[0], experiment_id="7")], {HEX_IDS[0]}
        scope = RunScope(include_deleted=True, filter="metrics.auc > 0.8")
        assert [record.run_id for record in unreadable(open_reader().runs(["7"], scope))] == [HEX_IDS[0]]
        for query in mlflow.queries("runs/search"):
            assert query["filter"].startswith("metrics.auc > 0.8")
            assert (query["experiment_ids"], query["run_view_type"]) == (["7"], "ALL")


class TestLatestRuns:
    LATEST = RunScope(latest_per_experiment=3)

    @pytest.fixture
    def runs(self, mlflow: FakeMlflow) -> None:
        mlflow.runs = [make_run_row(run_id, start_time=START + ord(run_id)) for run_id in "abcdef"]

    @pytest.mark.usefixtures("runs")
    def test_only_so_many_of_each_experiment_come_in_one_request_each(self, mlflow: FakeMlflow) -> None:
        assert ids_of(open_reader().runs(["1", "2"], self.LATEST)) == ["f", "e", "d"]
        queries = mlflow.queries("runs/search")
        assert [query["experiment_ids"] for query in queries] == [["1"], ["2"]]
        assert queries[0]["order_by"] == ["attributes.start_time DESC", "attributes.run_id ASC"]
        assert queries[0]["max_results"] == 3

    @pytest.mark.usefixtures("runs")
    def test_more_than_a_page_come_in_pages(self, mlflow: FakeMlflow) -> None:
        assert ids_of(open_reader(page_size=2).runs(["1"], self.LATEST)) == ["f", "e", "d"]
        assert [query["max_results"] for query in mlflow.queries("runs/search")] == [2, 3]

    @pytest.mark.usefixtures("runs")
    @pytest.mark.parametrize("page_size", [1, 2, 1000])
    @pytest.mark.parametrize("bad", "fed")
    def test_a_bad_one_among_them_is_reported_and_the_latest_good_ones_come(
        self, mlflow: FakeMlflow, bad: str, page_size: int
    ) -> None:
        mlflow.bad = {bad}
        found = list(open_reader(page_size).runs(["1"], self.LATEST))
        assert ids_of(found) == [run_id for run_id in "fedc" if run_id != bad]
        assert unreadable(found) == [Unreadable("run", "one of the latest of experiment 1", REASON)]


class TestRunsById:
    def test_those_in_these_experiments_and_in_scope_come_in_one_request(self, mlflow: FakeMlflow) -> None:
        mlflow.runs = [make_run_row(run_id) for run_id in "abc"]
        scope = RunScope(filter="metrics.auc > 0.8", latest_per_experiment=1)
        assert ids_of(open_reader().runs_by_id(["c", "a", "gone"], ["1", "2"], scope)) == ["a", "c"]
        assert mlflow.queries("runs/search") == [
            {
                "experiment_ids": ["1", "2"],
                "run_view_type": "ACTIVE_ONLY",
                "filter": "attributes.run_id IN ('a', 'c', 'gone') AND metrics.auc > 0.8",
                "order_by": ["attributes.run_id ASC"],
                "max_results": 3,
            }
        ]

    def test_five_hundred_share_a_request(self, mlflow: FakeMlflow) -> None:
        list(open_reader().runs_by_id([f"{number:04}" for number in range(1200)], ["1"], ALL))
        assert [query["max_results"] for query in mlflow.queries("runs/search")] == [500, 500, 200]

    def test_each_batch_of_experiments_is_asked_for_all_ids(
        self, mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rest, "_MOST_EXPERIMENTS", 1)
        list(open_reader().runs_by_id(iter("ab"), iter("12"), ALL))
        asked = [(query["experiment_ids"], query["filter"]) for query in mlflow.queries("runs/search")]
        assert asked == [(["1"], "attributes.run_id IN ('a', 'b')"), (["2"], "attributes.run_id IN ('a', 'b')")]

    def test_around_a_bad_one_they_come_in_halves(self, mlflow: FakeMlflow) -> None:
        mlflow.runs = [make_run_row(run_id) for run_id in "abcdefgh"]
        mlflow.bad = {"c"}
        found = list(open_reader().runs_by_id("abcdefgh", ["1"], ALL))
        assert ids_of(found) == list("abdefgh")
        assert unreadable(found) == [Unreadable("run", "c", REASON, run_id="c")]
        assert len(mlflow.asked) == 7

    def test_an_id_that_no_run_can_have_is_not_asked_for(self, mlflow: FakeMlflow) -> None:
        """A version may claim any; a quote in it would spoil the search for all others."""
        mlflow.runs = [make_run_row("a")]
        assert ids_of(open_reader().runs_by_id(["a", "it's", "", "x y", "a') OR"], ["1"], ALL)) == ["a"]
        assert mlflow.queries("runs/search")[0]["filter"] == "attributes.run_id IN ('a')"

    def test_a_refusal_breaks_the_listing_off(self, mlflow: FakeMlflow) -> None:
        mlflow.answers["runs/search"] = (403, {}, "{}")
        found = unreadable(open_reader().runs_by_id(["a"], ["1"], ALL))
        assert [(record.what, record.listing_broke_off) for record in found] == [("a search for runs by id", True)]


class TestLoggedModels:
    def test_those_of_these_experiments_come_by_id(self, mlflow: FakeMlflow) -> None:
        mlflow.logged_models = [
            make_logged_model_row("m-b"),
            make_logged_model_row("m-a", experiment_id="2"),
            make_logged_model_row("m-c", experiment_id="3"),
        ]
        assert model_ids(open_reader(), "12") == ["m-a", "m-b"]
        assert mlflow.queries("logged-models/search") == [
            {
                "experiment_ids": ["1", "2"],
                "order_by": [{"field_name": "model_id", "ascending": True}],
                "max_results": 250,
            }
        ]

    @pytest.mark.parametrize("page_size", [1, 2, 3, 1000])
    def test_all_pages_come(self, mlflow: FakeMlflow, page_size: int) -> None:
        mlflow.logged_models = [make_logged_model_row(f"m-{number}") for number in range(7)]
        assert model_ids(open_reader(page_size)) == [f"m-{number}" for number in range(7)]

    @pytest.mark.parametrize("page_size", [1, 2, 1000])
    @pytest.mark.parametrize("looks_ahead", [False, True], ids=["before 3.10", "since 3.10"])
    @pytest.mark.parametrize("bad", [0, 3, 6])
    def test_a_bad_one_is_left_out(self, mlflow: FakeMlflow, page_size: int, bad: int, looks_ahead: bool) -> None:
        mlflow.looks_ahead = looks_ahead
        ids = [f"m-{number}" for number in range(7)]
        mlflow.logged_models, mlflow.bad = [make_logged_model_row(id_) for id_ in ids], {ids[bad]}
        found = list(open_reader(page_size).logged_models("1") or ())
        assert sorted(record.model_id for record in found if isinstance(record, LoggedModel)) == sorted(
            {*ids} - {ids[bad]}
        )
        assert [(record.kind, record.listing_broke_off) for record in unreadable(found)] == [("logged model", False)]

    def test_five_hundred_experiments_share_a_request(self, mlflow: FakeMlflow) -> None:
        list(open_reader().logged_models(map(str, range(1200))) or ())
        assert [len(query["experiment_ids"]) for query in mlflow.queries("logged-models/search")] == [500, 500, 200]

    def test_no_experiments_need_no_request(self, mlflow: FakeMlflow) -> None:
        assert list(open_reader().logged_models([]) or ()) == []
        assert mlflow.asked == []

    @pytest.mark.parametrize("version", ["2.22.5", None])
    def test_an_older_server_has_none(self, mlflow: FakeMlflow, version: str | None) -> None:
        mlflow.version = version
        mlflow.answers["logged-models/search"] = (404, {}, "<!doctype html>")
        assert open_reader().logged_models("1") is None

    def test_where_a_newer_one_answers_so_something_is_wrong(self, mlflow: FakeMlflow) -> None:
        """A proxy in a bad moment: taken for none, all of them would be deleted."""
        mlflow.answers["logged-models/search"] = (404, {}, "<!doctype html>")
        found = unreadable(open_reader().logged_models("1") or ())
        assert [record.listing_broke_off for record in found] == [True]

    def test_a_row_that_is_none_of_mlflows_is_left_out_and_named(self, mlflow: FakeMlflow) -> None:
        mlflow.logged_models = [make_logged_model_row("m-a", name=7), make_logged_model_row("m-b")]
        found = list(open_reader().logged_models("1") or ())
        assert [record.what for record in unreadable(found)] == ["m-a"]


def model_ids(reader: RestReader, experiment_ids: Iterable[str] = "1") -> list[str]:
    found = reader.logged_models(experiment_ids)
    assert found is not None
    return [record.model_id for record in found if isinstance(record, LoggedModel)]


LISTINGS: dict[str, tuple[str, Callable[[RestReader], Iterator[Any]]]] = {
    "experiments/search": ("experiment", lambda reader: reader.experiments()),
    "registered-models/search": ("registered model", lambda reader: reader.registry()),
    "model-versions/search": ("model version", lambda reader: reader.registry()),
    "runs/search": ("run", lambda reader: reader.runs(["1"], ALL)),
    "logged-models/search": ("logged model", lambda reader: reader.logged_models(["1"]) or iter(())),
}
BROKEN = {
    "refused": (403, "{}"),
    "no list": (200, '{"experiments": {}, "registered_models": {}, "model_versions": {}, "runs": {}, "models": {}}'),
    "no object": (200, "[]"),
    "HTML": (200, "<html>"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("path", LISTINGS)
def test_a_listing_that_breaks_off_says_so_and_stops_nothing_else(
    mlflow: FakeMlflow, path: str, broken: tuple[int, str]
) -> None:
    mlflow.answers[path] = (broken[0], {}, broken[1])
    kind, read = LISTINGS[path]
    found = list(read(open_reader()))
    assert [(record.kind, record.listing_broke_off) for record in found] == [(kind, True)]
    assert found[0].what.startswith("the listing")


def test_runs_read_before_the_listing_broke_off_are_kept() -> None:
    url = f"{URL}/api/2.0/mlflow/runs/search"
    with responses.RequestsMock() as mock:
        mock.post(url, json={"runs": [make_run_row("a")], "next_page_token": "t"})
        mock.post(url, status=403)
        found = list(open_reader().runs(["1"], ALL))
    assert ids_of(found) == ["a"]
    assert [record.listing_broke_off for record in unreadable(found)] == [True]


def test_a_server_that_is_refused_is_told_at_once(mlflow: FakeMlflow) -> None:
    mlflow.answers["experiments/search"] = (401, {}, "")
    with pytest.raises(ServerError, match="401"):
        open_reader().check()


def test_a_filter_that_mlflow_cannot_read_is_told_before_anything_is_read(mlflow: FakeMlflow) -> None:
    refusal = {"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid clause(s) in filter string"}
    mlflow.answers["runs/search"] = (400, {}, json.dumps(refusal))
    with pytest.raises(ServerError, match=r"Invalid clause.*Check `run_filter`"):
        open_reader().check("metrics.auc >")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_whatever_else_is_wrong_with_that_search_is_told_later(mlflow: FakeMlflow, status: int) -> None:
    mlflow.answers["runs/search"] = (status, {}, "{}")
    open_reader().check("metrics.auc > 0.5")
    assert mlflow.queries("runs/search")[0]["filter"] == "metrics.auc > 0.5"


def test_the_servers_version_is_known(mlflow: FakeMlflow) -> None:
    assert open_reader().server_version() == "3.17.2"


@pytest.mark.parametrize(
    "path", ["experiments/search", "runs/search", "registered-models/search", "model-versions/search"]
)
@pytest.mark.parametrize(
    "answer", [{"error": "session expired"}, {"runs": None, "models": 1}, {"message": ""}], ids=str
)
def test_an_answer_without_the_listing_is_not_its_end(mlflow: FakeMlflow, path: str, answer: dict[str, object]) -> None:
    """Taken for an empty page, it would look as if everything had been deleted."""
    mlflow.answers[path] = (200, {}, json.dumps(answer))
    reader = open_reader()
    found = unreadable(chain(reader.experiments(), reader.runs(["1"], ALL), reader.registry()))
    assert [record.listing_broke_off for record in found] == [True]


def test_an_empty_answer_is_an_empty_listing(mlflow: FakeMlflow) -> None:
    reader = open_reader()
    assert list(chain(reader.experiments(), reader.runs(["1"], ALL), reader.registry())) == []


def test_null_for_a_text_that_may_be_absent_is_none(mlflow: FakeMlflow) -> None:
    mlflow.runs = [make_run_row("a", user_id=None, artifact_uri=None, run_name=None)]
    (run,) = open_reader().runs(["1"], ALL)
    assert isinstance(run, Run)
    assert (run.user_id, run.artifact_uri, run.name) == ("", "", "a")


def test_a_server_that_fails_on_everything_is_not_asked_for_each_run(mlflow: FakeMlflow) -> None:
    mlflow.answers["runs/search"] = (500, {}, json.dumps({"error_code": "INTERNAL_ERROR", "message": "gone"}))
    found = list(open_reader().runs_by_id([f"{number:032x}" for number in range(2000)], ["1"], ALL))
    assert [record.listing_broke_off for record in unreadable(found)] == [True]
    assert len(mlflow.asked) < 20


class TestRowsFormedOtherwise:
    """Of a server that isn't quite MLflow: each is Unreadable with a name, and the rest of its page comes."""

    @pytest.mark.parametrize(
        ("row", "name"),
        [
            ({"info": {"run_id": "x", "status": "FINISHED"}}, "x"),
            ({"info": {"run_id": "x", "experiment_id": "1"}}, "x"),
            ({"info": {"status": "FINISHED", "experiment_id": "1"}}, "a row without a name"),
            ({"info": []}, "a row without info"),
            ({"info": None}, "a row without info"),
            ({}, "a row without a name"),
            ("text", "a str"),
            (None, "a NoneType"),
            ([1], "a list"),
            (make_run_row("x", start_time="yesterday"), "x"),
            (make_run_row("x", start_time=""), "x"),
            (make_run_row("x", user_id=5), "x"),
            (make_run_row("x", run_name=7), "x"),
            (make_run_row("x", status=None), "x"),
            (make_run_row("x", experiment_id=None), "x"),
            (make_run_row("x", start_time=float("inf")), "x"),
            (make_run_row("x") | {"data": None}, "x"),
            (make_run_row("x") | {"data": []}, "x"),
            (make_run_row("x") | {"data": {"params": "text"}}, "x"),
            (make_run_row("x") | {"data": {"tags": [{"value": "1"}]}}, "x"),
            (make_run_row("x") | {"data": {"metrics": [{"key": "m", "value": "high"}]}}, "x"),
            (make_run_row("x") | {"inputs": None}, "x"),
            (make_run_row("x") | {"inputs": {"dataset_inputs": [{}]}}, "x"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("place", [0, 1], ids=["first", "last"])
    def test_runs(self, mlflow: FakeMlflow, row: object, name: str, place: int) -> None:
        rows = [make_run_row("a")]
        rows.insert(place, row)  # type: ignore[arg-type] # that is the point
        mlflow.answers["runs/search"] = (200, {}, json.dumps({"runs": rows}))
        found = list(open_reader().runs(["1"], ALL))
        assert ids_of(found) == ["a"]
        assert [(record.kind, record.what) for record in unreadable(found)] == [("run", name)]

    @pytest.mark.parametrize(
        ("row", "name"),
        [
            ({"experiment_id": "7"}, "7"),
            ({"name": "x"}, "x"),
            ({"experiment_id": "7", "name": "x", "creation_time": "soon"}, "x"),
            ({"experiment_id": "7", "name": "x", "tags": [1]}, "x"),
            ({"experiment_id": None, "name": "x"}, "x"),
            ({"experiment_id": "7", "name": ["x"]}, "['x']"),
            ({"experiment_id": "7", "name": "x", "lifecycle_stage": None}, "x"),
            ("text", "a str"),
        ],
        ids=str,
    )
    def test_experiments(self, mlflow: FakeMlflow, row: object, name: str) -> None:
        mlflow.experiments = [row, make_experiment_row("8")]
        found = list(open_reader().experiments())
        assert [(record.kind, record.what) for record in unreadable(found)] == [("experiment", name)]
        assert len(found) == 2

    @pytest.mark.parametrize(
        "row", [{"name": "x", "aliases": [{}]}, {"name": "x", "aliases": 5}, {"name": "x", "tags": 5}], ids=str
    )
    def test_registered_models(self, mlflow: FakeMlflow, row: object) -> None:
        mlflow.models = [row, {"name": "y"}]
        found = list(open_reader().registry())
        assert [(record.kind, record.what) for record in unreadable(found)] == [("registered model", "x")]
        assert len(found) == 2

    @pytest.mark.parametrize(
        ("row", "name"),
        [
            ({"name": "x"}, "x"),
            ({"version": "3"}, "a row without a name version 3"),
            ({"name": "x", "version": "3", "last_updated_timestamp": "soon"}, "x version 3"),
            ({"name": "x", "version": None}, "x version None"),
            ({"name": "x", "version": "3", "run_id": 5}, "x version 3"),
            (5, "a int"),
        ],
        ids=str,
    )
    def test_model_versions(self, mlflow: FakeMlflow, row: object, name: str) -> None:
        mlflow.models, mlflow.versions = [{"name": "x"}], [row, {"name": "x", "version": "4"}]
        found = list(open_reader().registry())
        assert [(record.kind, record.what) for record in unreadable(found)] == [("model version", name)]
        assert len(found) == 3
