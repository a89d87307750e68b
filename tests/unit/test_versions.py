"""Versions wait for their run, each comes out once, and in an order that does not depend on how they came in."""

from __future__ import annotations

from itertools import permutations

import pytest

from datahub_mlflow_source.records import ModelVersion
from datahub_mlflow_source.versions import VersionIndex, version_number
from tests.unit.records import make_version


@pytest.fixture(autouse=True, params=[1, 100_000], ids=["in a file", "in memory"])
def runs_in_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rule holds for both."""
    monkeypatch.setattr(VersionIndex.__init__, "__defaults__", (request.param,))


def index_of(*versions: ModelVersion) -> VersionIndex:
    index = VersionIndex(100_000)
    for version in versions:
        index.add(version)
    return index


def version(name: str, number: str, run_id: str = "") -> ModelVersion:
    return make_version(name=name, version=number, run_id=run_id)


class TestWaiting:
    A2, A10, B1 = version("a", "2", "r1"), version("a", "10", "r1"), version("b", "1", "r1")
    OTHER, WITHOUT = version("a", "3", "r2"), version("a", "1")

    def test_those_of_a_run_come_by_model_and_number(self) -> None:
        for order in permutations([self.A2, self.A10, self.B1, self.OTHER]):
            assert index_of(*order).of_run("r1") == [self.A2, self.A10, self.B1]

    def test_looking_takes_nothing_away(self) -> None:
        index = index_of(self.A2)
        assert index.of_run("r1") == index.of_run("r1") == [self.A2]
        assert index.run_ids() == ["r1"]

    def test_those_that_were_taken_wait_no_longer(self) -> None:
        index = index_of(self.A2, self.OTHER)
        assert index.take("r1") == [self.A2]
        assert index.take("r1") == index.of_run("r1") == []
        assert index.run_ids() == ["r2"]

    def test_a_run_without_versions_has_none(self) -> None:
        index = index_of(self.A2)
        assert index.of_run("r9") == index.take("r9") == []
        assert index.run_ids() == ["r1"]

    def test_the_rest_comes_once_by_run(self) -> None:
        for order in permutations([self.A2, self.OTHER, self.WITHOUT]):
            index = index_of(*order)
            assert list(index.take_all()) == [self.WITHOUT, self.A2, self.OTHER]
            assert list(index.take_all()) == []

    def test_no_run_is_waited_for_where_there_is_none(self) -> None:
        assert index_of(self.WITHOUT, self.OTHER).run_ids() == ["r2"]


class TestLatest:
    @pytest.mark.parametrize("numbers", list(permutations(["2", "10", "9"])))
    def test_it_is_the_highest_number_and_not_the_last_in_the_alphabet(self, numbers: tuple[str, ...]) -> None:
        assert index_of(*(version("a", number) for number in numbers)).latest("a") == "10"

    def test_it_is_known_after_the_version_was_taken(self) -> None:
        index = index_of(version("a", "1", "r1"))
        index.take("r1")
        assert index.latest("a") == "1"

    def test_a_model_without_versions_has_none(self) -> None:
        assert index_of(version("a", "1")).latest("b") is None


class TestRunsSent:
    def test_the_run_of_the_latest_version_comes_first_and_none_twice(self) -> None:
        index = VersionIndex(100_000)
        for number, run_id in [("2", "r2"), ("10", "r1"), ("9", "r2"), ("3", "r3")]:
            index.run_sent(version("a", number, run_id))
        assert index.runs_sent("a") == ["r1", "r2", "r3"]

    def test_a_run_that_was_not_sent_is_not_among_them(self) -> None:
        assert index_of(version("a", "1", "r1")).runs_sent("a") == []


@pytest.mark.parametrize(
    ("name", "number"), [("1", 1), ("10", 10), ("v2", 0), ("", 0), ("-1", 0), ("1.0", 0), ("²", 0)]
)
def test_a_version_that_is_no_number_counts_as_the_first(name: str, number: int) -> None:
    assert version_number(version("a", name)) == number
