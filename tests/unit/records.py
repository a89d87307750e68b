"""Whole records for tests: `make_*` takes only what matters to the test, by the record's own field names.

Tags, params and aliases may be given as a dict; they are sorted as readers sort them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from datahub_mlflow_source.records import (
    DatasetInput,
    Experiment,
    LoggedModel,
    Metric,
    ModelMetric,
    ModelVersion,
    RegisteredModel,
    Run,
)

R = TypeVar("R", Experiment, Run, Metric, ModelMetric, DatasetInput, RegisteredModel, ModelVersion, LoggedModel)

START = 1_700_000_000_000  # epoch milliseconds: 2023-11-14, 22:13:20 UTC
END = START + 60_000
RUN_ID = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
MODEL_ID = "m-00112233445566778899aabbccddeeff"

_EXPERIMENT = Experiment(
    experiment_id="1",
    name="churn",
    artifact_location="mlflow-artifacts:/1",
    lifecycle_stage="active",
    creation_time=START,
    last_update_time=START,
    tags=(),
)
_RUN = Run(
    run_id=RUN_ID,
    name="bold-owl-7",
    experiment_id="1",
    user_id="ada",
    status="FINISHED",
    start_time=START,
    end_time=END,
    artifact_uri=f"mlflow-artifacts:/1/{RUN_ID}/artifacts",
    lifecycle_stage="active",
    params=(),
    metrics=(),
    tags=(),
    datasets=(),
)
_METRIC = Metric(key="auc", value=0.9, timestamp=END, step=0)
_DATASET = DatasetInput(
    name="train",
    digest="0f1e2d3c",
    source_type="s3",
    source='{"uri": "s3://bucket/train.csv"}',
    schema=None,
    profile=None,
    tags=(),
)
_MODEL = RegisteredModel(
    name="churn-model", creation_time=START, last_updated_time=END, description="", tags=(), aliases=()
)
_VERSION = ModelVersion(
    name="churn-model",
    version="1",
    creation_time=END,
    last_updated_time=END,
    description="",
    user_id="",
    stage="None",
    source=f"mlflow-artifacts:/1/{RUN_ID}/artifacts/model",
    run_id=RUN_ID,
    status="READY",
    status_message="",
    run_link="",
    tags=(),
    aliases=(),
)
_MODEL_METRIC = ModelMetric(
    key="auc", value=0.9, timestamp=END, step=0, run_id=RUN_ID, dataset_name="", dataset_digest=""
)
_LOGGED_MODEL = LoggedModel(
    model_id=MODEL_ID,
    name="classifier",
    experiment_id="1",
    source_run_id=RUN_ID,
    model_type="",
    status="READY",
    status_message="",
    artifact_uri=f"mlflow-artifacts:/1/models/{MODEL_ID}/artifacts",
    creation_time=END,
    last_updated_time=END,
    params=(),
    metrics=(),
    tags=(),
)


def make_experiment(**fields: Any) -> Experiment:
    """An active experiment `churn` with id 1."""
    return _made(_EXPERIMENT, fields)


def make_run(**fields: Any) -> Run:
    """A finished run of experiment 1 that logged nothing. `artifact_uri` follows `run_id`, unless given."""
    if "run_id" in fields:
        fields.setdefault("artifact_uri", f"mlflow-artifacts:/1/{fields['run_id']}/artifacts")
    return _made(_RUN, fields)


def make_metric(key: str = "auc", value: float = 0.9, **fields: Any) -> Metric:
    """The last value of a metric, at step 0."""
    return _made(_METRIC, {"key": key, "value": value, **fields})


def make_dataset_input(**fields: Any) -> DatasetInput:
    """An input `train` from S3, without schema, profile or context."""
    return _made(_DATASET, fields)


def make_model(**fields: Any) -> RegisteredModel:
    """A registered model `churn-model`; `aliases={"champion": "3"}` gives it one."""
    return _made(_MODEL, fields)


def make_version(**fields: Any) -> ModelVersion:
    """Version 1 of `churn-model`, ready, without stage, of the run that `make_run()` gives. Aliases: a tuple."""
    return _made(_VERSION, fields)


def make_logged_model(**fields: Any) -> LoggedModel:
    """A logged model `classifier`, ready, of the run that `make_run()` gives."""
    return _made(_LOGGED_MODEL, fields)


def make_model_metric(key: str = "auc", value: float = 0.9, **fields: Any) -> ModelMetric:
    """The last value of a metric of that model, at step 0, on no dataset."""
    return _made(_MODEL_METRIC, {"key": key, "value": value, **fields})


def _made(record: R, fields: Mapping[str, Any]) -> R:
    """The record with these fields changed. An unknown field is a TypeError."""
    changed = {name: _sorted(value) for name, value in fields.items()}
    if isinstance(record, Metric | ModelMetric):
        return type(record)(**{**record._asdict(), **changed})
    return replace(record, **changed)


def _sorted(value: Any) -> Any:
    return tuple(sorted(value.items())) if isinstance(value, dict) else value
