"""Metric histories come with their runs; where they can't be read the runs come without, and the report says so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import responses

from datahub_mlflow_source.connection import Connection
from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.histories import MetricHistories
from datahub_mlflow_source.mapping.histories import history_properties, less_is_better
from datahub_mlflow_source.mapping.rules import Limits, Trim
from datahub_mlflow_source.readers import rest_histories
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.rest_histories import RestHistories, summed_up
from datahub_mlflow_source.records import MetricHistory, Run
from datahub_mlflow_source.report import MlflowSourceReport
from tests.unit.records import START, make_metric, make_run

URL = "http://mlflow.test"
API = f"{URL}/api/2.0/mlflow/metrics/get-history"
BULK = f"{URL}/ajax-api/2.0/mlflow/metrics/get-history-bulk"
HISTORY = MetricHistory("auc", 3, START, START + 60_000, 0.9, 2, 0.5, 0)


class Values:
    """A server that holds values of one metric: (run, step, value), in the order in which MLflow gives them."""

    def __init__(self, *values: tuple[str, int, float | str], bulk_status: int = 200) -> None:
        self._values, self._bulk_status = values, bulk_status
        self.asked: list[tuple[str, ...]] = []

    def __enter__(self) -> RestHistories:
        self._mock = responses.RequestsMock(assert_all_requests_are_fired=False)
        self._mock.add_callback("GET", BULK, self._bulk)
        self._mock.add_callback("GET", API, self._one)
        self._mock.start()
        return RestHistories(MlflowHttp(Connection(URL, max_retries=0)))

    def __exit__(self, *_: object) -> None:
        self._mock.stop()

    def _bulk(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        query = parse_qs(urlsplit(str(request.url)).query)
        self.asked.append(("bulk", *query["run_id"]))
        return self._bulk_status, {}, self._answer(query["run_id"], int(query["max_results"][0]))

    def _one(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        query = parse_qs(urlsplit(str(request.url)).query)
        self.asked.append(("one", *query["run_id"]))
        return 200, {}, self._answer(query["run_id"], 10**9)

    def _answer(self, run_ids: Sequence[str], most: int) -> str:
        found = [
            {"key": "auc", "run_id": run_id, "step": step, "value": value, "timestamp": START + step}
            for run_id, step, value in self._values
            if run_id in run_ids
        ]
        return json.dumps({"metrics": found[:most]})


class TestOverRest:
    def test_runs_are_asked_for_together(self) -> None:
        server = Values(("a", 0, 0.5), ("a", 1, 0.9), ("a", 2, 0.7), ("b", 0, 0.1))
        with server as histories:
            found = histories.read({"b": ["auc"], "a": ["auc"]})
        assert server.asked == [("bulk", "a", "b")]
        assert found["a"] == (MetricHistory("auc", 3, START, START + 2, 0.9, 1, 0.5, 0),)
        assert found["b"] == (MetricHistory("auc", 1, START, START, 0.1, 0, 0.1, 0),)

    def test_a_run_that_is_gone_has_none(self) -> None:
        with Values(("a", 0, 0.5)) as histories:
            assert histories.read({"a": ["auc"], "b": ["auc"]}).keys() == {"a"}

    def test_what_a_full_answer_may_have_cut_is_asked_for_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rest_histories, "_MOST_VALUES", 3)
        values = [
            (run, step, float(step)) for run, steps in (("a", 2), ("b", 2), ("c", 7), ("d", 1)) for step in range(steps)
        ]
        server = Values(*values)
        with server as histories:
            found = histories.read({run_id: ["auc"] for run_id in "abcd"})
        assert {run_id: its[0].steps for run_id, its in found.items()} == {"a": 2, "b": 2, "c": 7, "d": 1}
        assert server.asked == [
            ("bulk", "a", "b", "c", "d"),
            ("bulk", "b", "c", "d"),
            ("bulk", "c", "d"),
            ("one", "c"),
            ("bulk", "d"),
        ]

    def test_a_server_without_the_bulk_route_is_asked_run_by_run(self) -> None:
        server = Values(("a", 0, 0.5), ("b", 0, 0.1), bulk_status=404)
        with server as histories:
            found = histories.read({"a": ["auc"], "b": ["auc"]})
            histories.read({"a": ["auc"]})
        assert {run_id: its[0].highest for run_id, its in found.items()} == {"a": 0.5, "b": 0.1}
        assert server.asked == [("bulk", "a", "b"), ("one", "a"), ("one", "b"), ("one", "a")]

    def test_a_failing_server_is_no_server_without_it(self) -> None:
        with Values(bulk_status=500) as histories, pytest.raises(PageError):
            histories.read({"a": ["auc"]})


def test_nan_is_a_step_but_never_the_best() -> None:
    values: list[dict[str, Any]] = [
        {"step": 0, "value": "NaN", "timestamp": 5},
        {"step": 1, "value": 0.5, "timestamp": 9},
    ]
    assert summed_up("auc", values) == MetricHistory("auc", 2, 5, 9, 0.5, 1, 0.5, 1)
    assert summed_up("auc", values[:1]) == MetricHistory("auc", 1, 5, 5, None, None, None, None)


def test_the_first_step_with_the_best_value_counts() -> None:
    values = [{"step": step, "value": value} for step, value in ((3, 0.9), (1, 0.9), (2, 0.9), (1, 0.2))]
    found = summed_up("auc", values)
    assert (found.steps, found.highest_step, found.lowest_step) == (3, 1, 1)


class Reader:
    """In place of a reader: fails as it is told, and counts."""

    def __init__(self, *answers: ServerError | None) -> None:
        self._answers: Iterator[ServerError | None] = iter(answers)
        self.asked: list[Mapping[str, Sequence[str]]] = []

    def metric_histories(
        self, keys_of: Mapping[str, Sequence[str]], experiment_of: Mapping[str, str]
    ) -> dict[str, tuple[MetricHistory, ...]]:
        assert keys_of.keys() <= experiment_of.keys()
        self.asked.append(keys_of)
        if error := next(self._answers, None):
            raise error
        return {run_id: (HISTORY._replace(key=keys[0]),) for run_id, keys in keys_of.items()}


def passed(reader: Reader, runs: Sequence[Run]) -> tuple[list[Run], MlflowSourceReport]:
    report = MlflowSourceReport()
    histories = MetricHistories(reader, lambda key: key.startswith("a"), report)  # type: ignore[arg-type]
    return list(histories.ahead(iter(runs))), report


class TestAhead:
    def test_only_the_wanted_metrics_are_asked_for(self) -> None:
        reader = Reader()
        with_auc = make_run(run_id="1" * 32, metrics=(make_metric("auc"), make_metric("loss")))
        without = make_run(run_id="2" * 32, metrics=(make_metric("loss"),))
        found, report = passed(reader, [with_auc, without])
        assert reader.asked == [{"1" * 32: ["auc"]}]
        assert [run.histories for run in found] == [(HISTORY,), ()]
        assert [run.run_id for run in found] == ["1" * 32, "2" * 32]
        assert list(report.warnings) == []

    def test_runs_without_such_metrics_cost_nothing(self) -> None:
        reader = Reader()
        passed(reader, [make_run()])
        assert reader.asked == []

    def test_a_failure_leaves_them_out_and_is_told(self) -> None:
        runs = [make_run(run_id=f"{number:032x}", metrics=(make_metric("auc"),)) for number in range(250)]
        found, report = passed(Reader(ServerError("too slow")), runs)
        assert [run.run_id for run in found] == [run.run_id for run in runs]
        assert sum(bool(run.histories) for run in found) == 150
        assert "100 runs" in str(list(report.warnings))
        assert "too slow" in str(list(report.warnings))

    def test_three_failures_are_enough(self) -> None:
        runs = [make_run(run_id=f"{number:032x}", metrics=(make_metric("auc"),)) for number in range(1000)]
        reader = Reader(*[ServerError("down")] * 10)
        found, report = passed(reader, runs)
        assert len(found) == 1000
        assert len(reader.asked) in (3, 4)  # one more may be on its way
        assert "No more of it is asked for" in str(list(report.warnings))


def properties(*histories: MetricHistory, limits: Limits | None = None) -> dict[str, str]:
    return dict(history_properties(histories, Trim(limits or Limits())))


class TestProperties:
    def test_all_of_it_is_said(self) -> None:
        assert properties(HISTORY) == {
            "metric.auc.best": "0.9",
            "metric.auc.best_step": "2",
            "metric.auc.best_is": "highest",
            "metric.auc.steps": "3",
            "metric.auc.first_time": "2023-11-14T22:13:20.000Z",
            "metric.auc.last_time": "2023-11-14T22:14:20.000Z",
        }

    def test_of_a_loss_the_lowest_is_the_best(self) -> None:
        found = properties(HISTORY._replace(key="val_loss"))
        assert (found["metric.val_loss.best"], found["metric.val_loss.best_step"]) == ("0.5", "0")
        assert found["metric.val_loss.best_is"] == "lowest"

    def test_where_all_are_nan_there_is_no_best(self) -> None:
        nothing = MetricHistory("auc", 1, 0, 10**18, None, None, None, None)
        found = properties(nothing)
        assert found["metric.auc.best"] == "nan"
        assert "metric.auc.best_step" not in found
        assert found["metric.auc.last_time"] == str(10**18)

    def test_no_more_than_the_limit(self) -> None:
        trim = Trim(Limits(max_metrics=1))
        found = list(history_properties([HISTORY, HISTORY._replace(key="b")], trim))
        assert {key.split(".")[1] for key, _ in found} == {"auc"}
        assert trim.cut == ["histories of metrics: 2, 1 sent"]

    @pytest.mark.parametrize(
        "key",
        [
            "loss",
            "val_loss",
            "logloss",
            "eval/loss",
            "train.RMSE",
            "mean_squared_error",
            "valLoss",
            "test mae",
            "ppl",
            "test-mlogloss-mean",
            "l2",
            "merror",
        ],
    )
    def test_less_is_better(self, key: str) -> None:
        assert less_is_better(key)

    @pytest.mark.parametrize(
        "key",
        [
            "auc",
            "accuracy",
            "f1",
            "glossary",
            "maestro_score",
            "r2",
            "recall@10",
            "times",
            "neg_mean_squared_error",
            "neg_log_loss",
        ],
    )
    def test_more_is_better(self, key: str) -> None:
        assert not less_is_better(key)
