"""Logged models wait for their version or their run, each comes out once, in memory or in a file."""

from __future__ import annotations

from itertools import permutations

import pytest

from datahub_mlflow_source.logged_models import LoggedModelIndex
from datahub_mlflow_source.records import LoggedModel
from datahub_mlflow_source.versions import VersionIndex
from tests.unit.records import make_logged_model, make_version

OLD = make_logged_model(model_id="m-1", source_run_id="r1", creation_time=1)
NEW = make_logged_model(model_id="m-2", source_run_id="r1", creation_time=2)
SAME_TIME = make_logged_model(model_id="m-3", source_run_id="r1", creation_time=2)
OTHER = make_logged_model(model_id="m-4", source_run_id="r2")
NOBODYS = make_logged_model(model_id="m-5", source_run_id="")
ALSO_NOBODYS = make_logged_model(model_id="m-6", source_run_id="", creation_time=None)


@pytest.fixture(params=[1, 100_000], ids=["in a file", "in memory"])
def index(request: pytest.FixtureRequest) -> LoggedModelIndex:
    return LoggedModelIndex(100, request.param)


def fill(index: LoggedModelIndex, *models: LoggedModel) -> LoggedModelIndex:
    for model in models:
        index.add(model)
    return index


def test_those_of_a_run_come_the_latest_first(index: LoggedModelIndex) -> None:
    fill(index, OLD, OTHER, SAME_TIME, NEW)
    assert index.of_run("r1") == [NEW, SAME_TIME, OLD]
    assert index.take("r1") == [NEW, SAME_TIME, OLD]
    assert index.of_run("r1") == index.take("r1") == index.take("r9") == []
    assert list(index.take_all()) == [OTHER]


def test_of_one_run_only_the_latest_are_kept() -> None:
    index = LoggedModelIndex(2)
    assert [index.add(model) for model in (NEW, OLD, SAME_TIME, OTHER, NOBODYS, ALSO_NOBODYS)] == [
        *(True, True, False, True, True, True),
    ]
    assert index.take("r1") == [NEW, SAME_TIME]
    assert len(list(index.take_all())) == 3


def test_the_rest_comes_once() -> None:
    for order in permutations([OLD, NEW, NOBODYS, ALSO_NOBODYS]):
        index = fill(LoggedModelIndex(100, 1), *order)
        assert list(index.take_all()) == [NOBODYS, ALSO_NOBODYS, NEW, OLD]
        assert list(index.take_all()) == []


def test_those_that_were_registered_are_kept_for_all_their_versions(index: LoggedModelIndex) -> None:
    index.add_registered(OLD)
    assert index.registered("m-1") == index.registered("m-1") == OLD
    assert index.registered("m-2") is None
    assert index.registered("") is None
    assert list(index.take_all()) == []


class TestVersionsOfThem:
    LOST = make_version(version="2", run_id="", model_id="m-1")
    TWICE = make_version(name="other", version="1", run_id="", model_id="m-1")
    KNOWN = make_version(version="1", run_id="r1", model_id="m-2")
    WITHOUT = make_version(version="3", run_id="", model_id="")

    @pytest.fixture(params=[1, 100_000], ids=["in a file", "in memory"])
    def versions(self, request: pytest.FixtureRequest) -> VersionIndex:
        index = VersionIndex(request.param)
        for version in (self.LOST, self.TWICE, self.KNOWN, self.WITHOUT):
            index.add(version)
        return index

    def test_it_is_known_of_which_a_version_was_made(self, versions: VersionIndex) -> None:
        assert [versions.has_registered(model_id) for model_id in ("m-1", "m-2", "m-3", "")] == [
            True,
            True,
            False,
            False,
        ]

    def test_a_run_that_a_version_lost_comes_back(self, versions: VersionIndex) -> None:
        assert versions.run_ids() == ["r1"]
        versions.recover_runs({"m-1": "r7", "m-2": "r8", "m-9": "r9"})
        assert versions.run_ids() == ["r1", "r7"]
        assert [(v.name, v.version, v.run_id) for v in versions.take("r7")] == [
            ("churn-model", "2", "r7"),
            ("other", "1", "r7"),
        ]
        assert versions.take("r1") == [self.KNOWN]
        assert list(versions.take_all()) == [self.WITHOUT]

    def test_one_whose_logged_model_knows_none_comes_with_the_rest(self, versions: VersionIndex) -> None:
        versions.recover_runs({})
        assert {v.version for v in versions.take_all()} == {"1", "2", "3"}
