"""MLflow's JSON as records: what is absent, written otherwise by older servers, or in another order."""

from __future__ import annotations

import json
import math

import pytest

from datahub_mlflow_source.readers import rows
from datahub_mlflow_source.records import DatasetInput, Experiment, Metric, ModelVersion, RegisteredModel, Run

NOW = 1_700_000_000_000
INFO = {"run_id": "a", "experiment_id": "1", "status": "FINISHED"}


class TestAbsentFields:
    """Protobuf leaves out what is empty or was never set."""

    def test_of_an_experiment(self) -> None:
        assert rows.experiment({"experiment_id": "1", "name": "churn"}) == Experiment(
            experiment_id="1",
            name="churn",
            artifact_location="",
            lifecycle_stage="active",
            creation_time=None,
            last_update_time=None,
            tags=(),
        )

    def test_of_a_run(self) -> None:
        assert rows.run({"info": INFO}) == Run(
            run_id="a",
            name="a",
            experiment_id="1",
            user_id="",
            status="FINISHED",
            start_time=None,
            end_time=None,
            artifact_uri="",
            lifecycle_stage="active",
            params=(),
            metrics=(),
            tags=(),
            datasets=(),
        )

    def test_of_a_registered_model(self) -> None:
        assert rows.registered_model({"name": "m"}) == RegisteredModel(
            name="m", creation_time=None, last_updated_time=None, description="", tags=(), aliases=()
        )

    def test_of_a_model_version(self) -> None:
        assert rows.model_version({"name": "m", "version": "1"}, ("champion",)) == ModelVersion(
            name="m",
            version="1",
            creation_time=None,
            last_updated_time=None,
            description="",
            user_id="",
            stage="None",
            source="",
            run_id="",
            status="",
            status_message="",
            run_link="",
            tags=(),
            aliases=("champion",),
        )

    def test_of_a_dataset(self) -> None:
        inputs = {"dataset_inputs": [{"dataset": {"name": "train"}}]}
        assert rows.run({"info": INFO, "inputs": inputs}).datasets == (
            DatasetInput(name="train", digest="", source_type="", source="", schema=None, profile=None, tags=()),
        )

    def test_of_a_tag_without_a_value(self) -> None:
        assert rows.experiment({"experiment_id": "1", "name": "x", "tags": [{"key": "k"}]}).tags == (("k", ""),)


class TestFullRows:
    def test_a_run_keeps_what_was_logged_sorted_by_key(self) -> None:
        data = {
            "params": [{"key": "lr", "value": "0.1"}, {"key": "depth", "value": "3"}],
            "metrics": [
                {"key": "loss", "value": 0.5, "timestamp": NOW, "step": 3},
                {"key": "auc", "value": 0.9, "timestamp": str(NOW), "step": "4"},
            ],
            "tags": [{"key": "b", "value": "2"}, {"key": "a", "value": "1"}],
        }
        run = rows.run({"info": INFO, "data": data})
        assert run.params == (("depth", "3"), ("lr", "0.1"))
        assert run.metrics == (Metric("auc", 0.9, NOW, 4), Metric("loss", 0.5, NOW, 3))
        assert run.tags == (("a", "1"), ("b", "2"))

    def test_a_run_keeps_what_the_server_says_about_it(self) -> None:
        info = {
            "run_name": "owl",
            "user_id": "ada",
            "start_time": NOW,
            "end_time": NOW + 5,
            "artifact_uri": "s3://b/a",
            "lifecycle_stage": "deleted",
        }
        run = rows.run({"info": INFO | info})
        assert (run.name, run.user_id, run.start_time, run.end_time) == ("owl", "ada", NOW, NOW + 5)
        assert (run.artifact_uri, run.lifecycle_stage) == ("s3://b/a", "deleted")

    def test_datasets_are_sorted_by_name_and_digest(self) -> None:
        fields = {"source_type": "s3", "source": "{}", "schema": "{1}", "profile": "{2}"}
        inputs = [
            {"dataset": {"name": "train", "digest": "2"}},
            {"dataset": {"name": "train", "digest": "1"} | fields, "tags": [{"key": "c", "value": "training"}]},
            {"dataset": {"name": "eval", "digest": "3"}},
        ]
        datasets = rows.run({"info": INFO, "inputs": {"dataset_inputs": inputs}}).datasets
        assert [(dataset.name, dataset.digest) for dataset in datasets] == [
            ("eval", "3"),
            ("train", "1"),
            ("train", "2"),
        ]
        assert datasets[1] == DatasetInput("train", "1", "s3", "{}", "{1}", "{2}", (("c", "training"),))

    def test_the_order_in_which_a_server_sends_datasets_does_not_matter(self) -> None:
        inputs = [{"dataset": {"name": "x"}, "tags": [{"key": "k", "value": value}]} for value in "ab"]
        one = rows.run({"info": INFO, "inputs": {"dataset_inputs": inputs}})
        other = rows.run({"info": INFO, "inputs": {"dataset_inputs": inputs[::-1]}})
        assert one == other

    def test_a_model_has_its_aliases_sorted(self) -> None:
        aliases = [{"alias": "champion", "version": 2}, {"alias": "best", "version": "2"}]
        assert rows.registered_model({"name": "m", "aliases": aliases}).aliases == (("best", "2"), ("champion", "2"))


@pytest.mark.parametrize(
    ("sent", "expected"), [(NOW, NOW), (str(NOW), NOW), (0, None), ("0", None), (None, None), (-1, -1)]
)
def test_times_come_as_numbers_or_text_and_0_means_never(sent: object, expected: int | None) -> None:
    assert rows.experiment({"experiment_id": "1", "name": "x", "creation_time": sent}).creation_time == expected


def test_ids_and_versions_are_text_whatever_the_server_sends() -> None:
    assert rows.experiment({"experiment_id": 1, "name": "x"}).experiment_id == "1"
    assert rows.run({"info": INFO | {"experiment_id": 1}}).experiment_id == "1"
    assert rows.model_version({"name": "m", "version": 3}, ()).version == "3"


def test_the_id_of_a_run_may_be_called_run_uuid() -> None:
    assert rows.run({"info": {"run_uuid": "a", "experiment_id": "1", "status": "FINISHED"}}).run_id == "a"


class TestMetricValues:
    """Protobuf writes what JSON has no number for as text; Python's own JSON as a bare word."""

    @pytest.mark.parametrize(
        ("sent", "expected"),
        [("1.5", 1.5), ('"1.5"', 1.5), ('"Infinity"', math.inf), ("-Infinity", -math.inf), ("1e400", math.inf)],
    )
    def test_numbers(self, sent: str, expected: float) -> None:
        assert self.value(sent) == expected

    @pytest.mark.parametrize("sent", ['"NaN"', "NaN"])
    def test_not_a_number(self, sent: str) -> None:
        assert math.isnan(self.value(sent))

    def test_a_value_that_is_absent_is_zero(self) -> None:
        assert rows.run({"info": INFO, "data": {"metrics": [{"key": "m"}]}}).metrics == (Metric("m", 0.0, 0, 0),)

    @staticmethod
    def value(sent: str) -> float:
        data = json.loads(f'{{"metrics": [{{"key": "m", "value": {sent}}}]}}')
        (metric,) = rows.run({"info": INFO, "data": data}).metrics
        return metric.value


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"info": {"run_id": "a", "experiment_id": "1"}}, "a"),
        ({"info": {"run_uuid": "a"}}, "a"),
        ({"experiment_id": "1", "name": "churn"}, "churn"),
        ({"name": "m", "version": "3", "run_id": "a"}, "m version 3"),
        ({}, "a row without a name"),
        (7, "a int"),
    ],
    ids=str,
)
def test_a_row_that_is_no_record_has_a_name_for_messages(row: object, expected: str) -> None:
    assert rows.name_of(row) == expected
